"""A gate and what became of it."""

from __future__ import annotations

from typing import Literal

from pytest_dspy_ft.records.base import Record, Split

VerdictName = Literal["PASS", "FAIL", "UNDECIDED"]


class VerdictRecord(Record):
    """A gate and what became of it."""

    experiment: str
    expression: str
    on: Split
    verdict: VerdictName
    passed: bool
    """Whether the test may go on: PASS, or UNDECIDED where the gate allows it."""
    observed: str
    """The observed value, written as people read it: ``88.3%``, ``+33.3 pts``, ``0.41x``."""
    margin: float
    """Left side minus right side (sign turned for ``<=`` and ``<``): at least 0 when the gate holds."""
    interval: tuple[float, float] | None = None
    """Confidence interval of the margin, where a confidence was asked for."""
    confidence: float | None = None
    undecided: Literal["fail", "pass", "warn"] = "fail"
    message: str = ""
    """The whole story for a failure message: both sides, interval, flipped examples, where to look next."""
    test: str = ""
    """Node id of the test that holds the gate."""
    tried: int = 1
    """What the allowed error was divided by for the number of gates; 1 where it was not. In ``confidence`` already."""
    stopped: str = ""
    """After how many examples it was decided, and by which rule; empty where all were measured."""
    level: float | None = None
    """The confidence of ``interval`` where the session stops early: all looks together have ``confidence``."""
    caution: str = ""
    """Why the verdict is worth less than it looks: the split chose the program. Empty where there is no reason."""

    @property
    def label(self) -> str:
        """The verdict; with UNDECIDED goes what the gate makes of it: fail, pass or warn."""
        return f"UNDECIDED ({self.undecided})" if self.verdict == "UNDECIDED" else self.verdict
