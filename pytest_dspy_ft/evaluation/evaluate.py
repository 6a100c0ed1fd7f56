"""A program on a split: every example measured once, none ever left out of the denominator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_dspy_ft.evaluation.run import Call, Runtime, run_program
from pytest_dspy_ft.evaluation.score import score_call
from pytest_dspy_ft.experiment.example_id import example_id
from pytest_dspy_ft.experiment.experiment import Metric
from pytest_dspy_ft.progress import Progress
from pytest_dspy_ft.records.evaluation import ExampleResult


def evaluate_examples(
    program: Any,
    examples: Sequence[Any],
    metric: Metric,
    runtime: Runtime,
    *,
    progress: Progress,
    title: str,
    done: Mapping[str, ExampleResult] | None = None,
    record: Callable[[ExampleResult], None] = lambda result: None,
) -> list[ExampleResult]:
    """Measure a program on examples.

    Args:
        program: A ``dspy.Module`` whose predictors carry their LMs.
        examples: The whole split.
        metric: ``(example, prediction) -> bool | float`` in [0, 1].
        runtime: LM, adapter and threads.
        progress: Told how far it is.
        title: What progress calls this work.
        done: Results that an interrupted evaluation already has, by example id.
        record: Called from worker threads, one at a time each, with every new result.

    Returns:
        One result for each example, in their order.
    """
    ids = {id(example): example_id(example) for example in examples}  # now: a metric may alter an example
    known = dict(done or {})
    todo = [example for example in examples if ids[id(example)] not in known]

    def then(call: Call) -> ExampleResult:
        result = score_call(call, metric, ids[id(call.example)])
        record(result)
        return result

    with progress.task(title, total=len(examples), unit="examples") as task:
        already = len(examples) - len(todo)

        def advanced(count: int, why: str = "") -> None:
            task.advance(already + count, note=why)

        fresh = run_program(program, todo, runtime, then, advanced, advanced)
    measured = {id(example): result for example, result in zip(todo, fresh, strict=True)}
    return [measured.get(id(example)) or known[ids[id(example)]] for example in examples]
