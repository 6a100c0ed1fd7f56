"""What scoring stored outputs again came to."""

from __future__ import annotations

from pytest_dspy_ft.records.base import Record, Split


class RescoredRow(Record):
    """One stage on one split."""

    stage: str
    on: Split
    n: int = 0
    before: float | None = None
    """The score that the store had; None without one."""
    now: float | None = None
    """The score by today's metric; None where it could not be found."""
    note: str = ""
    """Why it was scored again, or could not be."""
    failed: bool = False
    """There is something in the store that could not be scored."""
