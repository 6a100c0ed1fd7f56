"""Stored outputs scored by today's metric: the program is not run, and no LM is called but a judge's."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pytest_dspy_ft.errors import ExperimentError
from pytest_dspy_ft.evaluation.coroutines import one_event_loop
from pytest_dspy_ft.evaluation.kept_predictions import KeptPredictions, UnrestorableError
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.evaluation.score import score_output
from pytest_dspy_ft.experiment.example_id import example_id
from pytest_dspy_ft.experiment.experiment import Metric
from pytest_dspy_ft.lms.calls import passing
from pytest_dspy_ft.progress import Progress
from pytest_dspy_ft.provenance.following import OWN_THREADS
from pytest_dspy_ft.records.evaluation import ExampleResult
from pytest_dspy_ft.records.output import Output


@dataclass(frozen=True)
class Scoring:
    """What outputs are scored with, and how it is done."""

    examples: Sequence[Any]
    """The split that the outputs are of."""
    metric: Metric
    runtime: Runtime
    """Its threads, its judge, and what is entered around each call of the metric."""
    progress: Progress
    title: str
    record: Callable[[ExampleResult], None] = lambda _: None
    """Called from worker threads with every result."""
    frozen: bool = False
    """A metric that asks an LM is an error."""
    whole: bool = False
    """Score none where one prediction cannot be given again."""


@dataclass
class Rescored:
    """What scoring outputs came to."""

    results: dict[str, list[ExampleResult]] = field(default_factory=dict)
    """By ``call_id``: copies of one example have one id."""
    unrestorable: dict[str, str] = field(default_factory=dict)
    """Why a prediction could not be given again, by ``call_id``: these calls are to be made anew."""


def score_outputs(outputs: Iterable[Output], kept: KeptPredictions, scoring: Scoring) -> Rescored:
    """Score outputs; those of examples that are not there are left out.

    Args:
        outputs: What calls of the program gave.
        kept: Gives their predictions again.
        scoring: What they are scored with.

    Raises:
        ExperimentError: If the metric asks for an LM, and there is none, or none may be asked.
    """
    scored, examples = Rescored(), {example_id(example): example for example in scoring.examples}
    todo: list[tuple[Output, Any, Any]] = []
    for output in outputs:
        if (example := examples.get(output.id)) is None:
            continue
        try:
            todo.append((output, example, kept.read(output) if output.scorable else None))
        except UnrestorableError as problem:
            scored.unrestorable[output.call_id] = str(problem)
    if scored.unrestorable and scoring.whole:
        return scored
    refused: list[str] = []

    def one(output: Output, example: Any, prediction: Any) -> ExampleResult:
        with one_event_loop(), scoring.runtime.judging():
            result = score_output(output, example, prediction, scoring.metric, scoring.runtime.judge)
        if refused:
            raise ExperimentError(refused[0])
        result = result.model_copy(update={"repeat": output.repeat})
        scoring.record(result)
        return result

    with (
        scoring.progress.task(scoring.title, total=len(todo), unit="examples") as shown,
        _no_calls(refused) if scoring.frozen else contextlib.nullcontext(),
        scoring.runtime.active(),
        ThreadPoolExecutor(scoring.runtime.threads(len(todo)), thread_name_prefix=OWN_THREADS) as pool,
    ):
        waiting = [pool.submit(contextvars.copy_context().run, one, *work) for work in todo]
        try:
            for number, (done, (output, *_)) in enumerate(zip(waiting, todo, strict=True), 1):
                scored.results.setdefault(output.call_id, []).append(done.result())
                shown.advance(number)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return scored


NO_CALLS = (
    "the metric asks an LM ({model}), and --dspy-frozen and rescore call none; run once without them, to have it judge "
    "the stored outputs"
)


class _NoCalls:
    """Takes the budget's place: no LM call passes."""

    def __init__(self, refused: list[str]) -> None:
        self._refused = refused

    def reserved(self, lm: Any, call: Any) -> contextlib.AbstractContextManager[None]:
        self._refused.append(NO_CALLS.format(model=lm.model))
        raise ExperimentError(self._refused[-1])

    def count(self, model: str, result: Any, asked: Any) -> None:
        self._refused.append(NO_CALLS.format(model=model))  # of a class that answers by itself: it is made, and told


def _no_calls(refused: list[str]) -> contextlib.AbstractContextManager[None]:
    return passing(budget=_NoCalls(refused))
