"""Verdicts that stand before all examples are measured: which gates can have one, what it rests on, how it is told.

`pytest_dspy_ft.gates.curtailment` decides what the other examples cannot change any more, `pytest_dspy_ft.gates.looks`
what a planned look is sure of. Costs, tokens and seconds have no limit: gates on them are judged on the whole split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from pytest_dspy_ft.constants import StopRule
from pytest_dspy_ft.gates.expression import Condition
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.observed import unit_of_sides
from pytest_dspy_ft.records.gate import VerdictName

SIDE_OF_ZERO = {
    "PASS": "all on the right side of 0",
    "FAIL": "all on the wrong side of 0",
    "UNDECIDED": "on both sides of 0",
}
"""Where an interval lies, by the verdict that follows."""

_STOPPABLE = frozenset({"score", "errors", "unparsed"})


@dataclass(frozen=True)
class Decision:
    """A verdict, and what it was decided by."""

    rule: StopRule
    verdict: VerdictName
    examples: frozenset[str]
    """The different examples that it rests on."""
    used: int
    """How many that are, with their copies."""
    planned: int
    """Examples of the split."""
    bound: Fraction | None = None
    """Curtailed: the margin over the whole split is at least that where it passes, at most where it fails."""
    interval: tuple[float, float] | None = None
    """Of the margin. Curtailed: whatever the others score, the interval over the whole split lies within."""
    level: float | None = None
    """The confidence of that interval."""
    look: str = ""
    """Which look it was: ``3 of 10``."""
    excess: Mapping[str, Fraction] = field(default_factory=dict)
    """The stages with too many errors to be judged."""

    @property
    def early(self) -> bool:
        """True where examples are left that it does not rest on."""
        return self.used < self.planned

    def __str__(self) -> str:
        return f"decided after {self.used} of {self.planned} examples ({self.rule})"


def stoppable(gate: Gate) -> bool:
    """True for a gate that can be decided early: on means of scores, errors and unparsed replies, over all examples.

    One on quantiles, on further metrics or in slices is judged on the whole split.
    """
    quantities = gate.condition.quantities
    means = all(q.measure in _STOPPABLE and not q.percentile for q in quantities)
    return means and bool(gate.score_stages) and gate.by is None


def stopping_lines(condition: Condition, decision: Decision) -> list[str]:
    """After how many examples a gate was decided, and what that says of the whole split, as lines of a message."""
    signed, lines = unit_of_sides(condition, difference=True), []
    if decision.early:
        lines.append(f"  {decision}")
    others = f"  whatever the other {decision.planned - decision.used} score, the"
    if decision.bound is not None:
        most = "at least" if decision.verdict == "PASS" else "at most"
        bound = signed.write(decision.bound)
        lines.append(f"{others} margin over all {decision.planned} is {most} {bound}")
    if decision.interval is not None and decision.level is not None:
        low, high = (signed.write(end) for end in decision.interval)
        kind = f"{decision.level * 100:.6g}% interval of the margin"
        if decision.rule == "curtail":
            span = f"{others} {kind} over all {decision.planned} lies within {low} to {high}"
        else:
            how = " (O'Brien-Fleming)" if decision.early else ""
            span = f"  {kind} at look {decision.look}{how}: {low} to {high}"
        lines.append(span if decision.excess else f"{span}, {SIDE_OF_ZERO[decision.verdict]}")
    return lines
