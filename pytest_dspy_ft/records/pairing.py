"""Examples of several results put side by side: paired by id, and of exact copies the first with the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from pytest_dspy_ft.records.evaluation import StageResult

Copy = tuple[str, int]
"""An example's id, and which of its exact copies in the split it is, from 0."""


class HasId(Protocol):
    """Anything that stands for one example."""

    @property
    def id(self) -> str:
        """The example's stable id."""


Row = TypeVar("Row", bound=HasId)


def by_copy(rows: Iterable[Row]) -> dict[Copy, Row]:
    """The rows by id and copy, in their order."""
    seen: Counter[str] = Counter()
    found = {}
    for row in rows:
        found[row.id, seen[row.id]] = row
        seen[row.id] += 1
    return found


def aligned(columns: Sequence[Iterable[Row]]) -> list[tuple[Row, ...]]:
    """The rows that all columns hold, side by side, in the order of the first column."""
    if not columns:
        return []
    found = [by_copy(rows) for rows in columns]
    return [tuple(rows[key] for rows in found) for key in found[0] if all(key in rows for rows in found)]


def flips(before: StageResult, after: StageResult) -> tuple[list[str], list[str]]:
    """Ids of the examples that rose and that fell from one result to another.

    Returns:
        (fixed, broke): ids whose score went up, and ids whose score went down, in the order of ``after``.
    """
    pairs = aligned([after.examples, before.examples])
    fixed = [new.id for new, old in pairs if new.score > old.score]
    broke = [new.id for new, old in pairs if new.score < old.score]
    return fixed, broke


def paired_scores(before: StageResult, after: StageResult) -> tuple[Sequence[float], Sequence[float]]:
    """Scores of the examples that both results hold, in the order of ``after``."""
    pairs = aligned([after.examples, before.examples])
    return [old.score for _, old in pairs], [new.score for new, _ in pairs]
