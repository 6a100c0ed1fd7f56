"""Every example evaluated several times: its score is the mean over its repeats, its repeats stay in its record.

Repeats measure how far an LM's own dice move a score; they do not make more examples of it. So an example's mean is one
observation, and intervals resample examples, never calls.

The first repeat is the evaluation as it is without repeats; each further one asks under another rollout id (and, where
the LM has a seed, another seed), so that no cache anywhere answers for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from pytest_dspy_ft.evaluation.evaluate import Measurement, evaluate_examples
from pytest_dspy_ft.evaluation.programs import copy_program
from pytest_dspy_ft.evaluation.run import Call
from pytest_dspy_ft.records.evaluation import WORST_FIRST, ExampleResult, MetricScore
from pytest_dspy_ft.records.output import Output
from pytest_dspy_ft.records.usage import Usage

SAMPLING_MODULES = frozenset({"BestOfN", "Refine"})
"""DSPy's modules that raise the temperature by themselves."""


def samples(program: Any, lm: Any = None) -> bool:
    """True for a program that may answer differently when it is asked again.

    An LM samples at a temperature above 0. One that names no temperature answers greedily on an engine of its own, and
    as its provider likes on a provider's (OpenAI: 1.0), so there it samples.

    Args:
        program: The program.
        lm: The LM of its predictors without one of their own.
    """
    if any(type(module).__name__ in SAMPLING_MODULES for _, module in program.named_sub_modules()):
        return True
    return any(_temperature(predictor, lm) != 0 for predictor in program.predictors())


def evaluate_repeatedly(program: Any, measurement: Measurement, repeats: int) -> list[ExampleResult]:
    """Measure a program on examples, each so many times.

    Args:
        program: A ``dspy.Module``; predictors without an LM of their own run on the runtime's.
        measurement: What it is measured on, and how; what is done and recorded are single repeats.
        repeats: How many times each.

    Returns:
        One result for each example, in their order: the mean of its repeats.
    """
    if repeats == 1:
        return evaluate_examples(program, measurement)
    rounds, lm = [], measurement.runtime.lm
    for repeat in range(repeats):

        def record_repeat(result: ExampleResult, repeat: int = repeat) -> None:
            measurement.record(result.model_copy(update={"repeat": repeat}))

        def keep_repeat(output: Output, call: Call, repeat: int = repeat) -> None:
            measurement.keep(output.model_copy(update={"repeat": repeat}), call)

        one = dataclasses.replace(
            measurement,
            runtime=dataclasses.replace(measurement.runtime, lm=_rolled(lm, repeat)),
            title=f"{measurement.title} ({repeat + 1} of {repeats})",
            done={key.rpartition("#")[0]: e for key, e in measurement.done.items() if e.repeat == repeat},
            record=record_repeat,
            untried=measurement.untried and repeat == 0,
            keep=keep_repeat,
        )
        rounds.append(evaluate_examples(rollout(program, lm, repeat), one))
    return [merged(results) for results in zip(*rounds, strict=True)]


def merged(results: Sequence[ExampleResult]) -> ExampleResult:
    """One example from its repeats: their mean score and their summed usage.

    Its outcome is the worst of theirs; how many were unparsed or failed is counted repeat by repeat. What is shown of
    it (prediction, error) is that of the first repeat with this outcome.
    """
    shown = min(results, key=lambda result: WORST_FIRST.index(result.outcome))
    return shown.model_copy(
        update={
            "score": min(math.fsum(result.score for result in results) / len(results), 1.0),
            "usage": sum((result.usage for result in results), Usage()),
            "judge": _judges(results),
            "further": {name: _merged_score([r.by_metric(name) for r in results]) for name in _further(results)},
            "repeat": None,
            "repeats": tuple(r.model_copy(update={"repeat": index}) for index, r in enumerate(results)),
        }
    )


def _merged_score(results: Sequence[ExampleResult]) -> MetricScore:
    """What a further metric says of an example, from what it says of its repeats."""
    shown = min(results, key=lambda result: WORST_FIRST.index(result.outcome))
    return MetricScore(
        score=min(math.fsum(result.score for result in results) / len(results), 1.0),
        error=shown.error,
        fault=shown.fault,
        feedback=shown.feedback,
        judge=_judges(results),
    )


def _further(results: Sequence[ExampleResult]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.further))


def _judges(results: Sequence[ExampleResult]) -> Usage | None:
    judges = [result.judge for result in results if result.judge is not None]
    return sum(judges, Usage()) if judges else None


def rollout(program: Any, lm: Any, repeat: int) -> Any:
    """A copy of a program that asks the LMs of its own for another sample; the program itself for the first repeat.

    Args:
        program: The program.
        lm: The LM of its predictors without one of their own, which is asked for another sample by other means.
        repeat: Which repeat, from 0.
    """
    if repeat == 0:
        return program
    program = copy_program(program)
    rolled: dict[int, Any] = {}
    for predictor in program.predictors():
        greedy = _temperature(predictor, lm) == 0
        if greedy and predictor.lm is None:
            predictor.config = {**predictor.config, "rollout_id": None}  # another sample of it would be the same one
        elif not greedy and predictor.lm is not None:
            predictor.lm = rolled.setdefault(id(predictor.lm), _rolled(predictor.lm, repeat))
    return program


def _rolled(lm: Any, repeat: int) -> Any:
    if repeat == 0 or lm.kwargs.get("temperature") == 0:
        return lm
    seed = lm.kwargs.get("seed")
    return lm.copy(rollout_id=repeat, **({} if seed is None else {"seed": seed + repeat}))


def _temperature(predictor: Any, lm: Any) -> float | None:
    """The temperature a predictor's LM is asked at; None where its provider decides."""
    lm = predictor.lm or lm
    for settings in (predictor.config, getattr(lm, "kwargs", {})):
        if (temperature := settings.get("temperature")) is not None:
            return float(temperature)
    engine = getattr(lm, "engine", None)
    return None if engine is None or isinstance(engine, str) else 0.0
