"""The summary table of one experiment as lines of text: nothing printed, no verdicts of its own.

A terminal that is too narrow costs whole columns, the least needed first, and a line says which. What the records do
not hold is left blank; a price that is not known is ``?``. Lines say which of their parts are good or bad
(:class:`~pytest_dspy_ft.report.styling.Line`); whether that becomes a colour is the terminal's matter.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tabulate import tabulate

from pytest_dspy_ft.records.base import SPLITS
from pytest_dspy_ft.records.build import BuildRecord, TrainingRecord
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.gate import VerdictName, VerdictRecord
from pytest_dspy_ft.records.pairing import flips
from pytest_dspy_ft.records.run import ExperimentRecord
from pytest_dspy_ft.records.usage import Usage
from pytest_dspy_ft.report.changes import render_comparison, render_trajectories
from pytest_dspy_ft.report.diagnosis import diagnosis_lines
from pytest_dspy_ft.report.styling import Line, Span, Style
from pytest_dspy_ft.report.summary import Rung, cautions, change, rungs, spent, strategy
from pytest_dspy_ft.text import ascii_only, counted, duration, grouped, one_line, percent, points, price

# What goes, in this order, while the stage table is too wide. Score, unparsed and errors always stay.
_DISPENSABLE = ("$/1k calls", "tokens/call", "95% CI of the difference", "fixed and broke", "95% CI", "vs previous")
_LEVELS = range(len(_DISPENSABLE) + 1)
_SHORTEST_NAME = 12

_NOTES: dict[str, Style] = {"failed": "bad", "skipped": "unsure"}
_VERDICTS: dict[VerdictName, Style] = {"PASS": "good", "FAIL": "bad", "UNDECIDED": "unsure"}


def title(record: ExperimentRecord, *, unicode: bool = True) -> str:
    """What the section of this experiment is called: ``dspy: tickets``."""
    return f"dspy: {_Page(unicode=unicode).clean(record.name)}"


def render(record: ExperimentRecord, *, width: int = 80, unicode: bool = True) -> list[Line]:
    """The lines that sum up what a session knows of one experiment: what ran, every score, every gate.

    LM calls and time are those of this session, by :func:`~pytest_dspy_ft.report.rungs.spent`.

    Args:
        record: The experiment.
        width: Columns of the terminal.
        unicode: False for a terminal that shows ASCII only.
    """
    page = _Page(width, unicode)
    blocks: list[Sequence[str]] = [
        _header(record, page),
        _stage_table(record, page),
        [
            line
            for build in record.stages
            for line in (*_training_note(build, page), *_diagnosis(build, page), *_strategy_note(record, build, page))
        ],
        render_trajectories(record, width=width, unicode=unicode),
        _gate_table(record.verdicts, page),
        _cautions(record, page),
        render_comparison(record, width=width, unicode=unicode),
    ]
    lines = [line for block in blocks if block for line in ("", *block)][1:]
    return [line if isinstance(line, Line) else Line(line) for line in lines]


# --- Laying out ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Page:
    """What the text is written on."""

    width: int = 80
    unicode: bool = True

    def clean(self, text: str) -> str:
        """The text on one line, without anything that drives a terminal: escapes, control and direction characters."""
        return self.plain(one_line(text))

    def plain(self, text: str) -> str:
        """The text as far as this page can show it."""
        return text if self.unicode else ascii_only(text)

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
    usage, seconds = spent(record)
    count = {status: sum(build.status == status for build in record.stages) for status in ("built", "loaded", "failed")}
    parts = [
        f"lm {page.clean(record.lm)}",
        " / ".join(f"{split} {grouped(record.sizes[split])}" for split in SPLITS if split in record.sizes),
        f"limit {grouped(record.limit)}" if record.limit is not None else "",
        f"seed {record.seed}",
        f"{repeats} repeats" if (repeats := max((r.repeats for r in record.results), default=1)) > 1 else "",
        f"{count['built']} built, {count['loaded']} loaded"
        + (f", {count['failed']} failed" if count["failed"] else ""),
        counted(usage.lm_calls, "LM call") + _not_made(usage),
        duration(seconds),
    ]
    return page.joined(filter(None, parts), " · ")


def _not_made(usage: Usage) -> str:
    """Which of the calls were answered without asking an LM."""
    kinds = ((usage.cached_calls, "cached"), (usage.replayed_calls, "replayed from recordings"))
    told = [f"{grouped(count)} {kind}" for count, kind in kinds if count]
    return f" ({', '.join(told)})" if told else ""


# --- Stages ----------------------------------------------------------------------------------------------------------


def _stage_table(record: ExperimentRecord, page: _Page) -> list[str]:
    rows = [rung._replace(note=page.plain(rung.note)) for rung in rungs(record)]
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
    errors = lines[0].find(" errors") + len(" errors")  # where that column ends: its figures end there too
    for index, row in enumerate(rows, 1):
        if row.note:
            text = names.cells[index - 1].ljust(start) + page.cut(row.note, page.width - start)
            style = _NOTES.get(row.note.partition(":")[0])
            lines[index] = Line(text, [Span(start, len(text), style)] if style else [])
        elif row.result and row.result.errors:
            lines[index] = Line(lines[index], [Span(errors - len(grouped(row.result.errors)), errors, "bad")])
    gone = [name for stop, name in enumerate(_DISPENSABLE[:level], 1) if any(c.levels.stop == stop for c in columns)]
    return lines + textwrap.wrap(f"(too narrow to show {', '.join(gone)})", max(page.width, 40)) if gone else lines


def _figures(rows: Sequence[Rung]) -> list[_Column]:
    """All columns that show figures; a row without a result has an empty cell in each."""
    pairs = [(row.before, row.result) if row.before and row.result else None for row in rows]
    changes = [change(*pair) if pair else None for pair in pairs]
    gains = [f"{points(changed[0]):+.1f}" if changed else "" for changed in changes]
    intervals = _brackets([changed[1] if changed else None for changed in changes], "+")
    both = [f"{point} {interval}".rstrip() for point, interval in zip(gains, intervals, strict=True)]
    flipped = [flips(*pair) if pair and changed else None for pair, changed in zip(pairs, changes, strict=True)]

    def each(figure: Callable[[StageResult], str]) -> list[str]:
        return [figure(row.result) if row.result else "" for row in rows]

    return [
        _Column("on", each(lambda result: result.on), "left"),
        _Column("score", each(lambda result: percent(result.score))),
        _Column("95% CI", _brackets([row.result.interval if row.result else None for row in rows]), "left", range(5)),
        _Column("vs previous", both, "right", range(3)),
        _Column("vs previous", gains, "right", range(3, 6)),
        _Column("fixed", [grouped(len(pair[0])) if pair else "" for pair in flipped], "right", range(4)),
        _Column("broke", [grouped(len(pair[1])) if pair else "" for pair in flipped], "right", range(4)),
        _Column("unparsed", each(lambda result: grouped(result.unparsed))),
        _Column("errors", each(lambda result: grouped(result.errors))),
        _Column("tokens/call", each(lambda result: grouped(result.tokens)), "right", range(2)),
        _Column("$/1k calls", each(lambda result: price(result.cost)), "right", range(1)),
    ]


def _brackets(intervals: Sequence[tuple[float, float] | None], sign: str = "") -> list[str]:
    """Intervals in points, bracketed, their numbers one below the other."""
    ends = [tuple(f"{points(end):{sign}.1f}" for end in interval) if interval else None for interval in intervals]
    low, high = (max((len(pair[i]) for pair in ends if pair), default=0) for i in (0, 1))
    return [f"[{pair[0]:>{low}}, {pair[1]:>{high}}]" if pair else "" for pair in ends]


def _training_note(build: BuildRecord, page: _Page) -> list[str]:
    """One line, or as many as it takes, on how the traces were collected and what was trained on them."""
    parts = []
    for traces in build.bootstraps:
        share = f" ({traces.rate:.0%})" if traces.attempted else ""
        counts = {"rejected": traces.rejected, "unparsed": traces.unparsed, "raised": traces.raised}
        kept = f"{grouped(traces.kept)} of {grouped(traces.attempted)} traces kept{share}"
        parts.append(", ".join([kept, *(f"{grouped(n)} {what}" for what, n in counts.items() if n)]))
    if build.training:
        parts.append(f"trained on {' and '.join(_job(job, len(build.training) > 1) for job in build.training)}")
    if not parts:
        return []
    return _wrapped(build, "; ".join(parts), page)


def _wrapped(build: BuildRecord, note: str, page: _Page) -> list[str]:
    """A note on a stage on as many lines as it takes."""
    text = f"{page.clean(build.stage)}: {page.clean(note)}"
    return textwrap.wrap(text, max(page.width, 40), subsequent_indent="  ", break_on_hyphens=False)


def _diagnosis(build: BuildRecord, page: _Page) -> list[str]:
    """Why so few traces were kept, where few were."""
    width = max(page.width, 40)
    return [
        part
        for record in build.bootstraps
        if record.low
        for line in diagnosis_lines(record)
        for part in textwrap.wrap(
            page.clean(line),
            width,
            initial_indent=" " * (2 + len(line) - len(line.lstrip())),
            subsequent_indent=" " * (4 + len(line) - len(line.lstrip())),
            break_on_hyphens=False,
        )
    ]


def _strategy_note(record: ExperimentRecord, build: BuildRecord, page: _Page) -> list[str]:
    return _wrapped(build, text, page) if (text := strategy(record, build)) else []


def _job(job: TrainingRecord, several: bool) -> str:
    of = f" ({', '.join(job.predictors)})" if several and job.predictors else ""
    return f"{counted(job.rows, 'row')}{of}" + (f", loss {job.train_loss:.2f}" if job.train_loss is not None else "")


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
    for index, verdict in enumerate(verdicts, 1):
        line = lines[index]
        start = len(line) - len(_verdict(verdict))
        lines[index] = Line(line, [Span(start, len(line), _VERDICTS[verdict.verdict])])
    return lines


def _verdict(verdict: VerdictRecord) -> str:
    """The verdict; with UNDECIDED goes what the gate makes of it: fail, pass or warn."""
    word = f"UNDECIDED ({verdict.undecided})" if verdict.verdict == "UNDECIDED" else verdict.verdict
    return f"{word} (!)" if verdict.caution else word


def _cautions(record: ExperimentRecord, page: _Page) -> list[str]:
    """What to know before believing the figures, a paragraph each."""
    lines: list[str] = []
    for text in cautions(record):
        wrapped = textwrap.wrap(f"(!) {page.clean(text)}", max(page.width, 40), subsequent_indent="    ")
        lines += [
            Line(line, [Span(0, len("(!)"), "unsure")] if not index else []) for index, line in enumerate(wrapped)
        ]
    return lines
