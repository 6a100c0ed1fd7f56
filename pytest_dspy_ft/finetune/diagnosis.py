"""What a collection of traces came to: counts, a few of the traces that were not kept, and what would help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pytest_dspy_ft.finetune.remedies import remedies_for
from pytest_dspy_ft.finetune.rows import ChatRow
from pytest_dspy_ft.finetune.trace_content import (
    example_json,
    fields_json,
    identity,
    label_overlap,
    text_excerpt,
    value_excerpt,
)
from pytest_dspy_ft.finetune.traces import Trace, TraceOutcome
from pytest_dspy_ft.records.build import BootstrapRecord, FailedTrace, PredictorTraces

MAX_EXAMPLES = 3
"""Failed traces of each outcome that a record holds; the stage's folder holds them all."""
MAX_FAILURES = 5


def diagnose(
    traces: Sequence[Trace],
    rows: Sequence[tuple[str, ChatRow]],
    student: Any,
    *,
    teacher: str,
    accept: float | None,
    minimum: int,
) -> BootstrapRecord:
    """The record of a collection: what it came to, and what would make it better.

    Args:
        traces: All of them, failures included.
        rows: The training rows of those that were kept, by predictor.
        student: The program that is to be trained.
        teacher: Name of the stage that answered, or ``labels``.
        accept: What a trace's score had to reach; None: anything above 0.
        minimum: How many must be kept.
    """
    outcomes = [trace.outcome(accept) for trace in traces]
    failures = [t.failure for t in traces if t.failure is not None]
    names = [name for name, _ in student.named_predictors()]
    rows_of = Counter(name for name, _ in rows)
    record = BootstrapRecord(
        teacher=teacher,
        accept=accept,
        minimum=minimum,
        kept=outcomes.count("kept"),
        rejected=outcomes.count("rejected"),
        unparsed=outcomes.count("unparsed"),
        raised=outcomes.count("raised"),
        scores=tuple(t.score for t in traces if t.score is not None),
        rows={name: rows_of[name] for name in dict.fromkeys(name for name, _ in rows)},
        failures=tuple(text_excerpt(f) for f in dict.fromkeys(failures))[:MAX_FAILURES],
        predictors=tuple(
            PredictorTraces(
                predictor=name,
                calls=sum(step.predictor == name for t in traces for step in t.steps),
                rows=rows_of[name],
                unparsed=sum(t.failed_in == name and t.unparsed for t in traces),
                raised=sum(t.failed_in == name and not t.unparsed for t in traces),
            )
            for name in names
        ),
        examples=_examples(traces, outcomes),
    )
    if not record.low:
        return record
    return record.model_copy(update={"remedies": remedies_for(record, traces, outcomes, student)})


def _examples(traces: Sequence[Trace], outcomes: Sequence[TraceOutcome]) -> tuple[FailedTrace, ...]:
    """A few of the traces that were not kept, of each outcome; of the rejected, those that came nearest first."""
    found = []
    for wanted in ("rejected", "unparsed", "raised"):
        matching = [trace for trace, outcome in zip(traces, outcomes, strict=True) if outcome == wanted]
        if wanted == "rejected":
            matching.sort(key=lambda t: (-(t.score or 0.0), -label_overlap(t)))
        found += [_failed_trace(trace, wanted) for trace in matching[:MAX_EXAMPLES]]
    return tuple(found)


def _failed_trace(trace: Trace, outcome: Literal["rejected", "unparsed", "raised"]) -> FailedTrace:
    content = example_json(trace.example)
    if trace.answer is not None:
        reply = ", ".join(f"{k}: {value_excerpt(v)}" for k, v in fields_json(trace.answer).items())
    else:
        reply = trace.reply
    return FailedTrace(
        id=identity(trace.example),
        outcome=outcome,
        score=trace.score,
        predictor=trace.failed_in,
        inputs={name: value_excerpt(value) for name, value in content["inputs"].items()},
        expected={name: value_excerpt(value) for name, value in content["expected"].items()},
        reply=text_excerpt(reply),
        error=text_excerpt(trace.failure or ""),
    )
