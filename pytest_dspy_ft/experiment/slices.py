"""Slices of a split: which of its examples have the same value of a field, or of a function of the user's."""

from __future__ import annotations

import datetime
import enum
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from pytest_dspy_ft.errors import ExperimentError
from pytest_dspy_ft.experiment.copies import copy_example
from pytest_dspy_ft.experiment.example_id import describe, input_names
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.records.slices import NO_LABEL, SliceSource
from pytest_dspy_ft.text import did_you_mean, excerpt, listed, visible

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.dataset import Dataset

SliceFunction = Callable[[Any], object]
"""From an example to the label of its slice."""


class HasExamples(Protocol):
    """What an experiment says of its examples."""

    name: str
    dataset: Dataset
    slices: dict[str, SliceFunction]


MOST_LABELS = 20
"""Different values that a label field has at most, where it makes slices that nobody asked for."""

_EMPTY = "(empty)"
_FEWEST_TO_TELL = 10
"""Below so many examples, values that are all different are no sign of free text."""
_LABELS = "text, a whole number, True or False, a date or a member of an enum"


class _SliceLabels:
    """What was found out of one experiment's examples."""

    def __init__(self) -> None:
        self.labels: dict[tuple[str, Split], dict[str, str]] = {}
        self.label_fields: list[str] | None = None


_known: WeakKeyDictionary[HasExamples, _SliceLabels] = WeakKeyDictionary()


def checked_functions(experiment: HasExamples, slices: object) -> dict[str, SliceFunction]:
    """The functions of ``Experiment(slices=...)``, by name.

    Raises:
        ExperimentError: They are not named functions, or a field of the examples has a name of theirs.
    """
    where = f"experiment {experiment.name!r}"
    if not isinstance(slices, Mapping):
        raise ExperimentError(
            f"{where}: slices must be named functions such as {{'length': lambda example: ...}}, not "
            f"{type(slices).__name__}"
        )
    for name, function in slices.items():
        if not isinstance(name, str) or not name.strip():
            raise ExperimentError(f"{where}: a slice's name must be a non-empty string, not {name!r}")
        if not callable(function):
            raise ExperimentError(
                f"{where}: slice {name!r} must be a function of an example, not {type(function).__name__}"
            )
    if clashing := sorted(slices.keys() & set(_fields(experiment))):
        raise ExperimentError(
            f"{where}: slice {clashing[0]!r} has the name of a field of the examples; rename the slice, or leave it "
            f"out: by={clashing[0]!r} means the field"
        )
    return dict(slices)


def labels_by(experiment: HasExamples, by: str, on: Split) -> dict[str, str]:
    """The label of each example of a split, by its id.

    Args:
        experiment: The experiment.
        by: A field of the examples, or the name of one of the experiment's slice functions.
        on: The split.

    Raises:
        ExperimentError: There is no such field or function, a function fails, or what it gives, or the field holds, is
            no label or nearly always a different one; the message says which example it was, and what would be right.
    """
    known = _known.setdefault(experiment, _SliceLabels())
    if (by, on) not in known.labels:
        function = experiment.slices.get(by)
        if function is None:
            _check_field(experiment, by)
            label, splits = (lambda example: example.get(by)), SPLITS
        else:
            label, splits = _guarded(experiment, by, function), (on,)
        for split in splits:
            known.labels[by, split] = _labels(experiment, by, split, label)
    return known.labels[by, on]


def check_labels(experiment: HasExamples, by: str, on: Split) -> None:
    """Check that a field or a function makes slices of a split.

    Raises:
        ExperimentError: As :func:`labels_by`, or nearly every example has a label of its own: free text, a measured
            number. Of a field all splits are looked at, as a small one may well hold each label once.
    """
    labels = list(labels_by(experiment, by, on).values())
    if labels and set(labels) == {NO_LABEL}:
        raise ExperimentError(f"by={by!r} makes no slices: no example of {on!r} has a value of it")
    if by not in experiment.slices:
        labels = [text for split in SPLITS for text in labels_by(experiment, by, split).values()]
    if len(labels) >= _FEWEST_TO_TELL and _mostly_different(labels):
        counts = Counter(labels)
        single = sum(count == 1 for count in counts.values())
        raise ExperimentError(
            f"by={by!r} makes no slices: {single} of {len(labels)} examples have a value that no other has, such as "
            f"{excerpt(next(iter(counts)), 60)}; name a field with few different values, or a function that gives few: "
            "Experiment(slices={'length': lambda example: 'short' if len(example.text) < 80 else 'long'})"
        )


def source_of(experiment: HasExamples, by: str) -> SliceSource:
    """Whether slices are of a label, of an input, or made by a function."""
    if by in experiment.slices:
        return "function"
    given = {name for split in SPLITS for example in experiment.dataset.held(split) for name in input_names(example)}
    return "input" if by in given else "label"


def label_fields(experiment: HasExamples) -> list[str]:
    """The label fields that make sensible slices without anybody asking: 2 to 20 different values, each used often."""
    known = _known.setdefault(experiment, _SliceLabels())
    if known.label_fields is None:
        known.label_fields = [name for name in _fields(experiment) if _is_label_field(experiment, name)]
    return known.label_fields


def label_of(value: object) -> str:
    """A value as the label of a slice.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, enum.Enum):
        value = value.value if isinstance(value.value, (str, int)) else value.name
    if hasattr(value, "dtype") and hasattr(value, "item"):  # numpy's scalars, without importing numpy
        value = value.item()
    match value:
        case None:
            return NO_LABEL
        case float():
            return NO_LABEL if math.isnan(value) else f"{value:.12g}"
        case bool() | int():
            return str(value)
        case str():
            return visible(str(value)) if value.strip() else _EMPTY
        case datetime.date() | datetime.time():
            return value.isoformat()
    raise TypeError(f"a {type(value).__name__} is no label: give {_LABELS}")


def _fields(experiment: HasExamples) -> list[str]:
    """All fields that examples have."""
    found: dict[str, None] = {}
    for split in SPLITS:
        for example in experiment.dataset.held(split):
            found.update(dict.fromkeys(example.keys()))
    return list(found)


def _check_field(experiment: HasExamples, by: str) -> None:
    fields = _fields(experiment)
    if by not in fields:
        named = f"; slices are {listed(experiment.slices)}" if experiment.slices else ""
        raise ExperimentError(
            f"by={by!r} is no field of the examples and no slice function"
            f"{did_you_mean(by, [*fields, *experiment.slices])}; fields are {listed(fields)}{named}; others are named "
            "with Experiment(slices={'length': lambda example: ...})"
        )


def _guarded(experiment: HasExamples, name: str, function: SliceFunction) -> SliceFunction:
    """The function on a copy of the example; what it raises says which function it was."""

    def label(example: Any) -> object:
        try:
            return function(copy_example(example))
        except Exception as error:
            raise ExperimentError(
                f"experiment {experiment.name!r}: slice function {name!r} failed: {type(error).__name__}: {error}"
            ) from error

    return label


def _labels(experiment: HasExamples, by: str, on: Split, label: SliceFunction) -> dict[str, str]:
    found: dict[str, str] = {}
    dataset = experiment.dataset
    for identity, example in zip(dataset.ids(on), dataset.held(on), strict=True):
        if identity in found:  # a copy of an example is in the same slice
            continue
        try:
            found[identity] = label_of(label(example))
        except (ExperimentError, TypeError) as error:
            kind = "slice function" if by in experiment.slices else "field"
            said = f"{error}" if isinstance(error, ExperimentError) else f"by={by!r}: {kind} {by!r}: {error}"
            raise ExperimentError(f"{said}, on example {identity} of {on}: {excerpt(describe(example))}") from error
    return found


def _mostly_different(labels: Iterable[str]) -> bool:
    """True where more than half of the examples have a value of their own, as free text and measured numbers do."""
    counts = Counter(labels)
    return 2 * sum(count == 1 for count in counts.values()) > counts.total()


def _is_label_field(experiment: HasExamples, name: str) -> bool:
    values: set[str] = set()
    texts: list[str] = []
    for split in SPLITS:
        for example in experiment.dataset.held(split):
            if name in input_names(example):
                return False
            try:
                text = label_of(example.get(name))
            except TypeError:
                return False
            values.add(text)
            if len(values) > MOST_LABELS:
                return False
            texts.append(text)
    return len(values) > 1 and 2 * len(values) <= len(texts) and not _mostly_different(texts)
