"""Which steps of a combining optimizer won, in the table and in Markdown."""

from __future__ import annotations

import html

import pytest

from pytest_dspy_ft.records.build import CandidateRecord, StrategyRecord
from pytest_dspy_ft.records.run import RunRecord
from pytest_dspy_ft.report import markdown
from pytest_dspy_ft.report.table import render
from tests.report.test_table import build, record, result


@pytest.mark.parametrize(
    ("won", "score", "trained", "expected"),
    [
        (
            "p -> w",
            0.41,
            True,
            "both: p -> w won with 41.0% on its validation set (none of its steps 0.0%, p 12.5%, p -> w -> p 41.0%); "
            "50.0% on dev; on weights trained here",
        ),
        (
            "p",
            0.125,
            False,
            "both: p won with 12.5% on its validation set (none of its steps 0.0%, p -> w 41.0%, p -> w -> p 41.0%); "
            "50.0% on dev; it runs on UNTRAINED weights",
        ),
        (
            "",
            None,
            False,
            "both: none of its steps won (p 12.5%, p -> w 41.0%, p -> w -> p 41.0%); 50.0% on dev; "
            "it runs on UNTRAINED weights",
        ),
    ],
)
def test_the_winning_strategy_is_in_the_table_and_in_markdown(won, score, trained, expected):
    scores = {"": 0.0, "p": 0.125, "p -> w": 0.41, "p -> w -> p": 0.41}
    strategy = StrategyRecord(
        won=won,
        score=score,
        trained=trained,
        candidates=tuple(CandidateRecord(strategy=name, score=value) for name, value in scores.items()),
    )
    shown = record(
        order=("baseline", "both"),
        results=(result("both", "10"),),
        verdicts=(),
        stages=(build("both", "better_together", "loaded", strategy=strategy),),
    )
    lines = [line for line in render(shown, width=70) if line]
    note = lines[next(i for i, line in enumerate(lines) if line.startswith("both: ")) :]
    assert " ".join(line.strip() for line in note) == expected
    assert max(map(len, note)) <= 70
    written = markdown.render(RunRecord(created="2026-01-01T00:00:00Z", experiments=(shown,)))
    assert expected.removeprefix("both: ") in html.unescape(written)
