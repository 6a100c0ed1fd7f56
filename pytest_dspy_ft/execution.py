"""A program over many examples: concurrent, in order, and with failures as data.

DSPy's own executor stops at the tenth error, resubmits slow examples and forgets what failed. Here every example has
exactly one outcome, and one example's failure is never another's.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import dspy
from dspy.utils.exceptions import AdapterParseError

from pytest_dspy_ft.lms import concurrency
from pytest_dspy_ft.metering import measure
from pytest_dspy_ft.results import Usage

R = TypeVar("R")

NO_ERROR_LIMIT = 10**9

TraceStep = tuple[Any, dict[str, Any], Any]
"""One predictor call: the predictor, its inputs, its prediction."""


@dataclass(frozen=True)
class Call:
    """One call of the program and what became of it."""

    example: dspy.Example
    prediction: Any = None
    trace: Sequence[TraceStep] = ()
    """The predictor calls that succeeded, in order."""
    exception: Exception | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def unparsed(self) -> bool:
        """Whether the LM answered but the adapter could not read the answer."""
        return isinstance(self.exception, AdapterParseError)


@dataclass(frozen=True)
class Runtime:
    """What a program runs with."""

    lm: Any
    adapter: Any
    num_threads: int | None = None

    def threads(self, examples: int) -> int:
        """Threads for so many examples: as asked, else what the LM prefers; never more than there is work."""
        return max(1, min(self.num_threads or concurrency(self.lm), examples))

    @contextlib.contextmanager
    def active(self, **settings: Any) -> Iterator[None]:
        """DSPy set up for this runtime, for this block only."""
        threads = self.num_threads or concurrency(self.lm)
        # DSPy's optimizers give up at the tenth unreadable reply; to them it shall be a wrong answer like any other.
        with dspy.context(lm=self.lm, adapter=self.adapter, num_threads=threads, max_errors=NO_ERROR_LIMIT, **settings):
            yield


def run_program(
    program: Any,
    examples: Sequence[Any],
    runtime: Runtime,
    then: Callable[[Call], R],
    finished: Callable[[int], None] = lambda count: None,
) -> list[R]:
    """Call the program on every example and hand each call to ``then``, in the thread that made it.

    Args:
        program: A ``dspy.Module`` whose predictors carry their LMs.
        examples: The examples, with inputs set. They are started in this order.
        runtime: LM, adapter and threads.
        then: Turns a finished call into a result; it must not raise for bad data.
        finished: Called in this thread with the number of examples done so far.

    Returns:
        One result for each example, in the order of ``examples``.
    """
    results: list[Any] = [None] * len(examples)
    todo = iter(list(enumerate(examples)))
    done: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
    lock = threading.Lock()
    stop = threading.Event()
    workers = runtime.threads(len(examples))

    def work(leave: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                with lock:
                    index, example = next(todo, (-1, None))
                if index < 0:
                    return
                context = contextvars.copy_context()
                done.put((index, context.run(lambda e=example: then(_call(program, e)))))  # type: ignore[misc]
        except BaseException as error:
            stop.set()
            done.put((-1, error))
        finally:
            leave()

    with runtime.active(), _expecting(runtime.lm, workers) as leave:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="dspy-ft")
        try:
            for _ in range(workers):
                pool.submit(contextvars.copy_context().run, work, leave)
            for count in range(1, len(examples) + 1):
                index, result = done.get()  # type: ignore[misc]
                if index < 0:
                    raise result
                results[index] = result
                finished(count)
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return results


def _call(program: Any, example: Any) -> Call:
    with measure(trace=[]) as meter:
        prediction, exception = None, None
        try:
            prediction = program(**example.inputs())
        except Exception as error:
            exception = error
        return Call(example, prediction, tuple(dspy.settings.trace or ()), exception, meter.usage)


@contextlib.contextmanager
def _expecting(lm: Any, workers: int) -> Iterator[Callable[[], None]]:
    """Tell an engine that batches how many callers there are, so that its batches do not depend on timing."""
    expect = getattr(getattr(lm, "engine", None), "expect", None)
    if expect is None:
        yield lambda: None
        return
    with expect(workers) as expectation:
        yield expectation.worker_done


def describe_exception(error: BaseException, limit: int = 500) -> str:
    """An exception in one line: its type and message, shortened."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
