"""A program on a split: every example measured once, none ever left out of the denominator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_dspy_ft.evaluation.run import Call, Runtime, run_program
from pytest_dspy_ft.evaluation.score import Metrics, output_of, score_output
from pytest_dspy_ft.evaluation.trial import MetricTrial
from pytest_dspy_ft.experiment.example_id import example_id
from pytest_dspy_ft.experiment.metrics import Metric
from pytest_dspy_ft.progress import Progress
from pytest_dspy_ft.records.evaluation import ExampleResult, Outcome
from pytest_dspy_ft.records.output import Output
from pytest_dspy_ft.text import percent

_SAID: Mapping[Outcome, str] = {"unparsed": "unparsed", "error": "failed"}
"""Outcomes other than a score, as progress says them."""


@dataclass(frozen=True)
class Measurement:
    """Examples to measure programs on, and how it is done."""

    examples: Sequence[Any]
    """The whole split."""
    metric: Metric
    """``(example, prediction) -> bool | float`` in [0, 1]."""
    runtime: Runtime
    """LM, adapter and threads."""
    progress: Progress
    """Told how far it is."""
    title: str
    """Names this work where progress is shown."""
    done: Mapping[str, ExampleResult] = field(default_factory=dict)
    """Results that an interrupted evaluation already has, by `call_id`."""
    further: Mapping[str, Metric] = field(default_factory=dict)
    """The experiment's further metrics, by name."""
    untried: bool = False
    """No answer has been scored by these metrics yet: the first are scored before others are paid for."""
    record: Callable[[ExampleResult], None] = lambda result: None
    """Called from worker threads, one at a time each, with every new result."""
    keep: Callable[[Output, Call], None] = lambda output, call: None
    """Called before ``record``, with what the call gave and the call itself."""


def evaluate_examples(program: Any, measurement: Measurement) -> list[ExampleResult]:
    """Measure a program once on each example.

    Args:
        program: A ``dspy.Module``; predictors without an LM of their own run on the runtime's.
        measurement: What it is measured on, and how.

    Returns:
        One result for each example, in their order.

    Raises:
        MetricError: If the metrics are untried, and what one returned for a first answer is no score.
    """
    examples, known = measurement.examples, measurement.done
    ids = {id(example): example_id(example) for example in examples}  # now: a metric may alter an example
    todo = [example for example in examples if ids[id(example)] not in known]

    untried = measurement.untried and not any(result.outcome == "scored" for result in known.values())
    trial = MetricTrial(measurement.runtime.lm, todo) if untried else None
    metrics = Metrics(measurement.metric, measurement.further, measurement.runtime.judge)

    scores = [result.score for result in known.values()]
    outcomes = Counter(result.outcome for result in known.values())

    def then(call: Call) -> ExampleResult:
        strict = trial is not None and trial.holds(call.example)
        output = output_of(call, ids[id(call.example)])
        measurement.keep(output, call)
        with measurement.runtime.judging():
            result = score_output(output, call.example, call.prediction, metrics, strict)
        if trial is not None:
            trial.note(result)
        measurement.record(result)
        scores.append(result.score)
        outcomes[result.outcome] += 1
        return result

    def said(score: str) -> str:
        parts = [f"{score} {percent(sum(scores) / len(scores))}"] if scores else []
        return ", ".join([*parts, *(f"{outcomes[name]} {word}" for name, word in _SAID.items() if outcomes[name])])

    with measurement.progress.task(measurement.title, total=len(examples), unit="examples") as task:
        already = len(examples) - len(todo)

        def advanced(count: int, why: str = "") -> None:
            task.advance(already + count, note=why or said("score so far"))

        answered = any(result.fault != "provider" for result in known.values())
        alone = measurement.runtime.alone if trial is None else trial.goes_on
        runtime = replace(measurement.runtime, answered=answered, alone=alone)
        fresh = run_program(program, todo, runtime, then, advanced, advanced)
        task.advance(len(examples), note=said("score"))
    measured = {id(example): result for example, result in zip(todo, fresh, strict=True)}
    return [measured.get(id(example)) or known[ids[id(example)]] for example in examples]
