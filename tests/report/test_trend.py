"""Trends: sparklines, changes with their intervals, and what else changed on the way."""

from __future__ import annotations

import pytest

from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.history import HistoryPoint, changed_parts
from pytest_dspy_ft.report.charts import MOST_SESSIONS, trend_charts
from pytest_dspy_ft.report.trend import Stored, render_trend, series_of, sparkline
from tests.records.histories import point
from tests.report.test_table import result


def lines(*points: HistoryPoint, width: int = 132, unicode: bool = True, stored: Stored | None = None) -> list[str]:
    return render_trend(series_of(points, stored=stored), width=width, unicode=unicode)


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    [series] = series_of([point(score, day) for day, score in enumerate((0.1, 0.5, 0.9, 0.2), 1)])
    assert sparkline(series, unicode=True) == "▁▅█▂"
    assert sparkline(series, unicode=False).isascii()
    assert len(sparkline(series, unicode=False)) == 4


def test_a_sparkline_shows_where_scores_can_no_longer_be_held_against_each_other() -> None:
    [series] = series_of([point(day=1), point(day=2, base="toy/other"), point(day=3, base="toy/other", build="c")])
    assert sparkline(series, unicode=True) == "▅|▅▅", "a program that changed is what is measured"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"base": "toy/other", "build": "c", "key": "l"}, ("LM",)),
        ({"data": "e", "key": "l"}, ("data",)),
        ({"metric": "n", "key": "l"}, ("metric",)),
        ({"build": "c", "key": "l"}, ("program",)),
        ({"key": "l"}, ("settings",)),
        ({"base": "toy/other", "data": "e", "metric": "n"}, ("LM", "data", "metric")),
        ({"lm": "toy/tuned-again", "build": "c", "key": "l"}, ("program",)),
        ({"score": 0.1, "commit": "c"}, ()),
    ],
    ids=str,
)
def test_what_changed_between_two_points(change: dict[str, object], parts: tuple[str, ...]) -> None:
    assert changed_parts(point(), point(day=2, **change)) == parts


def test_the_table_names_first_last_best_and_worst_with_date_and_commit() -> None:
    shown = lines(point(0.8, 1), point(0.7, 2, dirty=True), point(0.9, 3, commit=""), width=200)
    [head, row, *_] = shown
    assert head.split() == ["stage", "on", "trend", "sessions", "first", "last", "change", "best", "worst"]
    assert "80.0%  90.0%" in row
    assert "90.0% 2026-11-03" in row
    assert "70.0% 2026-11-02 0000000+" in row


def test_where_it_is_narrow_best_and_worst_stand_below() -> None:
    shown = lines(point(0.8, 1), point(0.7, 2), width=70)
    assert max(map(len, shown)) <= 70
    assert "finetuned on dev: best 80.0% 2026-11-01 0000000, worst 70.0% 2026-11-02" in " ".join(
        " ".join(shown).split()
    )


def test_a_change_is_unpaired_where_the_evaluations_are_gone() -> None:
    shown = lines(point(0.5, 1, interval=(0.4, 0.6)), point(0.6, 2, interval=(0.5, 0.7)))
    assert "+10.0 [-4.1, +24.1] unpaired" in shown[1]
    assert any(line.startswith("unpaired: the store no longer has both") for line in shown)


def test_a_change_is_paired_where_the_store_has_both() -> None:
    then, now = result("finetuned", "1100110011"), result("finetuned", "1110111011")
    kept: dict[str, StageResult] = {"a": then, "b": now}
    shown = lines(point(0.6, 1, key="a", n=10), point(0.8, 2, key="b", n=10), stored=lambda p: kept[p.key])
    assert "+20.0 [" in shown[1]
    assert shown[1].split("]")[1].split()[0] == "paired"
    assert not any("unpaired" in line for line in shown)
    more = lines(point(0.6, 1, key="a", n=10), point(0.8, 2, key="b", n=12, data="e"), stored=lambda p: kept[p.key])
    assert "paired on 10, data" in more[1]


def test_what_was_only_loaded_again_did_not_change() -> None:
    shown = lines(point(0.6, 1, session="s"), point(0.6, 2, session="s", loaded=True))
    assert "none: the same evaluation" in shown[1]
    assert len(shown) == 2, "no interval, so nothing to explain"


def test_scores_of_two_metrics_have_no_difference() -> None:
    shown = lines(point(0.5, 1), point(0.9, 2, metric="n"))
    assert "another metric" in shown[1]
    assert "+40.0" not in shown[1]
    assert any(line == "2026-11-02 0000000: another metric (finetuned on dev)" for line in shown)


def test_other_lms_and_examples_are_said_once_for_all_stages() -> None:
    then = [point(day=1, stage=stage, rung=rung) for rung, stage in enumerate(("baseline", "finetuned"))]
    now = [p.model_copy(update={"created": "2026-11-02", "base": "toy/new", "data": "e", "n": 120}) for p in then]
    said = [line for line in lines(*then, *now, width=200) if "another LM" in line]
    assert len(said) == 1
    assert "another LM, toy/lm → toy/new; other examples, 100 → 120 (baseline on dev, finetuned on dev)" in said[0]


def test_ascii_terminals_get_ascii() -> None:
    shown = lines(point(0.8, 1), point(0.7, 2, base="toy/new"), unicode=False)
    assert all(line.isascii() for line in shown)
    assert "toy/lm -> toy/new" in "\n".join(shown)


def test_stages_stand_in_the_order_of_the_ladder_and_only_the_newest_are_taken() -> None:
    points = [point(stage=s, day=d, rung=r) for d in (1, 2, 3) for s, r in (("finetuned", 2), ("baseline", 0))]
    every = series_of(points, last=2)
    assert [s.stage for s in every] == ["baseline", "finetuned"]
    assert [[p.day for p in s.points] for s in every] == [["2026-11-02", "2026-11-03"]] * 2


def test_a_chart_needs_two_sessions_and_shows_the_newest() -> None:
    assert trend_charts([point()]) == []
    [chart] = trend_charts([point(day % 7 / 10, 1 + day % 28) for day in range(MOST_SESSIONS + 3)])
    assert len(chart.marks) == MOST_SESSIONS
    assert chart.left_out == 3
    assert all(0 <= mark.x <= 100 and 0 <= mark.y <= 100 for mark in chart.marks)


def test_charts_of_one_experiment_have_one_scale() -> None:
    points = [point(0.3, 1), point(0.4, 2), point(0.9, 1, on="test"), point(0.85, 2, on="test")]
    charts = trend_charts(points)
    assert len({(chart.low, chart.high) for chart in charts}) == 1
    assert 0.1 < charts[0].low <= 0.2
    assert charts[0].high == 1.0
    assert charts[0].words == (
        "finetuned on dev, 2 sessions: from 30.0% on 2026-11-01 to 40.0% on 2026-11-02; best 40.0%, worst 30.0%"
    )


@pytest.mark.parametrize("score", [0.0, 1.0, 0.5])
def test_a_score_that_never_moves_has_a_chart_too(score: float) -> None:
    [chart] = trend_charts([point(score, day, interval=(score, score)) for day in (1, 2)])
    assert chart.low < chart.high
    [series] = series_of([point(score, day) for day in (1, 2)])
    assert sparkline(series, unicode=True) == "▅▅"
