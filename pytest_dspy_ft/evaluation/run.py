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
from dataclasses import dataclass, field
from typing import Any, TypeVar

import dspy

from pytest_dspy_ft.errors import ProviderError, RecordingError, ServingError
from pytest_dspy_ft.evaluation.coroutines import call_program, one_event_loop
from pytest_dspy_ft.evaluation.judge import NOBODY, Judge
from pytest_dspy_ft.experiment.copies import copy_fields
from pytest_dspy_ft.insides.adapters import is_unreadable
from pytest_dspy_ft.lms.budget import BudgetStop
from pytest_dspy_ft.lms.calls import current_path, passing, unguarded
from pytest_dspy_ft.lms.failures import (
    asked_lm,
    describe_exception,
    explain_refusal,
    failed_at_provider,
    is_filtered,
    judge_failure,
    raised_within,
    retry_after,
)
from pytest_dspy_ft.lms.interruption import LOOK, Interruption
from pytest_dspy_ft.lms.patience import DEFAULT_PATIENCE, Patience
from pytest_dspy_ft.lms.resolve import concurrency, runs_here
from pytest_dspy_ft.lms.threads import carried_into_threads, surrounding
from pytest_dspy_ft.lms.usage import measure
from pytest_dspy_ft.provenance.following import OWN_THREADS, following_here
from pytest_dspy_ft.records.output import Reply
from pytest_dspy_ft.records.usage import Usage
from pytest_dspy_ft.redaction import remember_secrets_of

R = TypeVar("R")

NO_ERROR_LIMIT = 10**9

SPREAD = 8
"""So many examples from all over a split are asked when the first ones were all refused."""

surrounding.append(following_here)

TraceStep = tuple[Any, dict[str, Any], Any]
"""One predictor call: the predictor, its inputs, its prediction."""


@dataclass(frozen=True)
class Call:
    """One call of the program and what became of it."""

    example: dspy.Example
    prediction: Any = None
    trace: Sequence[TraceStep] = ()
    """The predictor calls that succeeded, in order; empty where nobody asked for them."""
    exception: Exception | None = None
    """What the program raised."""
    lm_failure: Exception | None = None
    """What the provider failed, or withheld, and nothing made good: raised, or caught by the program."""
    usage: Usage = field(default_factory=Usage)
    replies: Sequence[Reply] = ()
    """The LM's answers, in the order in which they came; empty where nobody asked for them."""

    @property
    def unparsed(self) -> bool:
        """True if the LM answered, but the adapter could not read the answer."""
        return self.lm_failure is None and self.exception is not None and is_unreadable(self.exception)

    @property
    def provider_failed(self) -> bool:
        """True if the provider failed, rather than the program or the reply: the same call may succeed later."""
        return self.failure is not None and judge_failure(self.failure) == "transient"

    @property
    def failure(self) -> Exception | None:
        """What failed: the provider, whatever the program made of that, or else what the program raised."""
        return self.lm_failure or self.exception


@dataclass(frozen=True)
class Runtime:
    """LM, adapter, threads and patience that a program runs with, and the LM for its metric.

    The LM is bound as ``dspy.configure(lm=...)`` would: what a predictor or a ``dspy.context`` inside the program says
    comes first.
    """

    lm: Any
    adapter: Any
    num_threads: int | None = None
    patience: Patience = DEFAULT_PATIENCE
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """Entered around each call of the program, in the thread that makes it."""
    judging: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """Entered around each call of the metric, in the thread that makes it."""
    answered: bool = False
    """True where the LM is known to answer: what it refuses, it refuses for what is asked, and not for the key."""
    traced: bool = False
    """True where somebody reads the traces: they are copied call by call."""
    keeps: bool = False
    """True where somebody reads the LM's answers."""
    judge: Judge = NOBODY
    """Whose LM answers the metric."""
    alone: Callable[[], bool] = lambda: False
    """Asked before the first round and after each example of it that was run alone: is the next one to be, too?"""

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
    waiting: Callable[[int, str], None] = lambda count, why: None,
) -> list[R]:
    """Call the program on every example and hand each call to ``then``, in the thread that made it.

    Calls that fail by the provider's fault are made again after all others, in rounds with a growing pause and ever
    fewer threads: a rate limit slows the work down, and fails nothing.

    Args:
        program: A ``dspy.Module``; predictors without an LM of their own run on the runtime's.
        examples: The examples, with inputs set. They are started in this order.
        runtime: LM, adapter, threads and patience.
        then: Turns a finished call into a result; it must not raise for bad data.
        finished: Called in this thread with the number of examples done so far.
        waiting: Called in this thread before each pause, with the number of examples done and the reason.

    Returns:
        One result for each example, in the order of ``examples``.

    Raises:
        ProviderError: As soon as the provider refuses in a way that every further call would meet.
        RecordingError: As soon as a call is not recorded and may not be made.
        ServingError: If a server that is to answer for a model of this machine has lost its adapter for good.
    """
    for predictor in program.predictors():
        remember_secrets_of(predictor.lm)
    remember_secrets_of(runtime.lm)
    with passing():
        return _in_rounds(program, examples, runtime, then, finished, waiting)


def _in_rounds(
    program: Any,
    examples: Sequence[Any],
    runtime: Runtime,
    then: Callable[[Call], R],
    finished: Callable[[int], None],
    waiting: Callable[[int, str], None],
) -> list[R]:
    path, patience = current_path(), runtime.patience
    results: dict[int, Any] = {}

    def doubts() -> bool:
        return all(_doubtful(call, runtime, answered) for call in failed.values())

    failed: dict[int, Call] = {}
    answered: set[str] = set()
    todo, threads = list(range(len(examples))), runtime.threads(len(examples))
    vain_pauses = -1  # pauses after which nothing succeeded; before the first one there was no pause
    while todo:
        before = len(results)
        chosen = [(i, examples[i]) for i in todo]
        while chosen and vain_pauses < 0 and runtime.alone():
            failed |= _one_round(program, chosen[:1], runtime, 1, then, results, finished, answered)
            del chosen[0]
        if chosen:
            failed |= _one_round(program, chosen, runtime, threads, then, results, finished, answered)
        others = [index for index in todo if index not in failed and index not in results]
        if failed and others and doubts():
            # A file may begin with what a filter refuses: others are asked, from all over it, the last ones first.
            chosen = [(i, examples[i]) for i in others[:: -max(1, len(others) // SPREAD)][:SPREAD]]
            failed |= _one_round(program, chosen, runtime, threads, then, results, finished, answered)
        refused = {index: call for index, call in failed.items() if index not in results and not call.provider_failed}
        if refused and doubts():
            error = next(call.failure for call in refused.values() if call.failure is not None)
            raise ProviderError(explain_refusal(error, _called_lm(program, runtime))) from error
        for index, call in refused.items():
            if not _doubtful(call, runtime, answered):  # it answers others: this input is what it refused
                with runtime.active():
                    results[index] = then(call)
                finished(len(results))
        vain_pauses = 0 if len(results) > before else vain_pauses + 1
        todo = [index for index in todo if index not in results]
        failed = {index: call for index, call in failed.items() if index not in results}
        errors = [call.failure for call in failed.values() if call.failure is not None]
        if todo and not errors:
            continue  # they were spared while nobody knew whether the key is refused
        if not todo or vain_pauses >= patience.rounds:
            break
        asked_for = [seconds for error in errors if (seconds := retry_after(error)) is not None]
        pause = patience.wait(vain_pauses, asked_for)
        models = sorted({asked_lm(error) for error in errors})
        if pause is None or not any(path.providers.may_wait(model, pause) for model in models):
            break
        waiting(len(results), f"{len(todo)} to try again in {pause:.0f} s: {describe_exception(errors[-1], 80)}")
        path.pause(patience, pause, models)
        threads = max(1, threads // 2)
    for index in todo:  # the provider never came back: these could not be measured
        with runtime.active():
            last = failed.get(index)
            results[index] = then(last or Call(examples[index], lm_failure=errors[-1]))
        finished(len(results))
    return [results[index] for index in range(len(examples))]


def _one_round(
    program: Any,
    chosen: Sequence[tuple[int, Any]],
    runtime: Runtime,
    workers: int,
    then: Callable[[Call], Any],
    results: dict[int, Any],
    finished: Callable[[int], None],
    answered: set[str],
) -> dict[int, Call]:
    """Call the program once on each chosen example; results are added to ``results``, models to ``answered``.

    Returns:
        By index, the calls that failed by the provider's fault, or may have. When nothing but such failures comes back,
        the round ends early, and some of the chosen are in neither.
    """
    todo = iter(chosen)
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    lock = threading.Lock()
    stop = threading.Event()
    workers = max(1, min(workers, len(chosen)))
    started = 0

    def one(example: Any) -> Any:
        with runtime.around():
            call = _call(program, example, runtime)
        failure = call.failure
        if isinstance(failure, RecordingError):
            raise failure
        if (unserved := raised_within(failure, ServingError)) is not None:  # no score of it would be the adapter's
            raise unserved
        if failure is not None and judge_failure(failure) == "fatal":
            raise ProviderError(explain_refusal(failure, _called_lm(program, runtime))) from failure
        answered.update(call.usage.models)
        return call if call.provider_failed or _doubtful(call, runtime, answered) else then(call)

    def work(leave: Callable[[], None]) -> None:
        with one_event_loop():
            work_in_turn(leave)

    def work_in_turn(leave: Callable[[], None]) -> None:
        nonlocal started
        try:
            while not stop.is_set():
                with lock:
                    index, example = (-1, None) if stop.is_set() else next(todo, (-1, None))
                    started += index >= 0
                if index < 0:
                    return
                context = contextvars.copy_context()
                done.put((index, context.run(one, example)))
        except BaseException as error:
            stop.set()
            done.put((-1, error))
        finally:
            leave()

    failed: dict[int, Call] = {}
    failures_in_a_row = received = 0
    with runtime.active(), unguarded(), _expecting(runtime.lm, workers) as leave:
        crew = [_begin(contextvars.copy_context(), work, leave, runtime.lm) for _ in range(workers)]
        finish = False
        try:
            while received < (started if stop.is_set() else len(chosen)):
                index, result = done.get()
                if index < 0:
                    finish = isinstance(result, BudgetStop)  # calls under way are paid for: let them be recorded
                    raise result
                received += 1
                if isinstance(result, Call):
                    failed[index] = result
                    failures_in_a_row += 1
                    if failures_in_a_row >= 2 * workers + 2:  # the provider is down: spare the other examples
                        with lock:
                            stop.set()
                    continue
                failures_in_a_row = 0
                results[index] = result
                finished(len(results))
        except KeyboardInterrupt:
            stop.set()
            _join(crew, current_path().interruption)  # what arrives meanwhile is written down by its thread
            raise
        finally:
            stop.set()
            if finish:
                _join(crew, current_path().interruption)
    return failed


def _begin(
    context: contextvars.Context, work: Callable[[Callable[[], None]], None], leave: Callable[[], None], lm: Any
) -> threading.Thread:
    """A thread that does its share of the work. The process does not wait for it, unless it computes."""
    name = f"{OWN_THREADS}-worker"
    thread = threading.Thread(target=context.run, args=(work, leave), name=name, daemon=not runs_here(lm))
    thread.start()
    return thread


def _join(crew: Sequence[threading.Thread], interruption: Interruption) -> None:
    """Wait until all threads are done, or Ctrl-C leaves no more time."""
    for thread in crew:
        while thread.is_alive() and not interruption.over:
            thread.join(LOOK)


def _doubtful(call: Call, runtime: Runtime, answered: set[str]) -> bool:
    """True where it cannot be told yet whether a provider refused an input or, with HTTP 403 or 404, all of them."""
    if call.failure is None or judge_failure(call.failure) != "refused" or runtime.answered:
        return False
    model = asked_lm(call.failure)
    if current_path().providers.answers(model):
        return False
    return not is_filtered(call.failure) and not (model in answered if model else answered)


def _called_lm(program: Any, runtime: Runtime) -> Any:
    return next((predictor.lm for predictor in program.predictors() if predictor.lm is not None), runtime.lm)


class _InputsAsAsked(list[TraceStep]):
    """A trace that keeps the inputs of each predictor call as they were then, whatever the program does to them."""

    def append(self, step: TraceStep) -> None:
        predictor, inputs, prediction = step
        super().append((predictor, copy_fields(inputs), prediction))


def _call(program: Any, example: Any, runtime: Runtime) -> Call:
    trace: list[TraceStep] = _InputsAsAsked() if runtime.traced else []
    with measure(keeps=runtime.keeps, trace=trace) as meter, carried_into_threads():
        prediction, exception = None, None
        try:
            prediction = call_program(program, copy_fields(dict(example.inputs().items())))
        except Exception as error:
            exception = error
        failure = meter.failure
        if failure is None and exception is not None and failed_at_provider(exception):
            failure = exception  # the program asked by itself, past all that we see
        steps = tuple(trace) if runtime.traced else ()
        return Call(example, prediction, steps, exception, failure, meter.usage, tuple(meter.replies))


@contextlib.contextmanager
def _expecting(lm: Any, workers: int) -> Iterator[Callable[[], None]]:
    """Tell an engine that batches how many callers there are, so that its batches do not depend on timing."""
    expect = getattr(getattr(lm, "engine", None), "expect", None)
    if expect is None:
        yield lambda: None
        return
    with expect(workers) as expectation:
        yield expectation.worker_done
