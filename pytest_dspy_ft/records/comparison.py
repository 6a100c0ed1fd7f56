"""One experiment held against an earlier session's results."""

from __future__ import annotations

from typing import Literal

from pytest_dspy_ft.records.base import Record, Split


class StageComparison(Record):
    """One stage on one split, held against an earlier session's, over the examples that both hold unchanged."""

    stage: str
    on: Split
    status: Literal["compared", "absent", "new"]
    """``absent``: this session did not measure it, or shares no example. ``new``: the earlier session did not."""
    reason: str = ""
    """Why there is nothing to compare."""
    n: int = 0
    """How many examples both hold: the denominator of all that follows."""
    before: float = 0.0
    """The earlier score over these examples."""
    after: float = 0.0
    interval: tuple[float, float] | None = None
    """Confidence interval of ``after - before``, paired by example."""
    change: Literal["regressed", "improved", "level"] | None = None
    """Which way it went beyond noise; None where nothing was compared."""
    fixed: tuple[str, ...] = ()
    """Ids of the examples whose score rose, the largest rise first."""
    broke: tuple[str, ...] = ()
    """Ids of the examples whose score fell, the largest fall first."""
    errors_before: int = 0
    """How many of the ``n`` could not be measured then (they score 0)."""
    errors_after: int = 0
    same_build: bool = False
    """Whether the stage's build is the very one of the earlier session."""


class ExampleChanges(Record):
    """How the examples of one split differ from those of an earlier session."""

    on: Split
    kept: int
    """How many are in both, unchanged."""
    new: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[tuple[str, str], ...] = ()
    """(then, now): ids of examples with the same inputs and other labels."""


class ComparisonRecord(Record):
    """One experiment held against an earlier session's results."""

    file: str
    """The baseline, as the user named it."""
    created: str = ""
    """When the baseline was saved: ISO 8601, UTC."""
    confidence: float
    """Of the intervals: what lies beyond them is a change, what does not is noise."""
    refused: str = ""
    """Why scores cannot be compared at all; empty where they can."""
    notes: tuple[str, ...] = ()
    """What else is not as it was then, such as the LM."""
    stages: tuple[StageComparison, ...] = ()
    examples: tuple[ExampleChanges, ...] = ()

    @property
    def compared(self) -> tuple[StageComparison, ...]:
        """The stages that could be compared."""
        return tuple(s for s in self.stages if s.status == "compared")

    @property
    def regressed(self) -> tuple[StageComparison, ...]:
        """The stages that got worse beyond noise."""
        return tuple(s for s in self.stages if s.change == "regressed")

    @property
    def passed(self) -> bool:
        """True where nothing regressed and nothing was refused."""
        return not self.refused and not self.regressed
