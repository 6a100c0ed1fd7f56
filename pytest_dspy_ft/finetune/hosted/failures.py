"""Failed requests to a fine-tuning service: what each means, and how it is told.

What may pass (408, 409, 429, 5xx, a broken connection, a reply that cannot be read) is worth another try. What will not
pass by itself (400, 401, 403, 404, an empty account) is final.
"""

from __future__ import annotations

from typing import Any, Literal

import httpx
import openai

from pytest_dspy_ft.errors import HostedError
from pytest_dspy_ft.finetune.hosted.clients import Access
from pytest_dspy_ft.lms.failures import NO_CREDIT_CODES, judge_failure, retry_after
from pytest_dspy_ft.text import duration, shorten

NOT_OFFERED = 501
LONGEST_RETRY_AFTER = 900.0
"""A service that asks for a longer pause than this is not waited for: 15 minutes."""


class UnreadableReplyError(Exception):
    """A reply that is not what the API promises: not JSON, or without what every such reply holds."""


FailureMeaning = Literal["final", "not_done", "unknown", "in_flight"]
REQUEST_FAILURES = (openai.OpenAIError, ValueError, UnreadableReplyError)
"""Raised by requests; a ValueError is how the client reports a reply that is not JSON."""


def failure_meaning(error: BaseException) -> FailureMeaning:
    """The meaning of a failure for its request: whether it was made, and may be made again.

    Returns:
        ``final``: the same request would fail again. All others may succeed a little later. ``not_done``: it was turned
        away, or never reached the service. ``unknown``: it may have been carried out. ``in_flight``: it may have been
        carried out, or may still be.
    """
    if isinstance(error, (UnreadableReplyError, ValueError)):
        return "unknown"
    status = getattr(error, "status_code", None)
    if status == NOT_OFFERED or _asked_to_wait(error) > LONGEST_RETRY_AFTER or judge_failure(error) != "transient":
        return "final"
    if status is None:
        never_sent = isinstance(error.__cause__, (httpx.ConnectError, httpx.ConnectTimeout))
        return "not_done" if never_sent else "in_flight"
    return "unknown" if status >= 500 or status in (408, 409) else "not_done"


def request_error(what: str, error: BaseException, access: Access) -> HostedError:
    """A failed request in words: what was done, where, what came back, what to do; without the key."""
    return HostedError(
        access.scrub(f"{what} at {access.address} failed: {_description(error)}; {_advice(error, access)}")
    )


def _asked_to_wait(error: BaseException) -> float:
    return retry_after(error) or 0.0


def _description(error: BaseException) -> str:
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


def _advice(error: BaseException, access: Access) -> str:
    status = error.status_code if isinstance(error, openai.APIStatusError) else None
    if status == 401:
        return f"the key ({access.key_source}) is not accepted: mend it and run again"
    if status == 403:
        return f"the key ({access.key_source}) may not do this: use one that may fine-tune this model"
    if status == 404:
        return "the model, file or job is unknown there: check the model's name, the address and the account"
    if status == 429 and getattr(error, "code", None) in NO_CREDIT_CODES:
        return "the account has no credit left: add some and run again"
    if (asked := _asked_to_wait(error)) > LONGEST_RETRY_AFTER:
        return f"the service asks to wait {duration(asked)}: run again after that, what is done is kept"
    if status is not None and failure_meaning(error) == "final":
        return "the service refuses the request as it is: mend what it names and run again"
    return "it was tried again with growing pauses; run again later, what is done is kept"
