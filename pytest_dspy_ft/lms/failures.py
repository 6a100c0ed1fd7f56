"""Whose fault a failed call is: the provider's, to be tried again or not at all, or the program's own.

DSPy 3.4 raises its own classes for what a provider answers, with the client's exception as the cause. A program may
also call a provider by itself, through the ``openai`` client or LiteLLM, so theirs are understood too.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

from dspy import (
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMError,
    LMInvalidRequestError,
    LMNotConfiguredError,
    LMProviderError,
    LMStreamAssemblyError,
    LMTimeoutError,
    LMUnexpectedError,
    LMUnsupportedModelError,
    is_retryable_lm_error,
)

from pytest_dspy_ft.constants import MODEL_PREFIX
from pytest_dspy_ft.insides.lm_calls import finite_seconds, retry_after_seconds
from pytest_dspy_ft.lms.withheld import AnswerWithheldError
from pytest_dspy_ft.redaction import plain_address, redact
from pytest_dspy_ft.text import shorten

E = TypeVar("E", bound=BaseException)

Verdict = Literal["transient", "fatal", "refused", "own"]

_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})

_FATAL_STATUS = frozenset({401, 402})

_REFUSED_STATUS = frozenset({403, 404, 451})
"""A web firewall, a moderation layer or a router refuses one input so; a key without rights, or no such model, all."""

_FATAL = (LMAuthError, LMBillingError, LMConfigurationError, LMUnsupportedModelError)

NO_CREDIT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""Codes of an account without credit: they travel as a rate limit, and waiting does not help."""

FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "promptFeedback"})
"""Codes of an input that a content filter refused, as OpenAI, Azure and Gemini put them on an invalid request."""

_CANDIDATE_BLOCKED = "Candidate blocked"

_CLIENTS = frozenset({"openai", "litellm"})

_WIRES = frozenset({"httpx", "httpx2", "httpcore", "requests", "urllib3", "aiohttp"})
"""What an engine of the user's own may reach its server with."""

_NO_ANSWER = frozenset({"APIConnectionError", "APITimeoutError", "Timeout"})
_NO_TIME = frozenset({"APITimeoutError", "Timeout"})


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it was raised from on purpose; not what merely happened before it."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__


def raised_within(error: BaseException | None, kind: type[E]) -> E | None:
    """The exception of a kind that another one was raised from on purpose, or is; None without one."""
    return next((one for one in _chain(error) if isinstance(one, kind)), None) if error is not None else None


def judge_failure(error: BaseException) -> Verdict:
    """Tell whose fault an exception is.

    Args:
        error: What a call of the program raised.

    Returns:
        ``transient``: the provider failed or asked to wait, and the same call may succeed later. ``fatal``: the
        provider will refuse every call of this LM (key, quota). ``refused``: it refuses this input (a content filter,
        HTTP 403 or 404), and would again; where it answers nothing else either, that is as good as fatal.
        ``own``: anything else, such as the program's own failure or a request that is wrong for this example.
    """
    for one in _chain(error):
        if isinstance(one, AnswerWithheldError):
            return "refused" if one.lasting else "transient"
        if isinstance(one, LMStreamAssemblyError):
            return "transient"
        if isinstance(one, LMUnexpectedError):
            continue  # the engine's own exception is its cause
        if isinstance(one, LMError):
            return _judge_lm_error(one)
        if type(one).__module__.partition(".")[0] in _CLIENTS:
            return _judge_client(one)
    return "transient" if _lost_its_server(error) else "own"


def _judge_lm_error(error: LMError) -> Verdict:
    if error.provider_code in NO_CREDIT_CODES:
        return "fatal"
    if is_retryable_lm_error(error) or error.status in _TRANSIENT_STATUS:
        return "transient"
    if _filtered(error) or error.status in _REFUSED_STATUS:
        return "refused"
    if isinstance(error, _FATAL) or error.status in _FATAL_STATUS:
        return "fatal"
    # DSPy knows no better class: a page instead of JSON, half a reply.
    unknown = type(error) is LMProviderError and (error.status is None or not 400 <= error.status < 500)
    return "transient" if unknown else "own"


def is_filtered(error: BaseException) -> bool:
    """True for a content filter, in words of the provider's: no key is in doubt there."""
    if any(isinstance(one, AnswerWithheldError) and one.lasting for one in _chain(error)):
        return True
    coded = {str(getattr(one, "provider_code", None) or getattr(one, "code", None)) for one in _chain(error)}
    return bool(coded & FILTER_CODES) or any(_filtered(one) for one in _chain(error) if isinstance(one, LMError))


def _filtered(error: LMError) -> bool:
    """True where a content filter refused an input, however the provider says so."""
    if error.provider_code in FILTER_CODES:
        return True
    if not isinstance(error, LMInvalidRequestError):
        return False
    client = {type(one).__name__ for one in _chain(error)}
    return str(error.message).startswith(_CANDIDATE_BLOCKED) or "ContentPolicyViolationError" in client


def _lost_its_server(error: BaseException) -> bool:
    """True where an LM of the user's own could not reach its server, or was not answered in time."""
    if not asked_lm(error):
        return False
    for one in _chain(error):
        if isinstance(one, ConnectionError | TimeoutError):
            return True
        if type(one).__module__.partition(".")[0] in _WIRES:
            status = getattr(getattr(one, "response", None), "status_code", None) or getattr(one, "status", None)
            return not isinstance(status, int) or status >= 500 or status in _TRANSIENT_STATUS
    return False


def _judge_client(error: BaseException) -> Verdict:
    status = getattr(error, "status_code", None)
    if any(cls.__name__ in _NO_ANSWER for cls in type(error).__mro__):
        return "transient"
    if not isinstance(status, int):
        return "own"
    if status in _TRANSIENT_STATUS:
        return "fatal" if getattr(error, "code", None) in NO_CREDIT_CODES else "transient"
    if status in _REFUSED_STATUS or getattr(error, "code", None) in FILTER_CODES:
        return "refused"
    return "transient" if status >= 500 else "fatal" if status in _FATAL_STATUS else "own"


def is_invalid_request(error: BaseException) -> bool:
    """True where a provider finds a request wrong for what it asks, or how: HTTP 400 or 422."""
    return any(isinstance(one, LMInvalidRequestError) for one in _chain(error)) or failure_status(error) in (400, 422)


def mark_lm_failure(error: BaseException, model: str = "") -> None:
    """Note on an exception that it came out of an LM, whatever its type: an engine may raise anything."""
    with contextlib.suppress(AttributeError, TypeError):
        error.__dspy_ft_lm_failed__ = model or True  # type: ignore[attr-defined]


def is_timeout(error: BaseException) -> bool:
    """True where nothing came in time, by whatever client's word."""
    return any(
        isinstance(one, LMTimeoutError | TimeoutError)
        or any(cls.__name__ in _NO_TIME for cls in type(one).__mro__ if cls.__module__.partition(".")[0] in _CLIENTS)
        for one in _chain(error)
    )


def failure_status(error: BaseException) -> int | None:
    """The HTTP status that a call failed with; None where there was none."""
    found = (getattr(one, "status", None) or getattr(one, "status_code", None) for one in _chain(error))
    return next((status for status in found if isinstance(status, int)), None)


def asked_lm(error: BaseException) -> str:
    """The model whose call failed, where the call was seen; empty for what came from elsewhere."""
    marks = (getattr(one, "__dspy_ft_lm_failed__", "") for one in _chain(error))
    return next((str(mark) for mark in marks if mark), "")


def failed_at_provider(error: BaseException) -> bool:
    """True where an LM or its provider failed; False for the program's, the metric's or the request's own fault.

    A refused request (too long, say) is the program's: it depends on what was answered before.
    """
    if judge_failure(error) != "own":
        return True
    chain = list(_chain(error))
    if any(isinstance(one, LMUnexpectedError) for one in chain):  # what DSPy makes of anything that an engine raises
        return True
    judged = any(isinstance(one, LMError) or type(one).__module__.partition(".")[0] in _CLIENTS for one in chain)
    return not judged and bool(asked_lm(error))


def retry_after(error: BaseException) -> float | None:
    """How many seconds the provider asks to wait; None where it does not say."""
    for one in _chain(error):
        if isinstance(hint := getattr(one, "retry_after", None), (int, float)):
            return float(hint)
        headers = getattr(getattr(one, "response", None), "headers", None) or {}
        if (milliseconds := finite_seconds(headers.get("retry-after-ms"))) is not None:
            return float(milliseconds) / 1000
        if (value := headers.get("retry-after")) is not None:
            seconds: float | None = retry_after_seconds(value)
            return seconds
    return None


def explain_refusal(error: BaseException, lm: Any) -> str:
    """One message for a failure that every further call would meet: what was refused, and what would be right.

    Args:
        error: An exception that :func:`judge_failure` calls fatal.
        lm: The LM that was called, as far as is known.
    """
    refused = next((one for one in _chain(error) if isinstance(one, LMError)), error)
    model = str(getattr(refused, "model", None) or getattr(lm, "model", "the LM"))
    if "/" not in model and "/" in str(getattr(lm, "model", "")):
        model = str(lm.model)  # the wire's name lacks the provider
    status = getattr(refused, "status", None) or getattr(refused, "status_code", None)
    where = f" (HTTP {status})" if status else ""
    return (
        f"{model} refuses to answer{where}: {_remedy(refused, status, model, lm)}\n  {describe_exception(error, 300)}"
    )


def _remedy(error: BaseException, status: int | None, model: str, lm: Any) -> str:
    if isinstance(error, LMUnsupportedModelError) or status == 404:
        address = plain_address(getattr(lm, "kwargs", {}).get("api_base"))
        place = f" at {address}" if address else ""
        return f"no such model{place}, or none that this key may use; check its name and the LM's api_base"
    if isinstance(error, LMBillingError) or status in (402, 429):
        return "the account's quota is used up, or it has no billing; waiting does not help"
    if isinstance(error, LMAuthError | LMNotConfiguredError) or status in (401, 403):
        variables = key_variables(model, error)
        names = " or ".join(variables)
        given = bool(getattr(lm, "kwargs", {}).get("api_key"))
        held = next((name for name in variables if os.environ.get(name)), None)
        if status == 403 and (given or held):
            key = "the api_key given to the LM" if given else f"the key in {held}"
            return f"{key} is known there, and may not do this: its rights, the model, the region or a network rule"
        if given:
            return f"the api_key given to the LM is not accepted; give a valid one, or leave it out and set {names}"
        if held:
            return f"the key in {held} is not accepted; give a valid one"
        return f"no key: set {names}, or give the LM api_key="
    return "the LM is not configured as its provider needs it"


def key_variables(model: str, error: BaseException | None = None) -> tuple[str, ...]:
    """The environment variables that hold a model's key."""
    named = tuple(str(name) for name in getattr(error, "env_keys", None) or ())
    if model.startswith(MODEL_PREFIX):
        return ("DSPY_SERVE_API_KEY",)  # it is served elsewhere
    provider = model.partition("/")[0]
    known = {"azure": ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"), "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY")}
    return named or known.get(provider, (f"{re.sub(r'[^A-Za-z0-9]+', '_', provider).upper()}_API_KEY",))


def describe_provider_failure(error: BaseException, limit: int = 500) -> str:
    """A provider's failure in one line; of an input it refused, the reason that it gave, without advice on keys."""
    if judge_failure(error) != "refused":
        return describe_exception(error, limit)
    refused = next((one for one in _chain(error) if isinstance(one, LMError)), error)
    status = getattr(refused, "status", None) or getattr(refused, "status_code", None)
    reason = str(getattr(refused, "message", "") or refused).strip().partition("\n")[0]
    return shorten(redact(f"this input was refused{f' (HTTP {status})' if status else ''}: {reason}"), limit)


def describe_exception(error: BaseException, limit: int = 500) -> str:
    """An exception in one line: its type and message, shortened, keys hidden."""
    text = redact(" ".join(f"{type(error).__name__}: {error}".split()))
    return shorten(text, limit)
