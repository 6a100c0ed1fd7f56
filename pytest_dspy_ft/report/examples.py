"""One example in words, for messages: what went in, what was expected, what a stage answered."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_dspy_ft.records.evaluation import ExampleResult
from pytest_dspy_ft.text import short_line


def show_answer(example: ExampleResult) -> str:
    """A program's answer to an example, on one line: its fields and a graded score, or why there are none."""
    score = "" if example.score in (0.0, 1.0) else f" (score {example.score:.3g})"
    if example.outcome == "scored":
        return f"{show_fields(example.prediction) or 'gave nothing'}{score}"
    said = example.error or show_fields(example.prediction)
    return f"{'UNPARSED' if example.outcome == 'unparsed' else 'ERROR'}{f': {short_line(said)}' if said else ''}"


def show_fields(fields: object) -> str:
    """Fields and their values on one line, shortened."""
    if not isinstance(fields, Mapping):
        return "" if fields is None else short_line(str(fields))
    return short_line(", ".join(f"{name}={value!r}" for name, value in fields.items()))
