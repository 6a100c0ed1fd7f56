"""Slices: the examples of a split by a field or by a function of the user's, and results cut into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pytest_dspy_ft.records.base import Record, Split
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult

NO_LABEL = "(none)"
"""The slice of examples that have no label: the field is missing or None."""

SliceSource = Literal["input", "label", "function"]


class SlicingRecord(Record):
    """The examples of one split, by the slice that each is in."""

    by: str
    """A field of the examples, or the name of a function in ``Experiment(slices=...)``."""
    on: Split
    source: SliceSource
    """Whether it is an input of the examples, a label, or a function."""
    asked: bool
    """True where a gate or the experiment asks for it: then reports show a table of it."""
    groups: dict[str, tuple[str, ...]]
    """By slice, the ids of its different examples."""


def in_slices(result: StageResult, groups: Mapping[str, Sequence[str]]) -> dict[str, StageResult]:
    """A result cut into slices, in the order of these; a slice of which it holds no example is left out."""
    slice_of = {identity: name for name, ids in groups.items() for identity in ids}
    parts: dict[str, list[ExampleResult]] = {name: [] for name in groups}
    for example in result.examples:
        if (name := slice_of.get(example.id)) is not None:
            parts[name].append(example)
    # Not `model_copy`: that takes along the figures which the whole has worked out.
    fields = {name: getattr(result, name) for name in StageResult.model_fields}
    return {name: StageResult(**{**fields, "examples": tuple(part)}) for name, part in parts.items() if part}
