"""Requests made again where that may help, with growing pauses or after as long as the service asks for."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pytest_dspy_ft.errors import DspyFtError, HostedError
from pytest_dspy_ft.finetune.hosted.port import (
    FailureMeaning,
    FileNotReady,
    NotServedYet,
    TrainingService,
    UnreadableReplyError,
)
from pytest_dspy_ft.lms.failures import retry_after
from pytest_dspy_ft.lms.patience import Backoff
from pytest_dspy_ft.text import duration, shorten

T = TypeVar("T")

LONGEST_RETRY_AFTER = 900.0
"""A service that asks for a longer pause than this is not waited for: 15 minutes."""
FOR_EVER = 365 * 86_400.0
HOSTED_BACKOFF = Backoff(rounds=9, first=1.0, longest=60.0, longest_hint=LONGEST_RETRY_AFTER)

_UNREADABLE = (UnreadableReplyError, ValueError, TypeError, AttributeError, LookupError)
"""What clients, and who reads their replies, raise of a reply that is not what it should be."""


class Clock:
    """Real time; tests that need not wait put another in its place."""

    def now(self) -> float:
        """Seconds, from an arbitrary start."""
        return time.monotonic()

    def sleep(self, seconds: float, wake: threading.Event) -> None:
        """Wait, until woken at most."""
        wake.wait(seconds)


class WatchStoppedError(Exception):
    """Whoever waited for this job has gone (an interrupt); what is known is written down."""


@dataclass(frozen=True)
class RetryingCaller:
    """Makes requests with patience, and puts their failures into words."""

    service: TrainingService
    clock: Clock
    jitter: random.Random
    wake: threading.Event
    """Set when whoever waits for us has gone: nothing is tried again then."""
    backoff: Backoff = HOSTED_BACKOFF

    def pause(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            WatchStoppedError: If whoever waits for us has gone.
        """
        if not self.wake.is_set():
            self.clock.sleep(seconds, self.wake)
        if self.wake.is_set():
            raise WatchStoppedError

    def pause_after(self, error: BaseException, tries: int) -> None:
        """Let time pass after a failure, the ``tries``-th: what the service asks for, else longer each time."""
        if (asked := asked_pause(error)) is not None:
            self.pause(asked + self.jitter.uniform(0, 0.1 * asked))
        else:
            self.pause(self.backoff.growing(tries - 1) * self.jitter.uniform(0.5, 1.0))

    def meaning(self, error: BaseException) -> FailureMeaning | None:
        """The meaning of an error for its request; None for what is no failed request."""
        if isinstance(error, (DspyFtError, NotServedYet, FileNotReady, WatchStoppedError)):
            return None
        meaning = self.service.meaning(error)
        if meaning is None:
            return "unknown" if isinstance(error, _UNREADABLE) else None
        return "final" if (asked_pause(error) or 0.0) > LONGEST_RETRY_AFTER else meaning

    def error(self, what: str, error: BaseException) -> HostedError:
        """A failed request in words: what was done, where, what came back, what to do; without the key."""
        asked = asked_pause(error) or 0.0
        if self.service.meaning(error) is None:
            told = f"the reply could not be read ({shorten(' '.join(f'{error}'.split()), 500)})"
            advice = "it was tried again with growing pauses; run again later, what is done is kept"
        else:
            told, advice = self.service.describe(error), self.service.advice(error)
        if asked > LONGEST_RETRY_AFTER:
            wait = duration(asked) if asked < FOR_EVER else "for longer than a year"
            advice = f"the service asks to wait {wait}: run again after that, what is done is kept"
        return HostedError(self.service.scrub(f"{what} at {self.service.address} failed: {told}; {advice}"))

    def __call__(self, what: str, request: Callable[[], T]) -> T:
        """Make a request, again where that may help.

        Args:
            what: What is being done, for messages: ``"uploading the training file"``.
            request: Makes it once.

        Raises:
            HostedError: When it is given up, saying why and what to do; without the key, wherever it was echoed.
        """
        tries = 0
        while True:
            try:
                return request()
            except Exception as error:
                if (meaning := self.meaning(error)) is None:
                    raise
                tries += 1
                if tries > self.backoff.rounds or meaning == "final":
                    raise self.error(what, error) from None  # the cause may hold request headers
                self.pause_after(error, tries)


def asked_pause(error: BaseException) -> float | None:
    """Seconds that the service asks to wait; None where it does not say, or says what is no time (``inf``)."""
    try:
        asked = retry_after(error)
    except (ValueError, TypeError, OverflowError, AttributeError):
        return None
    return max(asked, 0.0) if asked is not None and math.isfinite(asked) else None
