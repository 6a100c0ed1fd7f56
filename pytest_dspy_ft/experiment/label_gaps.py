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
    """The examples of a dataset in which certain fields are all empty or missing."""

    count: int
    of: int
    """All examples of the dataset."""
    first: tuple[str, ...]
    """Where the first of them stand."""


@dataclass
class _Alike:
    """Examples that have the same fields filled in."""

    count: int = 0
    first: list[tuple[Split, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


class LabelGaps:
    """Which fields beside the inputs are filled in, example by example."""

    def __init__(self) -> None:
        self._alike: dict[frozenset[str], _Alike] = {}

    def look(self, fields: Mapping[str, Any], split: Split, index: int) -> None:
        """Look at one example's fields beside its inputs."""
        filled = frozenset(name for name, value in fields.items() if not is_blank(value))
        alike = self._alike.setdefault(filled, _Alike())
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
        return sorted(frozenset().union(*self._alike))

    def without(self, labels: Collection[str]) -> Unlabelled:
        """The examples in which all of these fields are empty or missing."""
        found = [alike for filled, alike in self._alike.items() if filled.isdisjoint(labels)]
        first = tuple(place for alike in found for place in alike.said)[:_SHOWN]
        return Unlabelled(sum(a.count for a in found), sum(a.count for a in self._alike.values()), first)
