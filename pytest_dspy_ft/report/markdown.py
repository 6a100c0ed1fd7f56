"""A record as GitHub's Markdown, for pull requests and step summaries: what failed first, then the figures.

Whatever comes from a model, a dataset or a name is written as character references inside ``<code>`` or ``<pre>``: it
can neither format the page nor mention a user, and stays what it was.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from pytest_dspy_ft.records.gate import VerdictRecord
from pytest_dspy_ft.records.run import ExperimentRecord, MetricSummary, RunRecord
from pytest_dspy_ft.report.changes import explain_comparison, headline, render_comparison, render_trajectories
from pytest_dspy_ft.report.confusion import Confusion, confusions
from pytest_dspy_ft.report.diagnosis import diagnosis_lines, kept_of_attempted
from pytest_dspy_ft.report.examples import show_fields
from pytest_dspy_ft.report.slices import slice_tables, worst_slices
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
from pytest_dspy_ft.text import bracket, counted, duration, grouped, one_line, percent, points, price, shorten, shown

MOST_CHARACTERS = 60_000
"""GitHub refuses a comment of more than 65 536 characters."""
MOST_MESSAGES = 20
"""Messages of failed gates that are shown whole."""
LONGEST_MESSAGE = 4000
MOST_CELLS = 5
"""Cells of a confusion matrix whose examples are listed."""
MOST_BEHIND_A_CELL = 5
LONGEST_NAME = 200

_SIGNS = {"PASS": "✅", "FAIL": "❌", "UNDECIDED": "❔"}


def render(record: RunRecord, most: int = MOST_CHARACTERS) -> str:
    """The whole session as Markdown, short enough for a comment on a pull request.

    Args:
        record: The session.
        most: The most characters, but for a line at the end that says what was left out and how it was made.
    """
    blocks = [block for experiment in record.experiments for block in _experiment(experiment)]
    notes = [f"> ⚠️ **INCOMPLETE**: {_code(reason)}" for reason in record.incomplete]
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    foot = f"<sub>{html.escape(one_line(f'{record.created} · {duration(record.seconds)} · {versions}'))}</sub>"
    text, left_out = "", 0
    for block in [*notes, *blocks]:
        if (kept := cut_table(block, most - len(text))) is None:
            left_out += 1
        else:
            text += kept + "\n\n"
    if left_out:
        text += f"_{counted(left_out, 'part')} of this report left out: a comment takes no longer one._\n\n"
    return text + foot + "\n"


def cut_table(block: str, most: int) -> str | None:
    """A part of a report that takes at most so many characters: a table with as many rows as fit, any other whole.

    Args:
        block: The part.
        most: The most characters.

    Returns:
        None where not even one row fits.
    """
    if len(block) <= most:
        return block
    lines = block.split("\n")
    if not block.startswith("| ") or any(not line.startswith("|") for line in lines):
        return None
    head, rule, *rows = lines
    kept, length = [head, rule], len(head) + len(rule) + len("\n\n\nand 1 000 000 more rows")
    while rows and length + len(rows[0]) + 1 <= most:
        length += len(rows[0]) + 1
        kept.append(rows.pop(0))
    return "\n".join([*kept, "", f"and {counted(len(rows), 'more row')}"]) if len(kept) > 2 else None


def _experiment(record: ExperimentRecord) -> Iterator[str]:
    failed = [verdict for verdict in record.verdicts if not verdict.passed]
    worse = record.comparison is not None and not record.comparison.passed
    yield f"## {'❌' if failed or worse or _broken(record) else '✅'} dspy: {_code(record.name)}"
    yield _headline(record, failed)
    for build in record.stages:
        if build.status == "failed":
            yield _folded(f"❌ stage {_code(build.stage)} could not be built", build.reason)
    told = [gate.verdict for gate in judged_gates(failed)]
    for verdict in told[:MOST_MESSAGES]:
        summary = f"{_SIGNS[verdict.verdict]} {_code(verdict.title)} on {verdict.on}: {_code(verdict.observed)}"
        yield _folded(summary, verdict.message or "no message was recorded")
    if len(told) > MOST_MESSAGES:
        yield f"and {counted(len(told) - MOST_MESSAGES, 'more failed gate')}, in the table below"
    if record.comparison is not None:
        summary = f"{'❌' if worse else '✅'} {_code(headline(record.comparison))}"
        lines = [explain_comparison(record), ""] if worse else []
        yield _folded(summary, "\n".join([*lines, *render_comparison(record, width=120)]))
    for text in cautions(record):
        yield f"> ⚠️ {_prose(text)}"
    if record.verdicts:
        ordered = sorted(judged_gates(record.verdicts), key=lambda gate: gate.verdict.passed)
        yield _table(("", "gate", "on", ">observed", "verdict"), [_gate(gate) for gate in ordered])
    metrics = metric_names(row.figures for row in summary_rows(record))
    if rows := [row for row in _stages(record, metrics) if row]:
        head = ("stage", "on", ">score", ">95% CI", ">vs previous", ">fixed", ">broke", *(f">{m}" for m in metrics))
        yield _table((*head, ">unparsed", ">errors", ">tokens/call", ">$/1k calls"), rows)
    yield from (_prose(way) for way in render_trajectories(record, width=100_000))
    yield from _slices(record)
    yield from (_confusion(record, matrix) for matrix in confusions(record) if matrix.confused)
    yield from _traces(record)
    yield from _strategies(record)


def _broken(record: ExperimentRecord) -> bool:
    return any(build.status == "failed" for build in record.stages)


def _headline(record: ExperimentRecord, failed: Sequence[VerdictRecord]) -> str:
    (usage, seconds), asked = spent(record), judged(record)
    gates = len(record.verdicts)
    parts = [
        f"**{gates - len(failed)} of {counted(gates, 'gate')} hold{'s' * (gates == 1)}**" if gates else "**no gates**",
        f"lm {_code(record.lm)}",
        split_sizes(record),
        f"limit {record.limit}" if record.limit is not None else "",
        f"seed {record.seed}",
        counted(usage.lm_calls, "LM call"),
        counted(asked.lm_calls, "call") + " of the metric's judge" if asked.lm_calls else "",
        duration(seconds),
    ]
    return " · ".join(filter(None, parts))


def _gate(gate: JudgedGate) -> list[str]:
    verdict = gate.verdict
    return [
        _SIGNS[verdict.verdict],
        _code(verdict.title),
        verdict.on,
        _code(verdict.observed),
        (gate.label if verdict.passed else f"**{gate.label}**") + (" ⚠️" if verdict.caution else ""),
    ]


def _stages(record: ExperimentRecord, metrics: Sequence[str]) -> Iterator[list[str]]:
    for row in summary_rows(record):
        if (figures := row.figures) is None:
            yield [_code(row.stage), _code(row.note), *[""] * (9 + len(metrics))]
            continue
        changes = ["", "", ""]
        if (interval := figures.difference_interval) is not None:
            gain = f"{points(figures.difference or 0.0):+.1f} {bracket(interval, '+')}"
            changes = [gain, grouped(figures.fixed or 0), grouped(figures.broke or 0)]
        yield [
            _code(row.stage),
            figures.on + ("" if figures.planned is None else f", {used_of_planned(figures)} examples"),
            percent(figures.score),
            bracket(figures.interval),
            *changes,
            *(_metric(figures.metrics.get(name)) for name in metrics),
            grouped(figures.unparsed),
            f"**{grouped(figures.errors)}**" if figures.errors else "0",
            grouped(figures.tokens_per_call),
            price(figures.cost_per_call),
        ]


def _slices(record: ExperimentRecord) -> Iterator[str]:
    """The scores of all stages by slice, and the worst slices."""
    yield from (_prose(text) for text in worst_slices(record))
    for table in slice_tables(record):
        heads = [f"by {_code(table.by)} on {table.on}", ">n", *(f">{_code(stage)}" for stage in table.stages)]
        rows = [
            [
                _code(row.name),
                grouped(row.n),
                *(f"{percent(cell.score)} {bracket(cell.interval)}" if cell else "" for cell in row.cells),
            ]
            for row in table.rows
        ]
        more = f"\n\nand {counted(table.left_out, 'more slice')}" if table.left_out else ""
        yield _table(heads, rows) + more


def _confusion(record: ExperimentRecord, matrix: Confusion) -> str:
    """A matrix to unfold, and some of the examples behind its largest cells."""
    answers = matrix.answers
    rows = []
    for label in matrix.labels:
        counts = [(answer, matrix.count(label, answer)) for answer in answers]
        cells = [f"**{grouped(count)}**" if count and answer == label else grouped(count) for answer, count in counts]
        rows.append([_code(label), *cells])
    table = _table([f"{_code(matrix.by)} → answered", *(f">{_code(answer)}" for answer in answers)], rows)
    cells = [_cell(record, matrix, *cell) for cell in matrix.confused[:MOST_CELLS]]
    wrong = sum(matrix.count(*cell) for cell in matrix.confused)
    summary = f"confusion of {_code(matrix.by)} by {_code(matrix.stage)} on {matrix.on}: {grouped(wrong)} confused"
    return "\n\n".join([f"<details><summary>{summary}</summary>", table, *cells, "</details>"])


def _cell(record: ExperimentRecord, matrix: Confusion, label: str, answer: str) -> str:
    ids = list(dict.fromkeys(matrix.cells[label, answer]))
    shown = []
    for identity in ids[:MOST_BEHIND_A_CELL]:
        content = record.examples.get(identity)
        shown.append(f"- {_code(identity)} {_code(show_fields(content.inputs)) if content else ''}".rstrip())
    more = [f"- and {grouped(len(ids) - MOST_BEHIND_A_CELL)} more"] if len(ids) > MOST_BEHIND_A_CELL else []
    head = f"{_code(label)} answered {_code(answer)}, {grouped(matrix.count(label, answer))}:"
    return "\n".join([head, "", *shown, *more])


def _metric(said: MetricSummary | None) -> str:
    """What a further metric says of a stage, with its interval and what it could not measure."""
    if said is None:
        return ""
    failed = f" **{counted(said.errors, 'error')}**" if said.errors else ""
    return f"{percent(said.score)} {bracket(said.interval)}{failed}"


def _traces(record: ExperimentRecord) -> Iterator[str]:
    """How the traces of fine-tuned stages were collected."""
    for build in record.stages:
        for traces in build.bootstraps:
            yield f"{_code(build.stage)}: {kept_of_attempted(traces)}"
            if lines := diagnosis_lines(traces, examples=len(traces.examples)):
                yield _folded(f"What became of the traces of {_code(build.stage)}", "\n".join(lines))


def _strategies(record: ExperimentRecord) -> Iterator[str]:
    """Which steps of a combining optimizer won."""
    for build in record.stages:
        if text := strategy(record, build):
            yield f"{_code(build.stage)}: {_code(text)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a head that begins with ``>`` is that of a column of figures. Cells are escaped already."""
    rule = ["---:" if head.startswith(">") else "---" for head in heads]
    lines = [[head.removeprefix(">").replace("$", "&#36;") for head in heads], rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _folded(summary: str, text: str) -> str:
    """A text to unfold below a summary; blank lines end no HTML block inside ``<pre>``."""
    text = shown(text)
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[:LONGEST_MESSAGE]}\n... ({counted(len(text) - LONGEST_MESSAGE, 'more character')})"
    return f"<details><summary>{summary}</summary>\n\n<pre>{html.escape(text)}</pre>\n\n</details>"


def _prose(text: str) -> str:
    """Sentences of ours, with names from elsewhere in them: nothing in them is acted on, and nobody is mentioned."""
    return _code(text, LONGEST_MESSAGE).replace("<code>", "").replace("</code>", "").replace("&#64;", "&#64;&#8203;")


def _code(text: str, longest: int = LONGEST_NAME) -> str:
    """The text on one line as code, with a character reference for all that Markdown or GitHub could act on."""
    short = shorten(one_line(text), longest)
    escaped = "".join(c if c.isalnum() or c in " …·" else f"&#{ord(c)};" for c in short)
    return f"<code>{escaped}</code>"
