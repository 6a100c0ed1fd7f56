"""Every example evaluated several times: its score is the mean over its repeats, its repeats stay in its record.

Repeats measure how far an LM's own dice move a score; they do not make more examples of it. So an example's mean is one
observation, and intervals resample examples, never calls.

The first repeat is the evaluation as it is without repeats; each further one asks under another rollout id (and, where
the LM has a seed, another seed), so that no cache anywhere answers for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_dspy_ft.evaluation.evaluate import evaluate_examples
from pytest_dspy_ft.evaluation.programs import copy_program
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.experiment.experiment import Metric
from pytest_dspy_ft.progress import Progress
from pytest_dspy_ft.records.evaluation import ExampleResult, Outcome
from pytest_dspy_ft.records.usage import Usage

SAMPLING_MODULES = frozenset({"BestOfN", "Refine"})
"""DSPy's modules that raise the temperature by themselves."""


def samples(program: Any) -> bool:
    """Whether a program may answer differently when it is asked again.

    An LM samples at a temperature above 0. One that names no temperature answers greedily on an engine of its own, and
    as its provider likes on a provider's (OpenAI: 1.0), so there it samples.
    """
    if any(type(module).__name__ in SAMPLING_MODULES for _, module in program.named_sub_modules()):
        return True
    return any(_temperature(predictor) != 0 for predictor in program.predictors())


def evaluate_repeatedly(
    program: Any,
    examples: Sequence[Any],
    metric: Metric,
    runtime: Runtime,
    repeats: int,
    *,
    progress: Progress,
    title: str,
    done: Mapping[str, ExampleResult] | None = None,
    record: Callable[[ExampleResult], None] = lambda result: None,
) -> list[ExampleResult]:
    """Measure a program on examples, each so many times. Arguments and result are those of `evaluate_examples`.

    Args:
        program: A ``dspy.Module`` whose predictors carry their LMs.
        examples: The whole split.
        metric: ``(example, prediction) -> bool | float`` in [0, 1].
        runtime: LM, adapter and threads.
        repeats: How many times each.
        progress: Told how far it is.
        title: What progress calls this work.
        done: Single repeats that an interrupted evaluation already has, by `call_id`.
        record: Called with every new repeat.
    """
    if repeats == 1:
        return evaluate_examples(
            program, examples, metric, runtime, progress=progress, title=title, done=done, record=record
        )
    rounds = []
    for repeat in range(repeats):

        def record_repeat(result: ExampleResult, repeat: int = repeat) -> None:
            record(result.model_copy(update={"repeat": repeat}))

        known = {key.rpartition("#")[0]: e for key, e in (done or {}).items() if e.repeat == repeat}
        rounds.append(
            evaluate_examples(
                rollout(program, repeat),
                examples,
                metric,
                dataclasses.replace(runtime, lm=_rolled(runtime.lm, repeat)),
                progress=progress,
                title=f"{title} ({repeat + 1} of {repeats})",
                done=known,
                record=record_repeat,
            )
        )
    return [merged(results) for results in zip(*rounds, strict=True)]


def merged(results: Sequence[ExampleResult]) -> ExampleResult:
    """One example from its repeats: their mean score and their summed usage.

    Its outcome is the worst of theirs; how many were unparsed or failed is counted repeat by repeat. What is shown of
    it (prediction, error) is that of the first repeat with this outcome.
    """
    order: tuple[Outcome, ...] = ("error", "unparsed", "scored")
    shown = min(results, key=lambda result: order.index(result.outcome))
    return shown.model_copy(
        update={
            "score": min(math.fsum(result.score for result in results) / len(results), 1.0),
            "usage": sum((result.usage for result in results), Usage()),
            "repeat": None,
            "repeats": tuple(r.model_copy(update={"repeat": index}) for index, r in enumerate(results)),
        }
    )


def rollout(program: Any, repeat: int) -> Any:
    """A copy of a program that asks its LMs for another sample; the program itself for the first repeat."""
    if repeat == 0:
        return program
    program = copy_program(program)
    rolled: dict[int, Any] = {}
    for predictor in program.predictors():
        if _temperature(predictor) != 0:
            predictor.lm = rolled.setdefault(id(predictor.lm), _rolled(predictor.lm, repeat))
    return program


def _rolled(lm: Any, repeat: int) -> Any:
    if repeat == 0 or lm.kwargs.get("temperature") == 0:
        return lm
    seed = lm.kwargs.get("seed")
    return lm.copy(rollout_id=repeat, **({} if seed is None else {"seed": seed + repeat}))


def _temperature(predictor: Any) -> float | None:
    """The temperature a predictor's LM is asked at; None where its provider decides."""
    for settings in (predictor.config, predictor.lm.kwargs):
        if (temperature := settings.get("temperature")) is not None:
            return float(temperature)
    engine = getattr(predictor.lm, "engine", None)
    return None if engine is None or isinstance(engine, str) else 0.0
