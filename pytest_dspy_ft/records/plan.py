"""What a session would build, load and measure, and what that would take."""

from __future__ import annotations

from typing import Literal

from pytest_dspy_ft.records.base import Record, Split

Action = Literal["load", "build", "measure", "score"]


class PlanStep(Record):
    """One piece of a session's work, or one that the store spares it."""

    stage: str
    on: Split | None = None
    """The split of an evaluation; None for building the stage."""
    action: Action
    why: str = ""
    """Why the store does not have it; of what is scored again, why that is so."""
    lm_calls: int | None = 0
    at_most: bool = False
    """Whether the calls are the most it can take."""
    tokens: int | None = 0
    seconds: float | None = 0.0
    cost: float | None = 0.0
    """US dollars, training included."""
    basis: str = ""
    """What the figures rest on."""


class Plan(Record):
    """The steps of a session for one experiment, before any is made."""

    experiment: str
    lm: str
    steps: tuple[PlanStep, ...]
    problems: tuple[str, ...] = ()
    """What stands in the way of a step, and what would be right."""

    def total(self, figure: Literal["lm_calls", "tokens", "seconds", "cost"]) -> tuple[float, bool]:
        """The sum of a figure over all steps that know it, and whether all of them do."""
        values = [getattr(step, figure) for step in self.steps]
        return sum(value for value in values if value is not None), None not in values
