"""A record as one HTML page that loads nothing from elsewhere: template, style and script lie in ``page/``.

The page's content security policy allows just the style and the script that are in it, by their hashes, so that text
from a model or a dataset could not run even if it got past the escaping. The figures stand in the page as text; the
examples, of which there may be many, as JSON that the script shows a part of at a time.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from pytest_dspy_ft import text
from pytest_dspy_ft.records.base import SPLITS
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.history import HistoryPoint
from pytest_dspy_ft.records.output import Reply
from pytest_dspy_ft.records.pairing import by_copy
from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord
from pytest_dspy_ft.records.trajectories import TRAJECTORY_KINDS, trajectories
from pytest_dspy_ft.report import charts
from pytest_dspy_ft.report.changes import render_trajectories, verdict_words
from pytest_dspy_ft.report.confusion import Confusion, confusions
from pytest_dspy_ft.report.examples import show_fields
from pytest_dspy_ft.report.prompts import prompt_table
from pytest_dspy_ft.report.show import reply_facts
from pytest_dspy_ft.report.slices import slice_tables, worst_slices
from pytest_dspy_ft.report.summary import (
    cautions,
    judged_gates,
    metric_names,
    spent,
    strategy,
    summary_rows,
    used_of_planned,
)

_TEXT_BUDGET = 24_000_000
"""Characters that all example texts together may take: a page of more would be slow to open."""
_LONGEST_TEXT = 10_000
_LONGEST_LABEL = 60
_MOST_BEHIND_A_CELL = 50
"""Examples of a cell of a confusion matrix that are listed."""
_SHORTEST_TEXT = 200


def render(record: RunRecord, history: Sequence[HistoryPoint] = ()) -> str:
    """The whole session as one page.

    Args:
        record: The session's.
        history: Points of earlier sessions and this one, of any experiment, the oldest first.
    """
    style, script = _part("page.css"), _part("page.js")
    environment = Environment(
        loader=FunctionLoader(_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "used_of_planned": used_of_planned,
        "percent": text.percent,
        "bracket": text.bracket,
        "grouped": text.grouped,
        "price": text.price,
        "shown": shown_value,
        "line": text.one_line,
        "label": lambda label: text.shorten(text.one_line(label), _LONGEST_LABEL),
        "counted": text.counted,
        "duration": text.duration,
        "gain": lambda gain: f"{gain:+.1f}" if abs(gain) < 100 else f"{gain:+,.0f}".replace(",", " "),
        "points": lambda share: f"{text.points(share):+.1f}",
        "comparison_verdict": verdict_words,
    }
    return environment.get_template("page.html").render(
        record=record,
        experiments=[_experiment(e, str(number), history) for number, e in enumerate(record.experiments)],
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        splits=SPLITS,
    )


def shown_value(value: Any, limit: int = 4000) -> str:
    """A value as text, characters that would not be seen written out, its end left out where it is long."""
    plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(plain) > limit:
        return f"{text.shown(plain[:limit])}… ({text.counted(len(plain) - limit, 'more character')})"
    return text.shown(plain)


def _experiment(record: ExperimentRecord, number: str, history: Sequence[HistoryPoint]) -> dict[str, Any]:
    """All that the template shows of one experiment."""
    usage, seconds = spent(record)
    rows = list(summary_rows(record))
    summary = [row.figures for row in rows if row.figures is not None]
    return {
        "id": f"x{number}",
        "record": record,
        "usage": usage,
        "seconds": seconds,
        "held": sum(verdict.passed for verdict in record.verdicts),
        "verdicts": sorted(judged_gates(record.verdicts), key=lambda gate: gate.verdict.passed),
        "broken": [build for build in record.stages if build.status == "failed"],
        "notes": [row for row in rows if row.figures is None],
        "cautions": cautions(record),
        "strategies": [(b.stage, words) for b in record.stages if (words := strategy(record, b))],
        "ways": render_trajectories(record, width=100_000),
        "worst": worst_slices(record),
        "slices": list(slice_tables(record)),
        "confusions": [_confusion(record, matrix) for matrix in confusions(record)],
        "summary": summary,
        "metrics": metric_names(summary),
        "ladder": charts.ladder_chart(summary),
        "trend": charts.trend_charts([point for point in history if point.experiment == record.name]),
        "builds": {build.stage: build for build in record.stages},
        "traces": [
            (build.stage, traces, charts.share_bar(traces), charts.histogram(traces))
            for build in record.stages
            for traces in build.bootstraps
            if traces.attempted
        ],
        "curves": [
            (details.stage, curve.name, charts.loss_curve(curve))
            for details in record.details
            for curve in details.curves
        ],
        "prompts": prompt_table(record.details),
        "data": _json(_examples(record)),
        "evaluated": any(result.n for result in record.results),
    }


def _confusion(record: ExperimentRecord, matrix: Confusion) -> dict[str, Any]:
    """What the template shows of a confusion matrix: rows of counts, and the examples behind each cell."""

    def behind(cell: tuple[str, str]) -> dict[str, Any]:
        ids = list(dict.fromkeys(matrix.cells[cell]))
        contents = [(identity, record.examples.get(identity)) for identity in ids[:_MOST_BEHIND_A_CELL]]
        lines = [(identity, show_fields(content.inputs) if content else "") for identity, content in contents]
        return {"examples": lines, "more": len(ids) - len(lines)}

    answers = matrix.answers
    numbers = {cell: number for number, cell in enumerate(matrix.cells)}
    most = max(map(len, matrix.cells.values()))
    rows = []
    for label in matrix.labels:
        cells = [(answer, matrix.count(label, answer), numbers.get((label, answer))) for answer in answers]
        # Steps of a tenth: the page's policy allows no style that stands in an element.
        shades = [math.ceil(10 * count / most) for _, count, _ in cells]
        rows.append((label, [(*cell, shade) for cell, shade in zip(cells, shades, strict=True)]))
    ordered = sorted(matrix.cells, key=lambda cell: (cell[0] == cell[1], -matrix.count(*cell)))
    return {
        "matrix": matrix,
        "answers": answers,
        "rows": rows,
        "cells": [(numbers[cell], *cell, matrix.count(*cell), behind(cell)) for cell in ordered],
    }


def _examples(record: ExperimentRecord) -> dict[str, Any]:
    """Every example of every split with what each stage made of it, as compact JSON for the script.

    A row is ``[id, inputs, expected, answers, trajectory]``; fields are ``[name, text]``; an answer is ``[score,
    outcome, fields, error, replies, said]``, or None where the stage did not see the example; a reply is ``[facts,
    text]``. ``said`` are fields too: the feedback, and the further metrics.
    """
    results = [result for result in record.results if result.n]
    cells = sum(result.n for result in results) + 2 * len(record.examples)
    limit = min(max(_TEXT_BUDGET // max(cells, 1), _SHORTEST_TEXT), _LONGEST_TEXT)
    splits = {}
    for split in SPLITS:
        here = sorted((r for r in results if r.on == split), key=lambda result: _rank(record, result))
        if here:
            splits[split] = {"stages": [r.stage for r in here], "rows": _example_rows(record, here, limit)}
    return {"splits": splits, "kinds": TRAJECTORY_KINDS}


def _rank(record: ExperimentRecord, result: StageResult) -> int:
    return record.order.index(result.stage) if result.stage in record.order else len(record.order)


def _example_rows(record: ExperimentRecord, results: list[StageResult], limit: int) -> list[list[Any]]:
    answers = [by_copy(result.examples) for result in results]
    ladder = [result for result in results if result.stage in record.order]
    paths = by_copy(trajectories(ladder)) if len(ladder) > 1 else {}
    replies = {(one.stage, one.id): one.replies for one in record.replies if results and one.on == results[0].on}
    rows = []
    for key in dict.fromkeys(key for known in answers for key in known):
        identity, path = key[0], paths.get(key)
        content = record.examples.get(identity)
        rows.append(
            [
                identity,
                _fields(content.inputs, limit) if content else [],
                _fields(content.expected, limit) if content else [],
                [
                    _answer(known.get(key), limit, replies.get((result.stage, identity), ()))
                    for result, known in zip(results, answers, strict=True)
                ],
                path.kind if path else "",
            ]
        )
    return rows


def _answer(example: ExampleResult | None, limit: int, replies: Sequence[Reply]) -> list[Any] | None:
    if example is None:
        return None
    error = shown_value(example.error, limit) if example.error else ""
    read = [[reply_facts(reply), shown_value(reply.text, limit)] for reply in replies]
    said = {"feedback": example.feedback} if example.feedback else {}
    for name, by in example.further.items():
        parts = [f"{by.score:.3g}" if by.error is None else f"error: {by.error}", by.feedback or ""]
        said[name] = ": ".join(filter(None, parts))
    fields = _fields(example.prediction or {}, limit)
    return [round(example.score, 6), example.outcome, fields, error, read, _fields(said, limit)]


def _fields(values: dict[str, Any], limit: int) -> list[list[str]]:
    return [[text.one_line(name), shown_value(value, limit)] for name, value in values.items()]


def _json(value: Any) -> Markup:
    """JSON that can stand in a ``<script>`` element: nothing in it ends the element or begins a comment."""
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Markup(plain)


def _part(name: str) -> str:
    return resources.files("pytest_dspy_ft.report").joinpath("page", name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
