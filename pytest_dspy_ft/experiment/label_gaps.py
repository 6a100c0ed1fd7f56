"""Examples without a label: counted, and found again, once it is known which of their fields the program is to give."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_dspy_ft.experiment.example_id import is_blank
from pytest_dspy_ft.records.base import Split

_SHOWN = 3


@dataclass(frozen=True)
class Unlabelled:
    """The examples of a dataset that have no label."""

    count: int
    of: int
    """All examples of the dataset."""
    first: tuple[str, ...]
    """Where the first of them stand."""


@dataclass
class _Alike:
    """Examples that have the same fields filled in, and the same fields empty."""

    count: int = 0
    first: list[tuple[Split, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


class LabelGaps:
    """Which fields beside the inputs are filled in, example by example."""

    def __init__(self) -> None:
        self._alike: dict[tuple[frozenset[str], frozenset[str]], _Alike] = {}

    def look(self, fields: Mapping[str, Any], split: Split, index: int) -> None:
        """Look at one example's fields beside its inputs."""
        filled = frozenset(name for name, value in fields.items() if not is_blank(value))
        empty = frozenset(name for name, value in fields.items() if name not in filled and value is not None)
        alike = self._alike.setdefault((filled, empty), _Alike())
        alike.count += 1
        if len(alike.first) < _SHOWN:
            alike.first.append((split, index))

    def locate(self, where: Callable[[Split, int], str]) -> None:
        """Put the places of the first examples of each kind into words; all examples have been looked at."""
        for alike in self._alike.values():
            alike.said = [where(*place) for place in alike.first]

    @property
    def fields(self) -> list[str]:
        """The fields beside the inputs that an example fills in, in alphabetical order."""
        return sorted(frozenset().union(*(filled for filled, _ in self._alike)))

    def missing(self, labels: Collection[str]) -> Unlabelled:
        """The examples that have none of these fields, or null in all of them."""
        return self._found(lambda filled, empty: (filled | empty).isdisjoint(labels))

    def empty(self, labels: Collection[str]) -> Unlabelled:
        """The examples in which none of these fields holds anything, and at least one of them empty text."""
        return self._found(lambda filled, empty: filled.isdisjoint(labels) and not empty.isdisjoint(labels))

    def _found(self, belongs: Callable[[frozenset[str], frozenset[str]], bool]) -> Unlabelled:
        found = [alike for kind, alike in self._alike.items() if belongs(*kind)]
        first = tuple(place for alike in found for place in alike.said)[:_SHOWN]
        return Unlabelled(sum(a.count for a in found), sum(a.count for a in self._alike.values()), first)
