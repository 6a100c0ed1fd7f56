"""Guards against gates that lie: programs chosen on the examples they are judged on, and measurements that cannot be.

What they find is put into words here; the ladder and the plugin decide what becomes of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.text import counted

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.experiment.moved_examples import MovedExamples
    from pytest_dspy_ft.gates.expression import Quantity
    from pytest_dspy_ft.gates.gate import Gate
    from pytest_dspy_ft.gates.held_examples import SplitIndex

MAX_ERRORS = 0.05
"""The share of examples that may fail to be measured before a stage's gates fail, unless told otherwise."""

_FEWEST_MEASURED = 20
_CONTRADICTING_SHARE = Fraction(1, 10)


# --- The split that chose the program --------------------------------------------------------------------------------


def selection_leaks(experiment: Experiment) -> dict[str, dict[Split, str]]:
    """The splits on which each stage was chosen: those whose examples its optimizer is given, to train or to validate.

    Every optimizer is given the train split. A stage inherits what the stages it starts from or learns from have seen.

    Returns:
        By stage and split, how: ``valset of prompt_optimized``. A stage without an optimizer anywhere has seen nothing.
    """
    from pytest_dspy_ft.gates.held_examples import SplitIndex, held_examples

    index = SplitIndex(experiment.dataset)
    seen: dict[str, dict[Split, str]] = {}
    for name, stage in experiment.stages.items():
        if stage.optimizer is None:
            continue
        seen[name] = {"train": f"trainset of {name}"}
        given = held_examples(stage.compile_args, "compile_args") | held_examples(stage.optimizer, "optimizer")
        for holder, examples in given.items():
            for split, common in index.held(examples).items():
                size = index.size(split)
                share = "" if len(common) == size else f" ({len(common)} of {size} examples)"
                seen[name].setdefault(split, f"{holder} of {name}{share}")
    return {
        name: {split: how for needed in experiment.closure(name) for split, how in seen.get(needed, {}).items()}
        for name in experiment.stages
    }


def looks_better_seen(quantity: Quantity) -> bool:
    """True for what a stage looks better in on examples it has seen: its scores, and its readable replies."""
    return quantity.is_score or quantity.measure in ("unparsed", "errors")


def selection_note(gate: Gate, leaks: Mapping[str, Mapping[Split, str]]) -> str:
    """Explain that a gate's split cannot judge its stages, having chosen one of them; empty where it can."""
    found = {stage: leaks[stage][gate.on] for stage in scored_stages(gate) if gate.on in leaks.get(stage, {})}
    if not found:
        return ""
    stages = ", ".join(f"`{stage}` ({how})" for stage, how in found.items())
    others = [split for split in SPLITS if not any(split in leaks[stage] for stage in found)]
    advice = f"; judge on {' or '.join(repr(split) for split in others)}" if others else "; hold out a split for it"
    return (
        f"gate `{gate.expression}` is judged on {gate.on!r}, whose examples chose {stages}: its score there is too "
        f"good{advice}"
    )


def examples_in(program: Any) -> list[Any]:
    """The examples that a program holds, demos of its predictors among them."""
    from pytest_dspy_ft.gates.held_examples import held_examples

    held = [example for examples in held_examples(program).values() for example in examples]
    return [*held, *(demo for predictor in program.predictors() for demo in predictor.demos)]


def demo_note(gate: Gate, held: Mapping[str, Mapping[Split, set[str]]], index: SplitIndex) -> str:
    """Explain that a gate's split cannot judge stages whose programs hold its examples, as demos say; empty if it can.

    Args:
        gate: The gate.
        held: By stage and split, the ids of examples in the programs it stands on: its own, and those of the stages it
            starts or learns from.
        index: The examples of the dataset.
    """
    found = {}
    for stage, splits in held.items():
        common = splits.get(gate.on, ())
        if common:
            found[stage] = f"`{stage}` ({len(common)} of {index.size(gate.on)}: {', '.join(sorted(common)[:3])})"
    if not found:
        return ""
    return (
        f"gate `{gate.expression}` is judged on {gate.on!r}, of which examples stand in the prompt or program of "
        f"{', '.join(found.values())}: they know the answers; take demos from 'train', or judge on another split"
    )


def moved_note(gate: Gate, experiment: Experiment, moved: MovedExamples) -> str:
    """Explain that a gate judges stages trained on examples that earlier sessions held out; empty where none is."""
    found = [name for name in scored_stages(gate) if _is_trained(name, experiment)] if moved.into_train else []
    if not found:
        return ""
    return (
        f"gate `{gate.expression}` judges {', '.join(f'`{name}`' for name in found)}, trained on "
        f"{counted(len(moved.into_train), 'example')} that earlier sessions had in dev or test: the score cannot be "
        "held against theirs"
    )


def scored_stages(gate: Gate) -> list[str]:
    """The stages that a gate compares by what they would look better in on examples they have seen."""
    return list(dict.fromkeys(q.stage for q in gate.condition.quantities if looks_better_seen(q)))


def _is_trained(name: str, experiment: Experiment) -> bool:
    """True for a stage with an optimizer anywhere below: every optimizer is given the train split."""
    return any(experiment.stages[needed].optimizer is not None for needed in experiment.closure(name))


# --- Constants -------------------------------------------------------------------------------------------------------


def measurement_doubts(result: StageResult, examples: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Find what a working program and metric would hardly show.

    * Predictions that are the same for every example though the labels are not.
    * A metric that returns the same for every example: between 0 and 1, or 1 where predictions contradict labels, or 0
      where predictions equal labels. A program may well get all right or all wrong; unread replies say nothing.

    Args:
        result: The evaluation.
        examples: ``{"inputs": {...}, "expected": {...}}`` by example id.

    Returns:
        One sentence for each doubt. None below 20 measured examples.
    """
    measured = result.outcomes.count("scored")
    if measured < _FEWEST_MEASURED:
        return []
    return [*_constant_predictions(result, measured, examples), *_constant_metric(result, measured, examples)]


def _constant_predictions(
    result: StageResult, measured: int, examples: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    answers: dict[str, str] = {}  # the fields that had one answer so far
    fields: dict[str, None] = {}
    for number, example in enumerate(e for e in result.examples if e.outcome == "scored"):
        prediction = example.prediction or {}
        for field in prediction:
            if field not in fields:  # where it was missing before, it was None
                fields[field], answers[field] = None, _canonical(None if number else prediction[field])
        answers = {f: answer for f, answer in answers.items() if _canonical(prediction.get(f)) == answer}
        if not answers and number:
            return
    if not answers:
        return
    scored = [e.id for e in result.examples if e.outcome == "scored"]
    expected = [examples.get(identity, {}).get("expected") or {} for identity in scored]
    labelled = {field for field in fields if any(field in values for values in expected)}
    for field, answer in answers.items():
        labels = {_canonical(values.get(field)) for values in expected} if field in labelled else set()
        if len(labels) > 1 if labelled else len(fields) == 1:
            asked = f" for {len(labels)} different labels" if labelled else ""
            yield (
                f"`{result.stage}` on {result.on}: every one of {measured} predictions has "
                f"{field}={answer[:80]}{asked}; a program that looks at its input would hardly do that"
            )


def _constant_metric(result: StageResult, measured: int, examples: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    scores = {score for score, outcome in zip(result.scores, result.outcomes, strict=True) if outcome == "scored"}
    if len(scores) != 1:
        return
    [score] = scores
    where = f"`{result.stage}` on {result.on}: the metric gave {score:g} to every one of {measured} predictions"
    if 0 < score < 1:
        yield f"{where}; does it look at the prediction?"
        return
    compared = []
    for example in result.examples:
        if example.outcome == "scored":
            expected, given = examples.get(example.id, {}).get("expected") or {}, example.prediction or {}
            shared = expected.keys() & given.keys()
            if shared:
                compared.append(all(_canonical(given[field]) == _canonical(expected[field]) for field in shared))
    against = compared.count(score == 0)
    if against and Fraction(against, len(compared)) >= _CONTRADICTING_SHARE:
        kind = "equal their label" if score == 0 else "differ from their label"
        yield f"{where}, though {against} of them {kind}; does it look at the prediction?"


def _canonical(value: Any) -> str:
    """A value for comparing: text without case and outer space."""
    return value.strip().casefold() if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
