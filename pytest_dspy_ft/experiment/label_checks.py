"""Labels that cannot be right: examples that have none, and splits in which they differ far beyond chance.

By chance, the number of a label's examples in a split is hypergeometric; its tails are computed exactly, for dev, for
test and for both together, and corrected for the number of labels looked at (Bonferroni). A file that is sorted by its
label is also known by that: each label in one run.
"""

from __future__ import annotations

import enum
import itertools
import math
import typing
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.experiment.example_id import is_blank
from pytest_dspy_ft.experiment.typed_labels import output_types
from pytest_dspy_ft.records.base import SPLITS
from pytest_dspy_ft.text import excerpt

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.dataset import Dataset
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.experiment.label_gaps import Unlabelled

BEYOND_CHANCE = 0.001
"""Splits that chance alone would make less often than this are one-sided."""

_EACH = 5
_MOST = 1_000
"""A field is a label where each of its values stands for so many examples, on average, and it has at most so many."""


def missing_labels(experiment: Experiment) -> str:
    """Explain that some examples have no label at all, or null, and others have one; empty where that is not so.

    Labels are the fields that a predictor of the program gives. A type that takes None says that nothing is an answer.
    """
    labels = _declared_labels(experiment)
    found = experiment.dataset.label_gaps.missing(labels)
    return _unlabelled(experiment, labels, found, "missing or null") if labels else ""


def empty_labels(experiment: Experiment) -> str:
    """The same for labels that are empty text, which may be meant: a file cannot say."""
    labels = _declared_labels(experiment)
    found = experiment.dataset.label_gaps.empty(labels)
    return _unlabelled(experiment, labels, found, "empty") if labels else ""


def _declared_labels(experiment: Experiment) -> list[str]:
    """The fields that are labels; none where nothing is an answer."""
    types = output_types(experiment.program)
    labels = [name for name in experiment.dataset.label_gaps.fields if name in types]
    return [] if any(_takes_none(types[name]) for name in labels) else labels


def _unlabelled(experiment: Experiment, labels: Sequence[str], found: Unlabelled, how: str) -> str:
    if not 0 < found.count < found.of:
        return ""
    places = ", ".join(found.first) + (", ..." if found.count > len(found.first) else "")
    return (
        f"experiment {experiment.name!r}: {found.count} of {found.of} examples have no label, "
        f"{', '.join(labels)} {how}: {places}. Fill it in or take them out; where nothing is an answer, let "
        f"the signature say so: `{labels[0]}: str | None`"
    )


def one_sided_labels(experiment: Experiment) -> list[str]:
    """Explain which labels lie on one side: the text of a warning for each field, with what helps."""
    dataset, types = experiment.dataset, output_types(experiment.program)
    if not dataset.sizes["train"]:
        return []
    fields = dataset.label_gaps.fields
    outputs = [name for name in fields if name in types]
    how = dataset.assignment
    looked_at = outputs or [name for name in fields if how is None or name != how.group_by]
    skews = [_skew(dataset, name) for name in looked_at]
    return [f"dataset {dataset.name!r}: {skew.describe()}; {_remedy(dataset, skew.field)}" for skew in skews if skew]


@dataclass(frozen=True)
class _Skew:
    """A label that one side has far more or far less of than chance would give it."""

    field: str
    label: Any
    side: str
    counts: tuple[int, int, int, int]
    """The label's examples and all, in train and on that side."""
    distance: float
    """Total variation distance between the labels of train and of that side."""
    is_sorted: bool

    def describe(self) -> str:
        """The finding in words."""
        here, train, there, size = self.counts
        how = "the examples stand sorted by" if self.is_sorted else "the splits are one-sided in"
        return (
            f"{how} {self.field!r}: {excerpt(self.label, 40)} is {here} of {train} in train and {there} of {size} in "
            f"{self.side} (total variation distance {self.distance:.2f})"
        )


def _skew(dataset: Dataset, field: str) -> _Skew | None:
    values = {split: [_label(example, field) for example in dataset.held(split)] for split in SPLITS}
    counts = {split: Counter(value for value in values[split] if value is not None) for split in SPLITS}
    everything = sum(counts.values(), Counter[Hashable]())
    n = everything.total()
    if not 2 <= len(everything) <= min(_MOST, n // _EACH):
        return None
    runs = sum(1 for _ in itertools.groupby(value for split in SPLITS for value in values[split] if value is not None))
    is_sorted = _keeps_order(dataset) and runs == len(everything)
    sides = [(side, counts[side]) for side in ("dev", "test") if counts[side]]
    if len(sides) == 2:
        sides.append(("dev and test", counts["dev"] + counts["test"]))
    found = [
        (_chance(side[label], total, side.total(), n), name, side, label)
        for name, side in sides
        for label, total in everything.items()
    ]
    if not found:
        return None
    chance, name, side, label = min(found, key=lambda entry: entry[0])
    if chance * len(found) > BEYOND_CHANCE and not is_sorted:
        return None
    train = counts["train"]
    shares = [(train[x] / max(train.total(), 1), side[x] / side.total()) for x in everything]
    distance = sum(abs(a - b) for a, b in shares) / 2
    return _Skew(field, label, name, (train[label], train.total(), side[label], side.total()), distance, is_sorted)


def _chance(found: int, of: int, size: int, n: int) -> float:
    """Twice the smaller tail: how likely a split of ``size`` of ``n`` has as few or as many of a label's ``of``."""
    low, high = max(0, of + size - n), min(of, size)
    all_ways = _ways(n, size)
    tail = range(low, found + 1) if found * n < of * size else range(found, high + 1)
    return min(1.0, 2 * sum(math.exp(_ways(of, k) + _ways(n - of, size - k) - all_ways) for k in tail))


def _ways(n: int, k: int) -> float:
    """The logarithm of the number of ways to choose k of n."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _remedy(dataset: Dataset, field: str) -> str:
    how = dataset.assignment
    if how is None or how.column is not None:
        return "split anew, so that all splits are alike: Dataset.from_examples(..., seed=0)"
    if how.group_by is not None:
        return "its groups differ that much: more groups, or other ones, make the splits alike"
    if how.assign == "hash":
        return "inputs that are all but the same may have one label: look at them"
    shuffle = "shuffle first with seed=0, or " if how.seed is None else ""
    return f"{shuffle}give every split its share of each label with stratify={field!r}"


def _keeps_order(dataset: Dataset) -> bool:
    how = dataset.assignment
    return how is not None and (how.assign, how.seed, how.group_by, how.stratify) == ("order", None, None, None)


def _label(example: Any, field: str) -> Hashable:
    """An example's label where it is one: text, a whole number or a truth value."""
    value = example.get(field)
    value = value.value if isinstance(value, enum.Enum) else value
    return value if isinstance(value, str | int) and not is_blank(value) else None


def _takes_none(kind: Any) -> bool:
    return kind in (None, type(None), Any) or type(None) in typing.get_args(kind)
