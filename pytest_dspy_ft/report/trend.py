"""The trend of an experiment's stages over the sessions of a history, as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.history import HistoryPoint, Part, changed_parts
from pytest_dspy_ft.records.pairing import paired_scores
from pytest_dspy_ft.report.tables import Column, fitted
from pytest_dspy_ft.statistics.sums import exact_sum
from pytest_dspy_ft.text import ascii_only, bracket, counted, one_line, percent, points

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-~=+*#"
NARROWEST = 2

Stored = Callable[[HistoryPoint], StageResult | None]
"""The evaluation of a point, example by example, where the store still has it."""


class Change(NamedTuple):
    """How far a score moved between two points, as a fraction."""

    difference: float
    interval: tuple[float, float]
    """95 %."""
    shared: int | None
    """How many examples both hold, compared one by one; None where only the two scores are known: unpaired."""
    parts: tuple[Part, ...]
    """What else changed between the two."""


class Series(NamedTuple):
    """One stage on one split, session by session."""

    stage: str
    on: Split
    points: Sequence[HistoryPoint]
    """The oldest first; at least one."""
    change: Change | None
    """From the first to the last; None with one point, or where the metric is another."""

    @property
    def best(self) -> HistoryPoint:
        """The point of the highest score, the earliest of equals."""
        return max(self.points, key=lambda point: point.score)

    @property
    def worst(self) -> HistoryPoint:
        """The point of the lowest score, the earliest of equals."""
        return min(self.points, key=lambda point: point.score)

    @property
    def changes(self) -> Iterator[tuple[HistoryPoint, HistoryPoint, tuple[Part, ...]]]:
        """Neighbouring points between which something else changed: (earlier, later, what)."""
        for before, after in zip(self.points, self.points[1:], strict=False):
            if parts := changed_parts(before, after):
                yield before, after, parts


def series_of(history: Sequence[HistoryPoint], last: int | None = None, stored: Stored | None = None) -> list[Series]:
    """The series of some points, lowest stage first, as the newest session has them.

    Args:
        history: The points, the oldest first.
        last: Take the newest so many points of each series.
        stored: Where evaluations are looked up.
    """
    found: dict[tuple[str, str, Split], list[HistoryPoint]] = {}
    for point in history:
        found.setdefault(point.series, []).append(point)
    chosen = [points[-last:] if last else points for points in found.values()]
    chosen.sort(key=lambda points: (points[-1].rung, points[-1].stage, SPLITS.index(points[-1].on)))
    return [Series(one[0].stage, one[0].on, one, _change(one[0], one[-1], stored)) for one in chosen]


def _change(first: HistoryPoint, last: HistoryPoint, stored: Stored | None) -> Change | None:
    from pytest_dspy_ft.statistics.scores import difference_of_intervals, paired_difference_interval

    if first is last or first.metric != last.metric:
        return None
    parts = changed_parts(first, last)
    before, after = (stored(first), stored(last)) if stored is not None else (None, None)
    old, new, ids = paired_scores(before, after) if before is not None and after is not None else ((), (), ())
    if new:
        difference = (exact_sum(new) - exact_sum(old)) / len(new)
        return Change(float(difference), paired_difference_interval(old, new, ids=ids), len(new), parts)
    interval = difference_of_intervals((first.score, *first.interval), (last.score, *last.interval))
    return Change(last.score - first.score, interval, None, parts)


def sparkline(series: Series, *, unicode: bool) -> str:
    """The scores as a row of blocks between the series' lowest and highest, ``|`` where LM, data or metric changed."""
    blocks = BLOCKS if unicode else ASCII_BLOCKS
    low, high = series.worst.score, series.best.score
    marked = {id(after) for _, after, parts in series.changes if {"LM", "data", "metric"} & set(parts)}
    line = ""
    for point in series.points:
        share = (point.score - low) / (high - low) if high > low else 0.5
        line += ("|" if id(point) in marked else "") + blocks[round(share * (len(blocks) - 1))]
    return line


def render_trend(every: Sequence[Series], *, width: int, unicode: bool) -> list[str]:
    """The table of one experiment, and below it what changed on the way."""
    columns = [
        Column("stage", [one_line(s.stage) for s in every], "left"),
        Column("on", [s.on for s in every], "left"),
        Column("trend", [sparkline(s, unicode=unicode) for s in every], "left"),
        Column("sessions", [str(len(s.points)) for s in every], levels=range(2)),
        Column("first", [percent(s.points[0].score) for s in every]),
        Column("last", [percent(s.points[-1].score) for s in every]),
        Column("change", [_change_words(s) for s in every], "left"),
        Column("best", [f"{percent(s.best.score)} {s.best.place}" for s in every], "left", range(1)),
        Column("worst", [f"{percent(s.worst.score)} {s.worst.place}" for s in every], "left", range(1)),
    ]
    lines, level = fitted(columns, width, NARROWEST)
    notes = [*(map(_extremes, every) if level else ()), *_notes(every)]
    lines += [""] * bool(notes)
    for note in notes:
        lines += textwrap.wrap(note, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return lines if unicode else [ascii_only(line) for line in lines]


def _change_words(series: Series) -> str:
    if len(series.points) == 1:
        return "-"
    if (change := series.change) is None:
        return "another metric"
    first, last = series.points[0], series.points[-1]
    if (first.key, first.session, first.score) == (last.key, last.session, last.score):
        return "none: the same evaluation"
    how = "unpaired" if change.shared is None else "paired"
    if change.shared is not None and change.shared < max(first.n, last.n):
        how = f"paired on {change.shared}"
    moved = [part for part in change.parts if part in ("LM", "data")]
    return " ".join([f"{points(change.difference):+.1f}", bracket(change.interval, "+"), ", ".join([how, *moved])])


def _extremes(series: Series) -> str:
    best, worst = series.best, series.worst
    said = f"best {percent(best.score)} {best.place}"
    said += f", worst {percent(worst.score)} {worst.place}" if worst.score < best.score else ""
    return f"{one_line(series.stage)} on {series.on}: {said}"


def _notes(every: Sequence[Series]) -> Iterator[str]:
    said: dict[tuple[str, str], list[str]] = {}
    for series in every:
        for before, after, parts in series.changes:
            told = [words for part in parts if (words := _part_words(part, before, after))]
            if told:
                where = f"{one_line(series.stage)} on {series.on}"
                said.setdefault((after.created, f"{after.place}: {'; '.join(told)}"), []).append(where)
    for (_, what), stages in sorted(said.items()):
        yield f"{what} ({', '.join(stages)})"
    if any(_change_words(series).partition("] ")[2].startswith("unpaired") for series in every):
        yield (
            "unpaired: the store no longer has both evaluations, so the interval takes the examples of the two "
            "sessions for different ones, and is wider than a paired one"
        )
    for point in (series.points[-1] for series in every if series.points[-1].errors):
        yield f"{one_line(point.stage)} on {point.on}: {counted(point.errors, 'error')} in the last session"


def _part_words(part: Part, before: HistoryPoint, after: HistoryPoint) -> str:
    match part:
        case "LM":
            return f"another LM, {one_line(before.base)} → {one_line(after.base)}"
        case "data":
            return f"other examples, {before.n} → {after.n}" if before.n != after.n else "other examples"
        case "metric":
            return "another metric"
        case _:
            return ""
