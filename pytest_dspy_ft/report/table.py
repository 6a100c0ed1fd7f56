"""The summary table of one experiment as lines of text: nothing printed, no verdicts of its own.

A terminal that is too narrow costs whole columns, the least needed first, and a line says which. What the records do
not hold is left blank; a price that is not known is ``?``. Lines say which of their parts are good or bad
(:class:`~pytest_dspy_ft.report.styling.Line`); whether that becomes a colour is the terminal's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from pytest_dspy_ft.records.build import BuildRecord, TrainingRecord
from pytest_dspy_ft.records.gate import VerdictName
from pytest_dspy_ft.records.run import ExperimentRecord, SummaryRecord
from pytest_dspy_ft.records.usage import Usage
from pytest_dspy_ft.report.changes import render_comparison, render_trajectories
from pytest_dspy_ft.report.diagnosis import diagnosis_lines, kept_of_attempted
from pytest_dspy_ft.report.slice_lines import render_slices
from pytest_dspy_ft.report.slices import slice_tables
from pytest_dspy_ft.report.styling import Line, Page, Span, Style
from pytest_dspy_ft.report.summary import (
    JudgedGate,
    cautions,
    judged,
    judged_gates,
    metric_names,
    spent,
    split_sizes,
    strategy,
    summary_rows,
    used_of_planned,
)
from pytest_dspy_ft.report.tables import Column, fitted, laid_out
from pytest_dspy_ft.text import counted, duration, grouped, percent, points, price

# What goes, in this order, while the stage table is too wide. Score, unparsed and errors always stay.
_DISPENSABLE = (
    *("$/1k calls", "tokens/call", "intervals of further metrics", "95% CI of the difference", "fixed and broke"),
    *("95% CI", "vs previous", "further metrics"),
)

_SHORTEST_NAME = 12

_NOTES: dict[str, Style] = {"failed": "bad", "skipped": "unsure"}
_VERDICTS: dict[VerdictName, Style] = {"PASS": "good", "FAIL": "bad", "UNDECIDED": "unsure"}


def title(record: ExperimentRecord, *, unicode: bool = True) -> str:
    """The heading of an experiment's section: ``dspy: tickets``."""
    return f"dspy: {Page(unicode=unicode).clean(record.name)}"


def render(
    record: ExperimentRecord, *, width: int = 80, unicode: bool = True, told: Mapping[str, str] | None = None
) -> list[Line]:
    """The lines that sum up what a session knows of one experiment: what ran, every score, every gate.

    LM calls and time are those of this session, by :func:`~pytest_dspy_ft.report.summary.spent`.

    Args:
        record: The experiment.
        width: Columns of the terminal.
        unicode: False for a terminal that shows ASCII only.
        told: Stages whose failure is told already, each with where: their diagnosis is not given again.
    """
    page, told = Page(width, unicode), told or {}
    ways = render_trajectories(record, width=width, unicode=unicode)
    slices = render_slices(record, width=width, unicode=unicode)
    blocks: list[Sequence[str]] = [
        _header(record, page),
        _stage_table(record, told, page),
        [
            line
            for build in record.stages
            for line in (
                *_training_note(build, page),
                *_diagnosis(build, told, page),
                *_strategy_note(record, build, page),
            )
        ],
        *([ways, slices] if any(True for _ in slice_tables(record)) else [[*ways, *slices]]),
        _gate_table(judged_gates(record.verdicts), page),
        _cautions(record, page),
        render_comparison(record, width=width, unicode=unicode),
    ]
    lines = [line for block in blocks if block for line in ("", *block)][1:]
    return [line if isinstance(line, Line) else Line(line) for line in lines]


# --- Header ---------------------------------------------------------------------------------------------------------


def _header(record: ExperimentRecord, page: Page) -> list[str]:
    (usage, seconds), asked = spent(record), judged(record)
    count = {status: sum(build.status == status for build in record.stages) for status in ("built", "loaded", "failed")}
    parts = [
        f"lm {page.clean(record.lm)}",
        split_sizes(record),
        f"limit {grouped(record.limit)}" if record.limit is not None else "",
        f"seed {record.seed}",
        f"{repeats} repeats" if (repeats := max((r.repeats for r in record.results), default=1)) > 1 else "",
        f"{count['built']} built, {count['loaded']} loaded"
        + (f", {count['failed']} failed" if count["failed"] else ""),
        counted(usage.lm_calls, "LM call") + _not_made(usage),
        counted(asked.lm_calls, "call") + " of the metric's judge" + _not_made(asked) if asked.lm_calls else "",
        duration(seconds),
    ]
    return page.joined(filter(None, parts), " · ")


def _not_made(usage: Usage) -> str:
    """Which of the calls were answered without asking an LM."""
    kinds = ((usage.cached_calls, "answered from a cache"), (usage.replayed_calls, "replayed from recordings"))
    counts = [f"{grouped(count)} {kind}" for count, kind in kinds if count]
    return f" ({', '.join(counts)})" if counts else ""


# --- Stages ----------------------------------------------------------------------------------------------------------


def _stage_table(record: ExperimentRecord, told: Mapping[str, str], page: Page) -> list[str]:
    failed = [build.stage for build in record.stages if build.status == "failed"]
    notes = {stage: f"failed: see {told[stage]}" for stage in failed if stage in told}
    rows = [row._replace(note=page.plain(notes.get(row.stage, row.note))) for row in summary_rows(record)]
    if not rows:
        return []
    names = Column("stage", [page.clean(row.stage) for row in rows], "left")
    columns = [column for column in _figures([row.figures for row in rows]) if any(column.cells)]
    lines, level = fitted([names, *columns], page.width, len(_DISPENSABLE))
    if (over := page.overhang(lines)) > 0:
        names = _narrowed(names, over, page)
        lines = laid_out([names, *columns], level)

    # A note is no figure: it may run across all columns, and must not widen any.
    start = max(len(names.header), *map(len, names.cells)) + len("  ")
    errors = lines[0].find(" errors") + len(" errors")  # where that column ends: its figures end there too
    for index, row in enumerate(rows, 1):
        if row.note:
            text = names.cells[index - 1].ljust(start) + page.cut(row.note, page.width - start)
            style = _NOTES.get(row.note.partition(":")[0])
            lines[index] = Line(text, [Span(start, len(text), style)] if style else [])
        elif row.figures and row.figures.errors:
            lines[index] = Line(lines[index], [Span(errors - len(grouped(row.figures.errors)), errors, "bad")])
    gone = [name for stop, name in enumerate(_DISPENSABLE[:level], 1) if any(c.levels.stop == stop for c in columns)]
    return lines + page.wrapped(f"(no room: {', '.join(gone)})") if gone else lines


def _narrowed(names: Column, by: int, page: Page) -> Column:
    """A column of names that is narrower by so much, as far as its longest names can be cut."""
    room = max(max(map(len, names.cells)) - by, _SHORTEST_NAME)
    return names._replace(cells=[page.cut(name, room) for name in names.cells])


def _figures(rows: Sequence[SummaryRecord | None]) -> list[Column]:
    """All columns that show figures; a row without any has an empty cell in each."""

    def each(figure: Callable[[SummaryRecord], str]) -> list[str]:
        return [figure(row) if row else "" for row in rows]

    def known(count: int | None) -> str:
        return "" if count is None else grouped(count)

    early = any(row is not None and row.planned is not None for row in rows)
    gains = each(lambda row: "" if row.difference is None else f"{points(row.difference):+.1f}")
    intervals = _brackets([row.difference_interval if row else None for row in rows], "+")
    both = [f"{gain} {interval}".rstrip() for gain, interval in zip(gains, intervals, strict=True)]
    return [
        Column("on", each(lambda row: row.on), "left"),
        Column("examples", each(used_of_planned) if early else [""] * len(rows), "left"),
        Column("score", each(lambda row: percent(row.score))),
        Column("95% CI", _brackets([row.interval if row else None for row in rows]), "left", range(6)),
        Column("vs previous", both, "right", range(4)),
        Column("vs previous", gains, "right", range(4, 7)),
        Column("fixed", each(lambda row: known(row.fixed)), "right", range(5)),
        Column("broke", each(lambda row: known(row.broke)), "right", range(5)),
        *_metric_columns(rows),
        Column("unparsed", each(lambda row: grouped(row.unparsed))),
        Column("errors", each(lambda row: grouped(row.errors))),
        Column("tokens/call", each(lambda row: grouped(row.tokens_per_call)), "right", range(2)),
        Column("$/1k calls", each(lambda row: price(row.cost_per_call)), "right", range(1)),
    ]


def _metric_columns(rows: Sequence[SummaryRecord | None]) -> Iterator[Column]:
    """A column for each further metric, with its interval as long as there is room."""
    for name in metric_names(rows):
        found = [row.metrics.get(name) if row else None for row in rows]
        scores = ["" if said is None else percent(said.score) for said in found]
        failed = [f" ({counted(said.errors, 'error')})" if said and said.errors else "" for said in found]
        intervals = _brackets([None if said is None else said.interval for said in found])
        whole = [f"{s} {i}{e}".rstrip() for s, i, e in zip(scores, intervals, failed, strict=True)]
        yield Column(name, whole, "left", range(3))
        yield Column(name, [f"{s}{e}" for s, e in zip(scores, failed, strict=True)], "left", range(3, 8))


def _brackets(intervals: Sequence[tuple[float, float] | None], sign: str = "") -> list[str]:
    """Intervals in points, bracketed, their numbers one below the other."""
    ends = [tuple(f"{points(end):{sign}.1f}" for end in interval) if interval else None for interval in intervals]
    low, high = (max((len(pair[i]) for pair in ends if pair), default=0) for i in (0, 1))
    return [f"[{pair[0]:>{low}}, {pair[1]:>{high}}]" if pair else "" for pair in ends]


def _training_note(build: BuildRecord, page: Page) -> list[str]:
    """One line, or as many as it takes, on how the traces were collected and what was trained on them."""
    parts = [kept_of_attempted(traces) for traces in build.bootstraps]
    if build.training:
        parts.append(f"trained on {' and '.join(_job(job, len(build.training) > 1) for job in build.training)}")
    if not parts:
        return []
    return _wrapped(build, "; ".join(parts), page)


def _wrapped(build: BuildRecord, note: str, page: Page) -> list[str]:
    """A note on a stage on as many lines as it takes."""
    text = f"{page.clean(build.stage)}: {page.clean(note)}"
    return page.wrapped(text, subsequent_indent="  ", break_on_hyphens=False)


def _diagnosis(build: BuildRecord, told: Mapping[str, str], page: Page) -> list[str]:
    """Why so few traces were kept, where few were."""
    lines: list[str] = []
    if build.status == "failed" and build.stage in told:
        return lines
    for line in [line for record in build.bootstraps if record.low for line in diagnosis_lines(record)]:
        indent = " " * (2 + len(line) - len(line.lstrip()))
        lines += page.wrapped(
            page.clean(line), initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False
        )
    return lines


def _strategy_note(record: ExperimentRecord, build: BuildRecord, page: Page) -> list[str]:
    return _wrapped(build, text, page) if (text := strategy(record, build)) else []


def _job(job: TrainingRecord, several: bool) -> str:
    of = f" ({', '.join(job.predictors)})" if several and job.predictors else ""
    return f"{counted(job.rows, 'row')}{of}" + (f", loss {job.train_loss:.2f}" if job.train_loss is not None else "")


# --- Gates -----------------------------------------------------------------------------------------------------------


def _gate_table(judged: Sequence[JudgedGate], page: Page) -> list[str]:
    if not judged:
        return []
    gates = Column("gate", [page.clean(gate.verdict.title) for gate in judged], "left")
    columns = [
        Column("on", [gate.verdict.on for gate in judged], "left"),
        Column("observed", [page.clean(gate.verdict.observed) for gate in judged]),
        Column("verdict", [_verdict(gate) for gate in judged], "left"),
    ]
    lines = laid_out([gates, *columns])
    if (over := page.overhang(lines)) > 0:
        lines = laid_out([_narrowed(gates, over, page), *columns])
    for index, gate in enumerate(judged, 1):
        line = lines[index]
        start = len(line) - len(_verdict(gate))
        lines[index] = Line(line, [Span(start, len(line), _VERDICTS[gate.verdict.verdict])])
    return lines


def _verdict(gate: JudgedGate) -> str:
    return f"{gate.label} (!)" if gate.verdict.caution else gate.label


def _cautions(record: ExperimentRecord, page: Page) -> list[str]:
    """Cautions before believing the figures, a paragraph each."""
    lines: list[str] = []
    for text in cautions(record):
        wrapped = page.wrapped(f"(!) {page.clean(text)}", subsequent_indent="    ")
        lines += [
            Line(line, [Span(0, len("(!)"), "unsure")] if not index else []) for index, line in enumerate(wrapped)
        ]
    return lines
