"""Programs and metrics that are asynchronous, called from code that is not."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

_thread = threading.local()


def call_program(program: Any, inputs: dict[str, Any]) -> Any:
    """The program's answer: by ``forward`` where it has one, else by ``aforward``."""
    return wait_for(program.acall(**inputs)) if only_async(program) else program(**inputs)


def only_async(program: Any) -> bool:
    """True for a ``dspy.Module`` that can only be awaited: it has an ``aforward`` and no ``forward``."""
    if hasattr(type(program), "forward") or "forward" in vars(program):
        return False
    return hasattr(type(program), "aforward") or "aforward" in vars(program)


def with_forward(program: Any) -> Any:
    """Give a program that can only be awaited a ``forward``: DSPy's optimizers call it by that.

    Returns:
        The program, of a class that is named and reads like the one that was written.
    """
    if not only_async(program):
        return program
    written = type(program)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wait_for(self.aforward(*args, **kwargs))

    names = {name: getattr(written, name) for name in ("__module__", "__qualname__", "__doc__")}
    metaclass: Any = type(written)
    own = {**names, "forward": forward, "__dspy_ft_written__": written}
    program.__class__ = metaclass(written.__name__, (written,), own)
    return program


def awaited(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function returns, waited for where it is a coroutine or another awaitable."""
    value = function(*args, **kwargs)
    return wait_for(value) if inspect.isawaitable(value) else value


@contextlib.contextmanager
def one_event_loop() -> Iterator[None]:
    """Let all that is awaited in this thread inside the block run in one loop: clients keep their connections in it."""
    with contextlib.ExitStack() as stack:
        _thread.stack = stack
        try:
            yield
        finally:
            _thread.stack = _thread.runner = None


def wait_for(awaitable: Awaitable[Any]) -> Any:
    """The result of an awaitable, with DSPy's settings as they are here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:  # a notebook, or an asynchronous test: its loop cannot wait for itself
        return _in_a_thread(awaitable)
    if (runner := getattr(_thread, "runner", None)) is None:
        if (stack := getattr(_thread, "stack", None)) is None:
            return asyncio.run(_result_of(awaitable))
        runner = _thread.runner = stack.enter_context(asyncio.Runner())
    return runner.run(_result_of(awaitable), context=contextvars.copy_context())


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _in_a_thread(awaitable: Awaitable[Any]) -> Any:
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(_result_of(awaitable)))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=functools.partial(contextvars.copy_context().run, run), daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
