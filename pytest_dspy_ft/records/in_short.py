"""Records in a line, and an evaluation as a table of HTML: what an interpreter or a notebook shows of them.

All of it is read off the record: nothing is measured or asked.
"""

from __future__ import annotations

from typing import Any

from pytest_dspy_ft.html_table import Row, html_table
from pytest_dspy_ft.text import LINE, bracket, counted, grouped, one_line, percent, price, shorten

_EXAMPLES = 5
_LONGEST_CELL = 200


def result_line(result: Any) -> str:
    """A ``StageResult``: which stage on which split, its score and interval, what went wrong."""
    if not result.n:
        return shorten(f"StageResult({result.stage} on {result.on}: no examples)", LINE)
    parts = [
        f"{percent(result.score)} {bracket(result.interval)}",
        f"n = {result.n}" + (f" of {result.planned}" if result.planned is not None else ""),
        f"{result.unparsed} unparsed" if result.unparsed else "",
        counted(result.errors, "error") if result.errors else "",
    ]
    return shorten(f"StageResult({result.stage} on {result.on}: {', '.join(filter(None, parts))})", LINE)


def example_line(example: Any) -> str:
    """An ``ExampleResult``: its id, what it scored, and the answer or what went wrong."""
    said = example.error if example.prediction is None else example.prediction
    told = f"ExampleResult({example.id}: {example.outcome}, score {example.score:g}, {one_line(str(said))})"
    return shorten(told, LINE)


def result_html(result: Any) -> str:
    """A ``StageResult`` as a table: its figures, and the examples that scored lowest."""
    where = f"{result.stage} on {result.on} ({result.experiment}, {result.lm})"
    if not result.n:
        return html_table(where, ("score",), [Row(("no examples",))])
    head = (
        "score",
        ">95% CI",
        ">n",
        ">unparsed",
        ">errors",
        ">tokens per call",
        ">$ per 1k calls",
        ">seconds per call",
    )
    figures = (
        percent(result.score),
        bracket(result.interval),
        grouped(result.n),
        grouped(result.unparsed),
        grouped(result.errors),
        grouped(result.tokens),
        price(result.cost),
        f"{result.latency:.2f}",
    )
    tables = [html_table(where, head, [Row(figures, "bad" if result.errors else "")])]
    lowest = sorted((one for one in result.examples if one.score < 1), key=lambda one: one.score)
    if lowest:
        rows = [
            Row((one.id, f"{one.score:.2g}", one.outcome, _cell(one.prediction), _cell(one.error or one.feedback)))
            for one in lowest[:_EXAMPLES]
        ]
        title = f"the lowest {len(rows)} of {counted(len(lowest), 'example')} below 1"
        tables.append(html_table(title, ("example", ">score", "outcome", "prediction", "error or feedback"), rows))
    return "\n".join(tables)


def _cell(value: Any) -> str:
    return "" if value is None else shorten(one_line(str(value)), _LONGEST_CELL)
