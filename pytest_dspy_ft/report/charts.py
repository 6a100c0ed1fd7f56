"""Where things stand in the charts of the HTML page: positions in per cent, so that a chart fits any width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.build import BootstrapRecord, LossCurve
from pytest_dspy_ft.records.history import HistoryPoint, Part, changed_parts
from pytest_dspy_ft.records.run import SummaryRecord
from pytest_dspy_ft.report.trend import Series, series_of
from pytest_dspy_ft.text import bracket, percent

ROW = 46
"""Pixels between two rows of the ladder."""


class LadderMark(NamedTuple):
    """A stage on a split: all x in per cent of the width, all y in pixels."""

    row: SummaryRecord
    y: int
    low: float
    high: float
    x: float
    before: tuple[float, int] | None
    """Point of the row it is compared with."""


class LadderChart(NamedTuple):
    """The ladder plot."""

    marks: list[LadderMark]
    height: int
    splits: list[Split]


def ladder_chart(summary: Sequence[SummaryRecord]) -> LadderChart:
    """Scores with their intervals, a row for each stage and split."""
    marks: list[LadderMark] = []
    points: dict[tuple[str, str], tuple[float, int]] = {}
    for number, row in enumerate(summary):
        low, high = (100 * end for end in row.interval)
        y = number * ROW + 30
        before = points.get((row.before, row.on)) if row.before else None
        marks.append(LadderMark(row, y, low, high, 100 * row.score, before))
        points[row.stage, row.on] = 100 * row.score, y
    return LadderChart(marks, len(marks) * ROW + 26, list(dict.fromkeys(row.on for row in summary)))


class TraceShare(NamedTuple):
    """A part of a bar, in per cent of its width."""

    name: str
    traces: int
    x: float
    width: float


def share_bar(traces: BootstrapRecord) -> list[TraceShare]:
    """The outcomes of the traces, as parts of one bar."""
    parts = []
    x = 0.0
    for name in ("kept", "rejected", "unparsed", "raised"):
        count = getattr(traces, name)
        width = 100 * count / max(traces.attempted, 1)
        parts.append(TraceShare(name, count, x, width))
        x += width
    return parts


class HistogramBin(NamedTuple):
    """A bar of the histogram: x and sizes in per cent of the chart."""

    label: str
    traces: int
    x: float
    y: float
    height: float
    accepted: bool
    """Whether all scores in this bin reach what was asked for."""


def histogram(traces: BootstrapRecord) -> list[HistogramBin]:
    """Scores of the traces in ten bins; empty where there are none."""
    if not traces.scores:
        return []
    counts = traces.histogram
    top = max(counts)
    bar = traces.accept if traces.accept is not None else 0.1
    return [
        HistogramBin(
            f"{i / 10:.1f} to {(i + 1) / 10:.1f}",
            count,
            10 * i + 0.6,
            100 - 100 * count / top,
            100 * count / top,
            i / 10 >= bar - 1e-9,
        )
        for i, count in enumerate(counts)
    ]


class CurveChart(NamedTuple):
    """A loss curve in a box of 100 by 100, and what its axes say."""

    raw: str
    """Points of a polyline: every step."""
    smooth: str
    """The same, averaged over neighbouring steps."""
    validation: list[tuple[float, float, float]]
    """(x, y, loss)."""
    validation_line: str
    top: float
    steps: int
    first: float
    last: float


def loss_curve(curve: LossCurve) -> CurveChart | None:
    """The losses of a training; None where none was logged."""
    losses = [(point.step, point.loss) for point in curve.points if point.loss is not None]
    checks = [(point.step, point.validation_loss) for point in curve.points if point.validation_loss is not None]
    if not losses:
        return None
    top = max(loss for _, loss in [*losses, *checks]) * 1.05 or 1.0
    steps = max(point.step for point in curve.points) or 1

    def place(step: int, loss: float) -> tuple[float, float]:
        return round(100 * step / steps, 2), round(100 - 100 * loss / top, 2)

    window = max(len(losses) // 20, 1)
    values = [loss for _, loss in losses]
    means = []
    for i, (step, _) in enumerate(losses):
        near = values[max(i - window, 0) : i + window + 1]
        means.append((step, sum(near) / len(near)))
    return CurveChart(
        raw=_polyline([place(*point) for point in losses]),
        smooth=_polyline([place(*point) for point in means]),
        validation=[(*place(*point), point[1]) for point in checks],
        validation_line=_polyline([place(*point) for point in checks]),
        top=top,
        steps=steps,
        first=means[0][1],
        last=means[-1][1],
    )


class TrendMark(NamedTuple):
    """A session in a trend: x in per cent of the width, y in per cent of the height."""

    point: HistoryPoint
    x: float
    y: float
    changed: tuple[Part, ...]
    """What else changed since the session before."""
    label: str


class TrendChart(NamedTuple):
    """Scores of one stage on one split, session by session."""

    stage: str
    on: Split
    marks: list[TrendMark]
    line: str
    """Points of a polyline in a box of 100 by 100."""
    band: str
    """Points of the polygon of the intervals."""
    low: float
    """What the bottom of the chart stands for, a fraction."""
    high: float
    left_out: int
    """How many earlier sessions it does not show."""
    words: str
    """The chart in one sentence, for who does not see it."""


MOST_SESSIONS = 100
"""A chart of more would be a smear."""

_STEP = 0.05


def trend_charts(history: Sequence[HistoryPoint]) -> list[TrendChart]:
    """A chart for each stage and split with at least two sessions, all of one experiment on one scale."""
    every = [series for series in series_of(history) if len(series.points) > 1]
    shown = [point for series in every for point in series.points[-MOST_SESSIONS:]]
    if not shown:
        return []
    low = max(math.floor(min(point.interval[0] for point in shown) / _STEP) * _STEP, 0.0)
    high = min(math.ceil(max(point.interval[1] for point in shown) / _STEP) * _STEP, 1.0)
    return [_trend_chart(series, low, high if high > low else low + _STEP) for series in every]


def _trend_chart(series: Series, low: float, high: float) -> TrendChart:
    points = series.points[-MOST_SESSIONS:]

    def place(number: int, score: float) -> tuple[float, float]:
        x = 2 + 96 * number / (len(points) - 1)
        return round(x, 2), round(min(max(100 - 100 * (score - low) / (high - low), 0), 100), 2)

    marks = []
    for number, point in enumerate(points):
        changed = changed_parts(points[number - 1], point) if number else ()
        x, y = place(number, point.score)
        label = f"{point.place}: {percent(point.score)} {bracket(point.interval)}, n {point.n}"
        marks.append(TrendMark(point, x, y, changed, label + (f"; changed: {', '.join(changed)}" if changed else "")))
    upper = [place(number, point.interval[1]) for number, point in enumerate(points)]
    lower = [place(number, point.interval[0]) for number, point in enumerate(points)]
    first, last = points[0], points[-1]
    return TrendChart(
        stage=series.stage,
        on=series.on,
        marks=marks,
        line=_polyline([(mark.x, mark.y) for mark in marks]),
        band=_polyline([*upper, *reversed(lower)]),
        low=low,
        high=high,
        left_out=len(series.points) - len(points),
        words=f"{series.stage} on {series.on}, {len(points)} sessions: from {percent(first.score)} on {first.day} to "
        f"{percent(last.score)} on {last.day}; best {percent(series.best.score)}, worst {percent(series.worst.score)}",
    )


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
