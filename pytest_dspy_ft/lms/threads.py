"""Threads that a program starts by itself: they see DSPy's settings as they were when the program was called.

In plain DSPy a bare thread sees what ``dspy.configure`` set, whatever ``dspy.context`` surrounds the code that starts
it. Here an LM is bound by a context, so a bare thread is given that one: the LM, the adapter and the stations that its
calls pass. Threads of ``dspy.Parallel``, ``asyncio.to_thread`` and the like bring settings of their own, which win.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pytest_dspy_ft.insides import lm_calls

R = TypeVar("R")

surrounding: list[Callable[[], contextlib.AbstractContextManager[None]]] = []
"""Called where such a thread begins, for what is entered around all that it does; the room that runs programs adds to
it."""

_carried: contextvars.ContextVar[Any] = contextvars.ContextVar("dspy_ft_carried", default=None)
"""DSPy's settings for threads that are started now; None where nothing of ours is under way."""


@contextlib.contextmanager
def carried_into_threads() -> Iterator[None]:
    """Let threads that are started inside the block have DSPy's settings as they are at its beginning."""
    token = _carried.set(lm_calls.setting_overrides())
    try:
        yield
    finally:
        _carried.reset(token)


def _start(thread: Any) -> None:
    """Takes the place of ``threading.Thread.start``."""
    settings = _carried.get()
    if settings is not None:
        thread.run = functools.partial(_within, settings, _around(), thread.run)
    lm_calls.start_thread(thread)


def _submit(pool: Any, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> Any:
    """Takes the place of ``ThreadPoolExecutor.submit``: a pool may outlive the call that gave it work."""
    settings = _carried.get()
    if settings is None:
        return lm_calls.submit(pool, function, *args, **kwargs)
    token = _carried.set(None)  # the thread itself carries nothing, this piece of work does
    try:
        return lm_calls.submit(pool, functools.partial(_within, settings, _around(), function), *args, **kwargs)
    finally:
        _carried.reset(token)


_Around = list[contextlib.AbstractContextManager[None]]


def _around() -> _Around:
    return [around() for around in surrounding]


def _within(settings: Any, around: _Around, function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    work = functools.partial(function, *args, **kwargs)
    return contextvars.copy_context().run(_carrying, settings, around, work)


def _carrying(settings: Any, around: _Around, function: Callable[[], R]) -> R:
    _carried.set(settings)
    lm_calls.override_settings(settings)
    with contextlib.ExitStack() as stack:
        for each in around:
            stack.enter_context(each)
        return function()


STANDING_IN = {"start": _start, "submit": _submit}
"""For :func:`pytest_dspy_ft.insides.lm_calls.StandingIn`."""
