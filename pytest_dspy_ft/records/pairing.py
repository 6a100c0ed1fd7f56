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


def side_by_side(results: Sequence[StageResult]) -> list[Sequence[int]]:
    """The places, in each result, of the examples that all hold, in the order of the first result."""
    if not results:
        return []
    first = results[0].ids
    if all(result.ids == first for result in results):
        return [range(len(first))] * len(results)
    places = [{copy: place for place, copy in enumerate(copies(result.ids))} for result in results]
    common = [copy for copy in places[0] if all(copy in held for held in places)]
    return [[held[copy] for copy in common] for held in places]


def copies(ids: Sequence[str]) -> list[Copy]:
    """Which copy of which example each id stands for."""
    if len(set(ids)) == len(ids):
        return [(identity, 0) for identity in ids]
    seen: Counter[str] = Counter()
    found = []
    for identity in ids:
        found.append((identity, seen[identity]))
        seen[identity] += 1
    return found


def flips(before: StageResult, after: StageResult) -> tuple[list[str], list[str]]:
    """Ids of the examples that rose and that fell from one result to another.

    Returns:
        (fixed, broke): ids whose score went up, and ids whose score went down, in the order of ``after``.
    """
    old, new, ids = paired_scores(before, after)
    fixed = [identity for identity, was, now in zip(ids, old, new, strict=True) if now > was]
    broke = [identity for identity, was, now in zip(ids, old, new, strict=True) if now < was]
    return fixed, broke


def paired_scores(before: StageResult, after: StageResult) -> tuple[Sequence[float], Sequence[float], Sequence[str]]:
    """Scores of the examples that both results hold, earlier and later, and their ids, in the order of ``after``."""
    new, old = side_by_side([after, before])
    then, now = before.scores, after.scores
    return [then[place] for place in old], [now[place] for place in new], [after.ids[place] for place in new]
