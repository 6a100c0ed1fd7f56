"""Collecting concurrent requests into batches whose composition does not depend on thread timing.

Callers work in lock-step: all replies of a batch are handed out together, and the next batch starts when the callers
are back. Without further knowledge that is when as many requests wait as were there at the end of one of the last two
batches, answered or arrived meanwhile, or when none has arrived for a moment. Who knows how many workers there are says
so (`Scheduler.expect`): then a batch starts exactly when every live worker waits, and the timer is only a safety net.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# Longest silence before a batch starts without all callers of the last one, in seconds.
QUIET_SECONDS = 0.02
# The same where workers are expected: only a worker that hangs or never asks makes this pass.
EXPECTED_SECONDS = 5.0


class Job:
    """A request that waits in the scheduler.

    Attributes:
        sort_key: Orders jobs within a batch; made from the request's content.
        result: The answer, once `done` is set without an `error`.
    """

    def __init__(self, sort_key: Any) -> None:
        self.sort_key = sort_key
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Event()


class Expectation:
    """A number of workers whose requests come in rounds. Made by `Scheduler.expect`.

    Attributes:
        live: How many workers have not reported to be done.
        opener: The thread that expects them.
    """

    def __init__(self, scheduler: Scheduler, workers: int) -> None:
        self._scheduler = scheduler
        self.live = workers
        self.opener = threading.get_ident()

    def worker_done(self) -> None:
        """Report that one worker will send no more requests. Reports beyond the number of workers are ignored."""
        with self._scheduler.changed:
            self.live = max(0, self.live - 1)
            self._scheduler.touch()


class Scheduler:
    """One daemon thread that answers jobs in batches. The thread starts with the first job."""

    def __init__(self, answer: Callable[[Sequence[Job]], None], enough: int) -> None:
        """Create a scheduler.

        Args:
            answer: Answers a batch by setting each job's `result` or `error`. What it raises goes to all of its jobs.
            enough: A batch of this size starts at once.
        """
        self._answer = answer
        self._enough = enough
        self._reset()
        _schedulers.add(self)

    def _reset(self) -> None:
        self.changed = threading.Condition()
        self._pending: list[Job] = []
        self._expectations: list[Expectation] = []
        # How many callers there were at the ends of the last two batches. Of one alone, those that came too late for it
        # would be forgotten after their own, smaller batch, and be late again: small and large batches would alternate.
        self._callers: deque[int] = deque(maxlen=2)
        self._last_event = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False
        self.batches = 0
        self.timeouts = 0

    def submit(self, job: Job) -> Any:
        """Wait for a job's answer. Interrupting the wait withdraws the job."""
        with self.changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dspy-ft-engine", daemon=True)
                self._thread.start()
            self._pending.append(job)
            self.touch()
        try:
            job.done.wait()
        except BaseException:  # KeyboardInterrupt in the main thread
            with self.changed, contextlib.suppress(ValueError):
                self._pending.remove(job)
            raise
        if job.error is not None:
            raise job.error
        return job.result

    @contextlib.contextmanager
    def expect(self, workers: int) -> Iterator[Expectation]:
        """Start batches exactly when every live worker waits for an answer.

        Args:
            workers: How many threads will send requests.
        """
        expectation = Expectation(self, workers)
        with self.changed:
            self._expectations.append(expectation)
            self.touch()
        try:
            yield expectation
        finally:
            with self.changed:
                if expectation in self._expectations:
                    self._expectations.remove(expectation)
                self.touch()

    def touch(self) -> None:
        """Note that something happened; the lock is held."""
        self._last_event = time.monotonic()
        self.changed.notify_all()

    def close(self) -> None:
        """End the thread after its current batch; jobs that still wait fail."""
        with self.changed:
            self._closed = True
            for job in self._pending:
                job.error = RuntimeError("the engine is closed")
                job.done.set()
            self._pending.clear()
            self.changed.notify_all()

    def _run(self) -> None:
        while True:
            with self.changed:
                batch = self._collect()
                if batch is None:
                    return
            batch.sort(key=lambda job: job.sort_key)
            try:
                self._answer(batch)
            except BaseException as exc:  # the thread must outlive anything, and callers must not wait forever
                for job in batch:
                    if job.result is None and job.error is None:
                        job.error = RuntimeError(f"the engine failed: {type(exc).__name__}: {exc}")
            with self.changed:
                self.batches += 1
                self._callers.append(len(batch) + len(self._pending))
                self._last_event = time.monotonic()
            for job in batch:
                job.done.set()

    def _collect(self) -> list[Job] | None:
        """Wait for a batch to be complete and take it; None when closed. The lock is held."""
        while not self._closed:
            if not self._pending:
                self.changed.wait()
                continue
            missing, patience = self._missing()
            remaining = self._last_event + patience - time.monotonic()
            if missing <= 0 or remaining <= 0:
                self.timeouts += missing > 0
                batch, self._pending = self._pending, []
                return batch
            self.changed.wait(remaining)
        return None

    def _missing(self) -> tuple[int, float]:
        """Return the number of requests to wait for, and the silence in seconds after which to stop waiting."""
        if self._expectations:
            # An expectation opened inside another by the same thread replaces it while it lasts.
            innermost = {expectation.opener: expectation for expectation in self._expectations}
            needed = sum(expectation.live for expectation in innermost.values())
            return max(needed, 1) - len(self._pending), EXPECTED_SECONDS
        # The first batch, and callers that come one by one after a pause, wait for company.
        needed = min(max(self._callers, default=self._enough), self._enough)
        return needed - len(self._pending), QUIET_SECONDS


_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()


def _after_fork() -> None:
    """Threads and held locks do not survive a fork."""
    for scheduler in _schedulers:
        scheduler._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
