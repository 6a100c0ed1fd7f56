"""Scores of stored outputs beside those of before, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_dspy_ft.records.rescored import RescoredRow
from pytest_dspy_ft.report.tables import Column, laid_out
from pytest_dspy_ft.text import counted, percent


def render_rescored(rows: Sequence[RescoredRow]) -> list[str]:
    """The lines of a table, one row for each stage and split."""
    if not rows:
        return ["the store has no evaluation of it as it is declared now"]
    columns = [
        Column("stage", [row.stage for row in rows], "left"),
        Column("on", [row.on for row in rows], "left"),
        Column("n", [str(row.n) for row in rows], "right"),
        Column("before", [_score(row.before) for row in rows], "right"),
        Column("now", [_score(row.now) for row in rows], "right"),
        Column("", [row.note for row in rows], "left"),
    ]
    failed = sum(row.failed for row in rows)
    lines = [*laid_out(columns), "", "0 LM calls"]
    if failed:
        lines.append(f"{counted(failed, 'evaluation')} could not be scored: a session measures what is missing")
    return lines


def _score(score: float | None) -> str:
    return "-" if score is None else percent(score)
