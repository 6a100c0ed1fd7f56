"""One experiment held against an earlier session's results."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from pytest_dspy_ft.records.base import Record, Split

Change = Literal["regressed", "improved", "no_loss_seen", "blind"]


class StageComparison(Record):
    """One stage on one split, held against an earlier session's, over the examples that both hold unchanged."""

    stage: str
    on: Split
    status: Literal["compared", "too_few", "absent", "new"]
    """``too_few``: less than half of the earlier examples are left, so nothing is claimed, and that is no success.
    ``absent``: this session did not measure it. ``new``: the earlier session did not."""
    reason: str = ""
    """Why there is nothing to compare."""
    n: int = 0
    """How many different examples both hold: the denominator of all that follows. Copies are one, with their mean."""
    before: float = 0.0
    """The earlier score over these examples. One that could not be measured then counts as right here: as 0 it would
    let a loss pass."""
    after: float = 0.0
    """Today's score over these examples; one that could not be measured counts as 0."""
    interval: tuple[float, float] | None = None
    """Confidence interval of ``after - before``, paired by example and corrected for ``tried``."""
    change: Change | None = None
    """``blind``: too few examples were right for any loss to be seen. None where nothing was compared."""
    smallest_loss: float | None = None
    """The smallest loss, as a fraction, that would have counted as one in these examples; None where none would."""
    tried: int = 1
    """What Holm's method divides the error by that the confidence allows."""
    fixed: tuple[str, ...] = ()
    """Ids of the examples whose score rose, the largest rise first."""
    broke: tuple[str, ...] = ()
    """Ids of the examples whose score fell, the largest fall first."""
    errors_before: int = 0
    """How many of the ``n`` could not be measured then (they count as right)."""
    errors_after: int = 0
    """How many of the ``n`` could not be measured in this session (they count as 0)."""
    same_build: bool = False
    """Whether the stage's build is the very one of the earlier session."""

    @field_validator("change", mode="before")
    @classmethod
    def _of_before(cls, value: Any) -> Any:
        return "no_loss_seen" if value == "level" else value  # as earlier versions wrote it


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
    """Of all intervals of the session's comparisons together: what lies beyond them is a change."""
    comparisons: int = 1
    """How many comparisons (stages on splits, of all experiments) the session makes: it is corrected for them."""
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
    def too_few(self) -> tuple[StageComparison, ...]:
        """The stages of which too few examples are left for any claim."""
        return tuple(s for s in self.stages if s.status == "too_few")

    @property
    def passed(self) -> bool:
        """True where nothing regressed and nothing was refused."""
        return not self.refused and not self.regressed and not self.too_few
