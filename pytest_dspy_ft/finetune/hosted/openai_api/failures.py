"""Failed requests over OpenAI's API: what each means, and how it is told.

What may pass (408, 409, 429, 5xx, a broken connection, a reply that cannot be read) is worth another try. What will not
pass by itself (400, 401, 403, 404, an empty account) is final. The client is told by its classes' names: before its
version 3 they stand on httpx, then on httpx2.
"""

from __future__ import annotations

import re
from typing import Any, Final

import openai

from pytest_dspy_ft.finetune.hosted.openai_api.access import Access
from pytest_dspy_ft.finetune.hosted.port import FailureMeaning
from pytest_dspy_ft.lms.failures import NO_CREDIT_CODES, judge_failure
from pytest_dspy_ft.text import shorten

NOT_OFFERED: Final = 501
_NEVER_SENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError"})
"""Classes of httpx and httpx2 for requests that never left."""
_UNKNOWN_WORDS: Final = re.compile(
    r"unrecogni[sz]ed|unknown|unexpected|unsupported|not supported|not (?:yet )?available|not (?:permitted|allowed)|"
    r"not accept|no such|extra (?:inputs|fields|arg|param|prop)|additional propert|extra_forbidden|"
    r"invalid (?:field|key)",
    re.IGNORECASE,
)
_UNREADY_WORDS: Final = re.compile(
    r"(?:still|being|currently|not yet|yet to be)\s+(?:being\s+)?(?:process|validat|upload|check|scann|index|pending)|"
    r"not (?:been )?(?:yet )?(?:ready|processed|validated|available yet)|"
    r"(?:is|in|status:?) ?'?(?:pending|processing)\b",
    re.IGNORECASE,
)


def failure_meaning(error: BaseException) -> FailureMeaning | None:
    """The meaning of a failure for its request; None for what is no failed request."""
    if isinstance(error, openai.APIResponseValidationError):
        return "unknown"
    if isinstance(error, openai.APIConnectionError):
        return "not_done" if _never_sent(error) else "in_flight"
    if not isinstance(error, openai.OpenAIError):
        return None
    status = getattr(error, "status_code", None)
    if status == NOT_OFFERED or judge_failure(error) != "transient":
        return "final"
    # A gateway that gave up waiting says 5xx or 408, and what it handed on may be carried out all the same.
    return "not_done" if status is not None and status not in (408, 409) and status < 500 else "in_flight"


def _never_sent(error: BaseException) -> bool:
    """True for a connection that was refused or never made, whichever library it was to be made with."""
    cause = error.__cause__
    names = {kind.__name__ for kind in type(cause).__mro__} if cause is not None else set()
    return bool(names & _NEVER_SENT)


def refused_argument(error: openai.APIStatusError, names: tuple[str, ...]) -> str | None:
    """The argument of a request that a service does not know, of those that may be left out; None for any other fault.

    Args:
        error: HTTP 400 or 422.
        names: The arguments.
    """
    text = _text(error)
    code = str(getattr(error, "code", "") or "")
    unknown = bool(_UNKNOWN_WORDS.search(f"{text} {code.replace('_', ' ')}")) or code == "unknown_parameter"
    if not unknown:
        return None
    param = str(getattr(error, "param", "") or "")
    if param in names:
        return param
    located = {str(part) for item in _details(error.body) for part in item.get("loc", ())[-1:]}
    for name in names:
        if name in located or (not param and re.search(rf"(?<![\w.]){name}(?![\w.])", text)):
            return name
    return None


def is_unready(error: openai.APIStatusError, files: tuple[str, ...]) -> bool:
    """True where a service says that a file, one of these, is not ready yet."""
    text = _text(error)
    about_file = "file" in text.lower() or any(file in text for file in files)
    return about_file and bool(_UNREADY_WORDS.search(text))


def _details(body: Any) -> list[dict[str, Any]]:
    """What FastAPI says of each wrong argument."""
    detail = body.get("detail") if isinstance(body, dict) else None
    return [item for item in detail if isinstance(item, dict)] if isinstance(detail, list) else []


def _text(error: openai.APIStatusError) -> str:
    return f"{error.message} {error.body}"


def description(error: BaseException) -> str:
    """The reply, or the lack of one, in one line."""
    if isinstance(error, openai.APIStatusError):
        body: Any = error.body if isinstance(error.body, dict) else {}
        message = str(body.get("message") or error.message)
        extra = "".join(f", {name} {body[name]}" for name in ("code", "param") if body.get(name))
        return _one_line(f"HTTP {error.status_code}{extra}: {message}")
    if isinstance(error, openai.APITimeoutError):
        return "no reply in time"
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        return _one_line(f"no connection ({type(cause).__name__ if cause else 'unknown'}: {cause})")
    return f"the reply could not be read ({_one_line(str(error))})"


def _one_line(text: str) -> str:
    return shorten(" ".join(text.split()), 500)


def advice(error: BaseException, access: Access) -> str:
    """What to do about a failure, as the end of a sentence."""
    status = error.status_code if isinstance(error, openai.APIStatusError) else None
    if status == 401:
        return f"the key ({access.key_source}) is not accepted: mend it and run again"
    if status == 403:
        more = (
            "; OpenAI takes jobs only from organizations that asked a fine-tuned model in the last 60 days"
            if access.official
            else ""
        )
        return f"the key ({access.key_source}) may not do this: use one that may fine-tune this model{more}"
    if status == 404:
        return "the model, file or job is unknown there: check the model's name, the address and the account"
    if status == 429 and getattr(error, "code", None) in NO_CREDIT_CODES:
        return "the account has no credit left: add some and run again"
    if status is not None and failure_meaning(error) == "final":
        return "the service refuses the request as it is: mend what it names and run again"
    return "it was tried again with growing pauses; run again later, what is done is kept"
