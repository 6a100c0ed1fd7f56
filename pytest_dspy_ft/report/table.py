"""The summary table of one experiment as lines of plain text: no colours, no printing, no verdicts of its own.

A terminal that is too narrow costs whole columns, the least needed first, and a line says which. What the records do
not hold is left blank; a price that is not known is ``?``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from tabulate import tabulate

from pytest_dspy_ft.results import (
    SPLITS,
    BuildRecord,
    ExperimentRecord,
    StageResult,
    TrainingRecord,
    Usage,
    VerdictRecord,
    flips,
    paired_scores,
)

_CONFIDENCE = 0.95
# What goes, in this order, while the stage table is too wide. Score, unparsed and errors always stay.
_DISPENSABLE = ("$/1k calls", "tokens/call", "95% CI of the difference", "fixed and broke", "95% CI", "vs previous")
_LEVELS = range(len(_DISPENSABLE) + 1)
_SHORTEST_NAME = 12

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])?")
_ASCII = str.maketrans(
    {"·": "-", "…": "...", "≥": ">=", "≤": "<=", "≠": "!=", "×": "x", "–": "-", "—": "-", "−": "-"}
    | {"‘": "'", "’": "'", "“": '"', "”": '"'}
)


def title(record: ExperimentRecord) -> str:
    """What the section of this experiment is called: ``dspy: tickets``."""
    return f"dspy: {_Page().clean(record.name)}"


def render(record: ExperimentRecord, *, width: int = 80, unicode: bool = True) -> list[str]:
    """The lines that sum up what a session knows of one experiment: what ran, every score, every gate.

    LM calls and time are those of this session: what it loaded from the store cost it nothing. The time is the sum
    over all work, so work done side by side counts twice.

    Args:
        record: The experiment.
        width: Columns of the terminal.
        unicode: False for a terminal that shows ASCII only.
    """
    page = _Page(width, unicode)
    blocks = [
        _header(record, page),
        _stage_table(record, page),
        [
            line
            for build in record.stages
            for line in (*_training_note(build, page), *_strategy_note(record, build, page))
        ],
        _gate_table(record.verdicts, page),
    ]
    return [line for block in blocks if block for line in ("", *block)][1:]


def duration(seconds: float) -> str:
    """A time as people say it: ``0.8 s``, ``41 s``, ``2 min 41 s``, ``1 h 02 min``."""
    whole = round(seconds)
    if whole < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


# --- Laying out ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Page:
    """What the text is written on."""

    width: int = 80
    unicode: bool = True

    def clean(self, text: str) -> str:
        """The text on one line, without anything that drives a terminal: escapes, control and direction characters."""
        text = " ".join(_ANSI.sub("", text).split())
        return self.plain("".join(c for c in text if c.isprintable()))

    def plain(self, text: str) -> str:
        """The text as far as this page can show it."""
        return text if self.unicode else text.translate(_ASCII).encode("ascii", "replace").decode()

    def cut(self, text: str, width: int) -> str:
        """The text; an ellipsis stands for its end where it is longer than ``width``."""
        dots = self.plain("…")
        return text if len(text) <= width else text[: max(width - len(dots), 0)].rstrip() + dots

    def joined(self, parts: Iterable[str], separator: str) -> list[str]:
        """The parts on as few lines as they fit on, broken only between parts."""
        separator = self.plain(separator)
        lines: list[str] = []
        for part in parts:
            if lines and len(lines[-1]) + len(separator) + len(part) <= self.width:
                lines[-1] += separator + part
            else:
                lines.append(self.cut(part, self.width))
        return lines

    def overhang(self, lines: Iterable[str]) -> int:
        """By how much the longest line is wider than the page; negative where there is room."""
        return max(map(len, lines)) - self.width


class _Column(NamedTuple):
    header: str
    cells: list[str]
    align: Literal["left", "right"] = "right"
    levels: range = _LEVELS
    """At which levels of narrowness it is shown; level n does without the first n of ``_DISPENSABLE``."""


def _laid_out(columns: Sequence[_Column]) -> list[str]:
    """The columns side by side under their headers."""
    # The headers go in as a row: as headers, tabulate would widen every column by two more spaces.
    text = tabulate(
        list(zip(*([column.header, *column.cells] for column in columns), strict=True)),
        tablefmt="plain",
        disable_numparse=True,
        colalign=[column.align for column in columns],
    )
    return [line.rstrip() for line in text.splitlines()]


def _header(record: ExperimentRecord, page: _Page) -> list[str]:
    tried = [build for build in record.stages if build.status in ("built", "failed")]
    measured = [result for result in record.results if not result.loaded]
    usage = sum([*(build.usage for build in tried), *(result.usage for result in measured)], Usage())
    seconds = sum(build.seconds for build in tried) + sum(result.wall_seconds for result in measured)
    count = {status: sum(build.status == status for build in record.stages) for status in ("built", "loaded", "failed")}
    parts = [
        f"lm {page.clean(record.lm)}",
        " / ".join(f"{split} {_grouped(record.sizes[split])}" for split in SPLITS if split in record.sizes),
        f"limit {_grouped(record.limit)}" if record.limit is not None else "",
        f"seed {record.seed}",
        f"{count['built']} built, {count['loaded']} loaded"
        + (f", {count['failed']} failed" if count["failed"] else ""),
        f"{_grouped(usage.lm_calls)} LM call{'s' * (usage.lm_calls != 1)}"
        + (f" ({_grouped(usage.cached_calls)} cached)" if usage.cached_calls else ""),
        duration(seconds),
    ]
    return page.joined(filter(None, parts), " · ")


# --- Stages ----------------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    stage: str
    result: StageResult | None = None
    before: StageResult | None = None
    """The result of the nearest stage below that has one on the same split."""
    note: str = ""
    """What there is to say instead of figures."""


def _rows(record: ExperimentRecord, page: _Page) -> Iterator[_Row]:
    builds = {build.stage: build for build in record.stages}
    # Programs that a test had evaluated by itself come last: they are no rung of the ladder, so nothing is below them.
    others = [stage for stage in dict.fromkeys(r.stage for r in record.results) if stage not in record.order]
    previous: dict[str, StageResult] = {}
    for stage in (*record.order, *others):
        build = builds.get(stage)
        results = [result for split in SPLITS if (result := record.result(stage, split))]
        for result in results:
            if result.n:
                yield _Row(stage, result, previous.get(result.on) if stage in record.order else None)
                previous[result.on] = result
            else:
                yield _Row(stage, note=f"no examples in {result.on}")
        if build and build.status in ("failed", "skipped"):
            reason = next(filter(None, map(page.clean, build.reason.splitlines())), "")
            yield _Row(stage, note=f"{build.status}: {reason}" if reason else build.status)
        elif build and not results:
            yield _Row(stage, note=f"{build.status}, not evaluated")


def _stage_table(record: ExperimentRecord, page: _Page) -> list[str]:
    rows = list(_rows(record, page))
    if not rows:
        return []
    names = _Column("stage", [page.clean(row.stage) for row in rows], "left")
    columns = [column for column in _figures(rows) if any(column.cells)]
    for level in _LEVELS:
        fitting = [column for column in columns if level in column.levels]
        lines = _laid_out([names, *fitting])
        over = page.overhang(lines)
        if over <= 0:
            break
    else:
        room = max(max(map(len, names.cells)) - over, _SHORTEST_NAME)
        names = names._replace(cells=[page.cut(name, room) for name in names.cells])
        lines = _laid_out([names, *fitting])

    # A note is no figure: it may run across all columns, and must not widen any.
    start = max(len(names.header), *map(len, names.cells)) + len("  ")
    for index, row in enumerate(rows):
        if row.note:
            lines[index + 1] = names.cells[index].ljust(start) + page.cut(row.note, page.width - start)
    gone = [name for stop, name in enumerate(_DISPENSABLE[:level], 1) if any(c.levels.stop == stop for c in columns)]
    return lines + textwrap.wrap(f"(too narrow to show {', '.join(gone)})", max(page.width, 40)) if gone else lines


def _figures(rows: Sequence[_Row]) -> list[_Column]:
    """All columns that show figures; a row without a result has an empty cell in each."""
    pairs = [(row.before, row.result) if row.before and row.result else None for row in rows]
    changes = [_change(*pair) if pair else None for pair in pairs]
    points = [f"{_points(change[0]):+.1f}" if change else "" for change in changes]
    intervals = _brackets([change[1] if change else None for change in changes], "+")
    both = [f"{point} {interval}".rstrip() for point, interval in zip(points, intervals, strict=True)]
    flipped = [flips(*pair) if pair and change else None for pair, change in zip(pairs, changes, strict=True)]

    def each(figure: Callable[[StageResult], str]) -> list[str]:
        return [figure(row.result) if row.result else "" for row in rows]

    return [
        _Column("on", each(lambda result: result.on), "left"),
        _Column("score", each(lambda result: f"{100 * result.score:.1f}%")),
        _Column("95% CI", _brackets([row.result.interval if row.result else None for row in rows]), "left", range(5)),
        _Column("vs previous", both, "right", range(3)),
        _Column("vs previous", points, "right", range(3, 6)),
        _Column("fixed", [_grouped(len(pair[0])) if pair else "" for pair in flipped], "right", range(4)),
        _Column("broke", [_grouped(len(pair[1])) if pair else "" for pair in flipped], "right", range(4)),
        _Column("unparsed", each(lambda result: _grouped(result.unparsed))),
        _Column("errors", each(lambda result: _grouped(result.errors))),
        _Column("tokens/call", each(lambda result: _grouped(result.tokens)), "right", range(2)),
        _Column("$/1k calls", each(lambda result: _price(result.cost)), "right", range(1)),
    ]


def _change(before: StageResult, after: StageResult) -> tuple[float, tuple[float, float]] | None:
    """The mean difference over the examples that both hold, with its paired interval; None if they share none."""
    from pytest_dspy_ft.statistics import paired_difference_interval

    old, new = paired_scores(before, after)
    if not new:
        return None
    difference = (sum(map(Fraction, new)) - sum(map(Fraction, old))) / len(new)
    return float(difference), paired_difference_interval(old, new, _CONFIDENCE)


def _brackets(intervals: Sequence[tuple[float, float] | None], sign: str = "") -> list[str]:
    """Intervals in points, bracketed, their numbers one below the other."""
    ends = [tuple(f"{_points(end):{sign}.1f}" for end in interval) if interval else None for interval in intervals]
    low, high = (max((len(pair[i]) for pair in ends if pair), default=0) for i in (0, 1))
    return [f"[{pair[0]:>{low}}, {pair[1]:>{high}}]" if pair else "" for pair in ends]


def _points(share: float) -> float:
    """The share in percentage points, to the one decimal shown; never a negative zero."""
    return round(100 * share, 1) or 0.0


def _grouped(number: float) -> str:
    """A whole number with its thousands apart: ``1 904``."""
    return f"{number:,.0f}".replace(",", " ")


def _price(cost: float | None) -> str:
    """Dollars for a thousand calls; what is small but not nothing does not read ``0.00``."""
    if cost is None:
        return "?"
    dollars = 1000 * cost
    if 0 < dollars < 0.0001:
        return "<0.0001"
    return f"{dollars:,.2f}".replace(",", " ") if dollars == 0 or dollars >= 0.01 else f"{dollars:.4f}"


def _training_note(build: BuildRecord, page: _Page) -> list[str]:
    """One line, or as many as it takes, on how the traces were collected and what was trained on them."""
    parts = []
    if traces := build.bootstrap:
        share = f" ({traces.rate:.0%})" if traces.attempted else ""
        counts = {"rejected": traces.rejected, "unparsed": traces.unparsed, "raised": traces.raised}
        kept = f"{_grouped(traces.kept)} of {_grouped(traces.attempted)} traces kept{share}"
        parts.append(", ".join([kept, *(f"{_grouped(n)} {what}" for what, n in counts.items() if n)]))
    if build.training:
        parts.append(f"trained on {' and '.join(_job(job, len(build.training) > 1) for job in build.training)}")
    if not parts:
        return []
    return _wrapped(build, "; ".join(parts), page)


def _wrapped(build: BuildRecord, note: str, page: _Page) -> list[str]:
    """A note on a stage on as many lines as it takes."""
    text = f"{page.clean(build.stage)}: {page.clean(note)}"
    return textwrap.wrap(text, max(page.width, 40), subsequent_indent="  ", break_on_hyphens=False)


def _strategy_note(record: ExperimentRecord, build: BuildRecord, page: _Page) -> list[str]:
    """Which steps of a combining optimizer led to the program it gave back, and what the choice was made by."""
    if (strategy := build.strategy) is None:
        return []
    lost = [c for c in strategy.candidates if c.strategy != strategy.won]
    parts = [
        f"{_steps(strategy.won)} won"
        + ("" if strategy.score is None else f" with {100 * strategy.score:.1f}% on its validation set")
        + (f" ({', '.join(f'{_steps(c.strategy)} {_share(c.score)}' for c in lost)})" if lost else "")
    ]
    held_out = [result for split in SPLITS if (result := record.result(build.stage, split)) and result.n]
    parts += [f"{100 * result.score:.1f}% on {result.on}" for result in held_out]
    parts.append("on weights trained here" if strategy.trained else "it runs on UNTRAINED weights")
    return _wrapped(build, "; ".join(parts), page)


def _steps(strategy: str) -> str:
    return strategy or "none of its steps"


def _share(score: float | None) -> str:
    return "?" if score is None else f"{100 * score:.1f}%"


def _job(job: TrainingRecord, several: bool) -> str:
    rows = f"{_grouped(job.rows)} row{'s' * (job.rows != 1)}"
    of = f" ({', '.join(job.predictors)})" if several and job.predictors else ""
    return f"{rows}{of}" + (f", loss {job.train_loss:.2f}" if job.train_loss is not None else "")


# --- Gates -----------------------------------------------------------------------------------------------------------


def _gate_table(verdicts: Sequence[VerdictRecord], page: _Page) -> list[str]:
    if not verdicts:
        return []
    gates = [page.clean(verdict.expression) for verdict in verdicts]
    columns = [
        _Column("on", [verdict.on for verdict in verdicts], "left"),
        _Column("observed", [page.clean(verdict.observed) for verdict in verdicts]),
        _Column("verdict", [_verdict(verdict) for verdict in verdicts], "left"),
    ]
    lines = _laid_out([_Column("gate", gates, "left"), *columns])
    over = page.overhang(lines)
    if over > 0:
        room = max(max(map(len, gates)) - over, _SHORTEST_NAME)
        lines = _laid_out([_Column("gate", [page.cut(gate, room) for gate in gates], "left"), *columns])
    return lines


def _verdict(verdict: VerdictRecord) -> str:
    """The verdict; with UNDECIDED goes what the gate makes of it: fail, pass or warn."""
    return f"UNDECIDED ({verdict.undecided})" if verdict.verdict == "UNDECIDED" else verdict.verdict
