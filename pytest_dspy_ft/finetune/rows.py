"""Training rows, written with the prompt that the trained program will run with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_dspy_ft.finetune.traces import Trace

ChatRow = Mapping[str, Any]
"""One training row in the chat format: ``{"messages": [...]}``, the last message being the assistant's."""


def training_rows(
    traces: Sequence[Trace], student: Any, adapter: Any, *, accept: float | None, exclude_demos: bool
) -> list[tuple[str, ChatRow]]:
    """Rows for all kept traces, written with the student's own instructions and demos.

    Args:
        traces: From :func:`collect_traces`.
        student: The program that will be trained; its predictors have the teacher's names.
        adapter: The adapter the student runs with; it formats the rows.
        accept: See :meth:`Trace.outcome`.
        exclude_demos: Write the rows without the student's demos (it must then run without them).

    Returns:
        (predictor name, row) in the order of the traces.
    """
    predictors = dict(student.named_predictors())
    rows = []
    for trace in traces:
        if trace.outcome(accept) != "kept":
            continue
        for step in trace.steps:
            predictor = predictors[step.predictor]
            row = adapter.format_finetune_data(
                signature=predictor.signature,
                demos=[] if exclude_demos else predictor.demos,
                inputs=step.inputs,
                outputs=step.outputs,
            )
            rows.append((step.predictor, row))
    return rows
