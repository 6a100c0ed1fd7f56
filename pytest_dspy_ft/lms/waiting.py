"""Waiting for an LM's answer no longer than it may take, and no longer than Ctrl-C leaves.

A client's own timeout limits the wait for the next byte: a server that sends one now and then is never late, and a
thread that waits in a socket cannot be woken. So a call is made in a thread of its own, which may be left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pytest_dspy_ft.lms.interruption import LOOK, Interruption
from pytest_dspy_ft.lms.threads import surrounding

R = TypeVar("R")

_idle: list[_Caller] = []
_here = threading.local()


class LateError(Exception):
    """There was no answer in time."""


class _Work:
    """One call on its way: what is to be run, and what became of it."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self.abandoned = False
        self.outcome: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._ask, self._context = ask, contextvars.copy_context()
        self._around = [around() for around in surrounding]

    def run(self) -> None:
        _here.work = self
        try:
            self.outcome.put((True, self._context.run(self._surrounded)))
        except BaseException as error:
            self.outcome.put((False, error))
        finally:
            _here.work = None

    def _surrounded(self) -> Any:
        with contextlib.ExitStack() as stack:
            for each in self._around:
                stack.enter_context(each)
            return self._ask()


class _Caller(threading.Thread):
    """A thread that makes calls, one after the other. The process ends without it."""

    def __init__(self) -> None:
        super().__init__(name="dspy-ft-call", daemon=True)
        self.work: queue.SimpleQueue[_Work] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            work = self.work.get()
            work.run()
            del work  # what it holds is somebody's program
            _idle.append(self)


def _begin(ask: Callable[[], Any]) -> _Work:
    work = _Work(ask)
    try:
        caller = _idle.pop()
    except IndexError:
        caller = _Caller()
        contextvars.Context().run(caller.start)  # it outlives the settings that are carried into threads begun here
    caller.work.put(work)
    return work


def is_abandoned() -> bool:
    """True in a call that nobody waits for any more: it is not to be tried again."""
    work = getattr(_here, "work", None)
    return work is not None and work.abandoned


def answer_in_time(ask: Callable[[], R], seconds: float | None, interruption: Interruption) -> R:
    """What a call gives, or raises.

    Args:
        ask: The call.
        seconds: How long it may take; None: as long as it takes.
        interruption: Ends the wait.

    Raises:
        LateError: There was no answer in time.
        KeyboardInterrupt: The work was interrupted, and there was no answer in the time that was left.
    """
    work = _begin(ask)
    end = float("inf") if seconds is None else time.monotonic() + seconds
    try:
        with interruption.awaiting():
            while True:
                try:
                    answered, outcome = work.outcome.get(timeout=max(0.0, min(LOOK, end - time.monotonic())))
                    break
                except queue.Empty:
                    _go_on(interruption, end)
    except BaseException:
        work.abandoned = True
        raise
    if not answered:
        raise outcome
    result: R = outcome
    return result


async def asynchronous_answer_in_time(
    asking: Coroutine[Any, Any, R], seconds: float | None, interruption: Interruption
) -> R:
    """What an asynchronous call gives; arguments and errors as those of :func:`answer_in_time`."""
    task = asyncio.ensure_future(asking)
    end = float("inf") if seconds is None else time.monotonic() + seconds
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=max(0.0, min(LOOK, end - time.monotonic())))
            if not task.done():
                _go_on(interruption, end)
        return task.result()
    finally:
        task.cancel()


def _go_on(interruption: Interruption, end: float) -> None:
    if interruption.over:
        interruption.check()
    if time.monotonic() >= end:
        raise LateError
