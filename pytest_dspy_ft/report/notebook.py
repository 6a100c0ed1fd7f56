"""An experiment's record as tables of HTML for a notebook: its stages with their figures, and its gates."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_dspy_ft.html_table import Row, html_table
from pytest_dspy_ft.records.run import ExperimentRecord, SummaryRecord
from pytest_dspy_ft.report.summary import judged_gates, split_sizes, summary_rows
from pytest_dspy_ft.text import bracket, grouped, one_line, percent, points, price

_FIGURES = (
    "on",
    ">score",
    ">95% CI",
    ">points vs previous",
    ">fixed",
    ">broke",
    ">unparsed",
    ">errors",
    ">tokens per call",
    ">$ per 1k calls",
)


def experiment_html(record: ExperimentRecord) -> str:
    """What is known of an experiment: nothing is built, measured or asked.

    Args:
        record: The experiment.
    """
    title = f"{record.name}: {record.lm}, {split_sizes(record)}"
    rows = [
        Row((row.stage, *(_figures(row.figures) if row.figures else (row.note, *[""] * (len(_FIGURES) - 1)))))
        for row in summary_rows(record)
    ]
    if not rows:
        rows = [Row((stage, "not asked for yet", *[""] * (len(_FIGURES) - 1))) for stage in record.order]
    tables = [html_table(one_line(title), ("stage", *_FIGURES), rows)]
    if record.verdicts:
        gates = [
            Row(
                (gate.verdict.title, gate.verdict.on, gate.verdict.observed, gate.label),
                {"PASS": "good", "FAIL": "bad"}.get(gate.verdict.verdict, "unsure"),
            )
            for gate in judged_gates(record.verdicts)
        ]
        tables.append(html_table("gates", ("gate", "on", ">observed", "verdict"), gates))
    return "\n".join(tables)


def _figures(row: SummaryRecord) -> Sequence[str]:
    change = ""
    if row.difference is not None and row.difference_interval is not None:
        change = f"{points(row.difference):+.1f} {bracket(row.difference_interval, '+')}"
    return (
        row.on,
        percent(row.score),
        bracket(row.interval),
        change,
        "" if row.fixed is None else grouped(row.fixed),
        "" if row.broke is None else grouped(row.broke),
        grouped(row.unparsed),
        grouped(row.errors),
        grouped(row.tokens_per_call),
        price(row.cost_per_call),
    )
