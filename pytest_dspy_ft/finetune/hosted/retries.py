"""Requests made again where that may help, with growing pauses or after as long as the service asks for."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pytest_dspy_ft.finetune.hosted.clients import Access
from pytest_dspy_ft.finetune.hosted.failures import (
    LONGEST_RETRY_AFTER,
    REQUEST_FAILURES,
    failure_meaning,
    request_error,
)
from pytest_dspy_ft.lms.failures import retry_after
from pytest_dspy_ft.lms.patience import Backoff

T = TypeVar("T")

HOSTED_BACKOFF = Backoff(rounds=9, first=1.0, longest=60.0, longest_hint=LONGEST_RETRY_AFTER)


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

    access: Access
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
        if (asked := retry_after(error)) is not None:
            self.pause(asked + self.jitter.uniform(0, 0.1 * asked))
        else:
            self.pause(self.backoff.growing(tries - 1) * self.jitter.uniform(0.5, 1.0))

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
            except REQUEST_FAILURES as error:
                tries += 1
                if tries > self.backoff.rounds or failure_meaning(error) == "final":
                    raise request_error(what, error, self.access) from None  # the cause may hold request headers
                self.pause_after(error, tries)
