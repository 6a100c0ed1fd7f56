"""Confusion matrices: which label the examples of each label were given, and which examples these are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_dspy_ft.records.base import SPLITS
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.run import ExperimentRecord
from pytest_dspy_ft.records.slices import NO_LABEL, SlicingRecord
from pytest_dspy_ft.records.trajectories import ladder_results
from pytest_dspy_ft.text import one_line, visible

OTHER, UNPARSED, ERRORS = "(other)", "unparsed", "errors"
_STAGES = 2
"""The latest stages that a matrix is shown of."""
_MOST_LABELS = 20


@dataclass(frozen=True)
class Confusion:
    """What one stage answered to the examples of each label."""

    by: str
    """The field."""
    stage: str
    on: str
    labels: tuple[str, ...]
    """Those of the examples: the rows."""
    cells: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """By label and answer, the ids of the examples, one for each call of the program."""

    @property
    def answers(self) -> tuple[str, ...]:
        """The columns: the labels, then what is none, where there is any of it."""
        given = {answer for _, answer in self.cells}
        return (*self.labels, *(kind for kind in (OTHER, UNPARSED, ERRORS) if kind in given))

    def count(self, label: str, answer: str) -> int:
        """How many calls on examples of a label gave an answer."""
        return len(self.cells.get((label, answer), ()))

    def total(self, label: str) -> int:
        """How many calls on examples of a label there were."""
        return sum(self.count(label, answer) for answer in self.answers)

    @property
    def confused(self) -> list[tuple[str, str]]:
        """The cells off the diagonal that hold readable answers, the largest first."""
        wrong = [
            (label, answer)
            for label, answer in self.cells
            if label != NO_LABEL and answer not in (label, UNPARSED, ERRORS)
        ]
        return sorted(wrong, key=lambda cell: -self.count(*cell))


def confusions(record: ExperimentRecord) -> Iterator[Confusion]:
    """The matrices of the latest two stages on each split, of each label that is answered under its own name."""
    for on in SPLITS:
        for slicing in record.slices:
            if slicing.on == on and slicing.source == "label" and 2 <= len(slicing.groups) <= _MOST_LABELS:
                for result in ladder_results(record, on)[-_STAGES:]:
                    if any(slicing.by in (call.prediction or {}) for e in result.examples for call in e.each):
                        yield _confusion(slicing, result)


def _confusion(slicing: SlicingRecord, result: StageResult) -> Confusion:
    label_of = {identity: label for label, ids in slicing.groups.items() for identity in ids}
    matrix = Confusion(slicing.by, result.stage, result.on, tuple(slicing.groups))
    alike: dict[str, str] = {}
    for known in slicing.groups:
        alike.setdefault(_canonical(known), known)
    for example in result.examples:
        if (label := label_of.get(example.id)) is not None:
            for call in example.each:
                matrix.cells.setdefault((label, _answer(call, slicing, alike)), []).append(example.id)
    return matrix


def _answer(call: ExampleResult, slicing: SlicingRecord, alike: dict[str, str]) -> str:
    """The label that a call gave, whatever its case and outer space."""
    if call.outcome != "scored":
        return UNPARSED if call.outcome == "unparsed" else ERRORS
    value = (call.prediction or {}).get(slicing.by)
    if isinstance(value, (list, dict)):
        return OTHER
    text = NO_LABEL if value is None else f"{value:.12g}" if isinstance(value, float) else visible(str(value))
    return text if text in slicing.groups else alike.get(_canonical(text), OTHER)


def _canonical(text: str) -> str:
    return one_line(text).casefold()
