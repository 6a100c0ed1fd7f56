"""When a request is made again, how long to wait before it, and what to say when it is given up.

What may pass (408, 409, 429, 5xx, a broken connection, a reply that cannot be read) is tried again with growing pauses,
or after as long as the service asks for. What will not pass by itself (400, 401, 403, 404, an empty account) is not.
"""

from __future__ import annotations

import email.utils
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpx
import openai
import tenacity

from pytest_dspy_ft.errors import HostedError
from pytest_dspy_ft.finetune.hosted.clients import Access
from pytest_dspy_ft.text import duration

T = TypeVar("T")

TRANSIENT_STATUS = frozenset({408, 409, 429})
NOT_OFFERED = 501
NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
LONGEST_RETRY_AFTER = 900.0
"""A service that asks for a longer pause than this is not waited for: 15 minutes."""


class UnreadableReplyError(Exception):
    """A reply that is not what the API promises: not JSON, or without what every such reply holds."""


class Clock(Protocol):
    """Time, so that tests need not wait."""

    def now(self) -> float:
        """Seconds, from an arbitrary start."""

    def sleep(self, seconds: float, wake: threading.Event) -> None:
        """Let time pass, less of it when ``wake`` is set."""


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Seconds, from an arbitrary start."""
        return time.monotonic()

    def sleep(self, seconds: float, wake: threading.Event) -> None:
        """Wait, until woken at most."""
        wake.wait(seconds)


@dataclass(frozen=True)
class Patience:
    """How long something is tried."""

    tries: int = 10
    first: float = 1.0
    """Seconds before the second try; doubled each time."""
    longest: float = 60.0


@dataclass(frozen=True)
class Caller:
    """Makes requests with patience, and puts their failures into words."""

    access: Access
    clock: Clock
    jitter: random.Random
    wake: threading.Event
    """Set when whoever waits for us has gone: nothing is tried again then."""
    patience: Patience = Patience()

    def pause(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            GoneError: If whoever waits for us has gone.
        """
        if not self.wake.is_set():
            self.clock.sleep(seconds, self.wake)
        if self.wake.is_set():
            raise GoneError

    def __call__(self, what: str, request: Callable[[], T]) -> T:
        """Make a request, again where that may help.

        Args:
            what: What is being done, for messages: ``"uploading the training file"``.
            request: Makes it once.

        Raises:
            HostedError: When it is given up, saying why and what to do; without the key, wherever it was echoed.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.patience.tries),
            wait=self._wait,
            retry=tenacity.retry_if_exception(is_transient),
            sleep=self.pause,
            reraise=True,
        )
        try:
            return retrying(request)
        except (openai.OpenAIError, ValueError, UnreadableReplyError) as error:
            raise self.failure(what, error) from None  # the cause may hold request headers

    def _wait(self, state: tenacity.RetryCallState) -> float:
        return self.pause_after(state.outcome.exception() if state.outcome is not None else None, state.attempt_number)

    def pause_after(self, error: BaseException | None, tries: int) -> float:
        """Seconds to wait after a failure, the ``tries``-th: what the service asks for, else longer each time."""
        if (asked := retry_after(error)) is not None:
            return asked + self.jitter.uniform(0, 0.1 * asked)
        pause = min(self.patience.first * 2.0 ** (tries - 1), self.patience.longest)
        return pause * self.jitter.uniform(0.5, 1.0)

    def failure(self, what: str, error: BaseException) -> HostedError:
        """A failed request in words: what was done, where, what came back, what to do."""
        text = f"{what} at {self.access.address} failed: {_told(error)}; {_advice(error, self.access)}"
        return HostedError(self.access.scrub(text))


class GoneError(Exception):
    """Whoever waited for this job has gone (an interrupt); what is known is written down."""


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, openai.APIStatusError):
        if error.status_code == 429 and error.code in NO_CREDIT:
            return False
        if (asked := retry_after(error)) is not None and asked > LONGEST_RETRY_AFTER:
            return False
        return error.status_code in TRANSIENT_STATUS or (error.status_code >= 500 and error.status_code != NOT_OFFERED)
    # A ValueError is how the client reports a reply that is not JSON.
    return isinstance(error, (openai.APIConnectionError, UnreadableReplyError, ValueError))


def is_ambiguous(error: BaseException) -> bool:
    """Whether a request that failed so may have been carried out nevertheless."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code >= 500 or error.status_code in (408, 409)
    if isinstance(error, openai.APIConnectionError):
        return not isinstance(error.__cause__, (httpx.ConnectError, httpx.ConnectTimeout))
    return isinstance(error, (UnreadableReplyError, ValueError))


def may_still_arrive(error: BaseException) -> bool:
    """Whether a request that failed so may be carried out later than now."""
    return is_ambiguous(error) and isinstance(error, openai.APIConnectionError)


def retry_after(error: BaseException | None) -> float | None:
    """Seconds that a service asked us to wait, by its ``Retry-After`` header; None where it did not."""
    if not isinstance(error, openai.APIStatusError):
        return None
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None


def _told(error: BaseException) -> str:
    """What the service said, in one line."""
    if isinstance(error, openai.APIStatusError):
        body: Any = error.body if isinstance(error.body, dict) else {}
        message = str(body.get("message") or error.message)
        extra = "".join(f", {name} {body[name]}" for name in ("code", "param") if body.get(name))
        return _line(f"HTTP {error.status_code}{extra}: {message}")
    if isinstance(error, openai.APITimeoutError):
        return "no reply in time"
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        return _line(f"no connection ({type(cause).__name__ if cause else 'unknown'}: {cause})")
    return f"the reply could not be read ({_line(str(error))})"


def _line(text: str, limit: int = 500) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _advice(error: BaseException, access: Access) -> str:
    status = error.status_code if isinstance(error, openai.APIStatusError) else None
    if status == 401:
        return f"the key ({access.key_source}) is not accepted: mend it and run again"
    if status == 403:
        return f"the key ({access.key_source}) may not do this: use one that may fine-tune this model"
    if status == 404:
        return "the model, file or job is unknown there: check the model's name, the address and the account"
    if status == 429 and getattr(error, "code", None) in NO_CREDIT:
        return "the account has no credit left: add some and run again"
    if (asked := retry_after(error)) is not None and asked > LONGEST_RETRY_AFTER:
        return f"the service asks to wait {duration(asked)}: run again after that, what is done is kept"
    if status is not None and not is_transient(error):
        return "the service refuses the request as it is: mend what it names and run again"
    return "it was tried again with growing pauses; run again later, what is done is kept"
