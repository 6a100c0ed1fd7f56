"""A trace's example and answer as JSON and as short text, and how near the answer comes to the labels."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from pytest_dspy_ft.errors import DspyFtError
from pytest_dspy_ft.evaluation.score import prediction_json
from pytest_dspy_ft.experiment.example_id import describe, example_id
from pytest_dspy_ft.finetune.traces import Trace
from pytest_dspy_ft.text import excerpt, shorten, visible

MAX_TEXT = 300


def trace_json(trace: Trace, accept: float | None) -> dict[str, Any]:
    """A trace with all it holds, as JSON: what was paid for, to be read again."""
    steps = [
        {"predictor": step.predictor, "inputs": fields_json(step.inputs), "outputs": fields_json(step.outputs)}
        for step in trace.steps
    ]
    return {
        "id": identity(trace.example),
        "outcome": trace.outcome(accept),
        "score": trace.score,
        **example_json(trace.example),
        "answer": None if trace.answer is None else fields_json(trace.answer),
        "failure": trace.failure,
        "failed_in": trace.failed_in,
        "reply": trace.reply,
        "steps": steps,
    }


def fields_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by name, as JSON."""
    return dict(prediction_json(SimpleNamespace(toDict=lambda: fields)))


def example_json(example: Any) -> dict[str, dict[str, Any]]:
    """Inputs and labels of an example as JSON; one that came past the dataset's checks may hold anything."""
    try:
        return dict(describe(example))
    except DspyFtError:
        return {"inputs": fields_json(example.toDict()), "expected": {}}


def identity(example: Any) -> str:
    """The stable id of an example; empty where it has none."""
    try:
        return example_id(example)
    except DspyFtError:
        return ""


def text_excerpt(text: str) -> str:
    """A text on one line, shortened, without what drives a terminal."""
    return shorten(visible(text.replace("\n", "\\n")), MAX_TEXT, mark=" ... ", keep_end=25)


def value_excerpt(value: Any) -> str:
    """A JSON value on one line, shortened."""
    return text_excerpt(value) if isinstance(value, str) else excerpt(value, MAX_TEXT)


# --- The answer beside the labels ------------------------------------------------------------------------------------


def label_overlap(trace: Trace) -> float:
    """The share of the label's words that the answer holds, over all labelled fields; 0 where there is no label."""
    pairs = _labels_and_answers(trace)
    labels = sum((label for label, _ in pairs), Counter[str]())
    answers = sum((answer for _, answer in pairs), Counter[str]())
    return (labels & answers).total() / labels.total() if labels else 0.0


def is_partly_right(trace: Trace) -> bool:
    """True where the answer has some labelled fields right and others wrong."""
    right = [label == answer for label, answer in _labels_and_answers(trace)]
    return any(right) and not all(right)


def _labels_and_answers(trace: Trace) -> list[tuple[Counter[str], Counter[str]]]:
    """The words of label and answer, for each labelled field that the answer has."""
    answer = fields_json(trace.answer or {})
    return [
        (_words(name, label), _words(name, answer[name]))
        for name, label in example_json(trace.example)["expected"].items()
        if name in answer
    ]


def _words(field: str, value: Any) -> Counter[str]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Counter(f"{field}/{word}" for word in re.findall(r"\w+", text.casefold()))
