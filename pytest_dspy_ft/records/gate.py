"""A gate and what became of it."""

from __future__ import annotations

from typing import Literal

from pytest_dspy_ft.records.base import Record, Split
from pytest_dspy_ft.text import LINE, gate_title, shorten

VerdictName = Literal["PASS", "FAIL", "UNDECIDED"]


class SliceVerdict(Record):
    """What became of a gate in one slice."""

    name: str
    """The slice's label; ``(pooled: a, b)`` for several that are too small to be judged by themselves."""
    n: int
    """How many different examples it holds."""
    verdict: VerdictName
    observed: str
    margin: float
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    """At which its interval was taken, corrected for the number of slices; None: judged by the figures."""
    tried: int = 1
    """What the allowed error was divided by."""
    pooled: tuple[str, ...] = ()
    """The slices that were put together, where it is none of its own."""
    broke: tuple[str, ...] = ()
    """Ids of the examples whose score fell, where the gate compares two stages."""


class UnjudgedGate(Record):
    """A gate that a test declared and that this session did not judge, though it holds for the session's LM."""

    experiment: str
    """Empty where the test's experiment could not be made."""
    expression: str
    on: Split
    by: str | None = None
    test: str
    """Node id of the test that holds it."""
    reason: str

    @property
    def title(self) -> str:
        """The expression, with what the gate is sliced by."""
        return gate_title(self.expression, self.by)


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
    by: str | None = None
    """What the gate is sliced by. Observed value, margin, interval and confidence are then those of its worst slice."""
    slices: tuple[SliceVerdict, ...] = ()
    """Of a gate in slices, the verdict in each, the worst first."""
    stopped: str = ""
    """After how many examples it was decided, and by which rule; empty where all were measured."""
    level: float | None = None
    """The confidence of ``interval`` where the session stops early: all looks together have ``confidence``."""
    caution: str = ""
    """Why the verdict is worth less than it looks: the split chose the program. Empty where there is no reason."""

    @property
    def title(self) -> str:
        """The expression, with what the gate is sliced by."""
        return gate_title(self.expression, self.by)

    def __repr__(self) -> str:
        return shorten(f"VerdictRecord({self.label}: {self.title} on {self.on}, observed {self.observed})", LINE)

    @property
    def label(self) -> str:
        """The verdict; with UNDECIDED goes what the gate makes of it: fail, pass or warn."""
        return f"UNDECIDED ({self.undecided})" if self.verdict == "UNDECIDED" else self.verdict
