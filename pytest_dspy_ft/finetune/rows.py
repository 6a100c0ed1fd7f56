"""Training rows, written with the prompt that the trained program will run with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import dspy
from pydantic import TypeAdapter

from pytest_dspy_ft.evaluation.binding import predictor_lms
from pytest_dspy_ft.finetune.traces import Trace, TraceStep
from pytest_dspy_ft.insides.adapters import asked_signature, chat_messages
from pytest_dspy_ft.lms.calls import passing
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.text import shorten

ChatRow = Mapping[str, Any]
"""One training row in the chat format: ``{"messages": [...]}``, the last message being the assistant's."""


class UnwritableRowError(Exception):
    """A call of a trace cannot be written as a training row; the message says why."""


class _LMAskedError(Exception):
    """Reading a reply asks an LM."""


class RowWriter:
    """Writes training rows as the student's calls will be: its own prompt, in its adapter's words.

    The reply is what the adapter writes for a demo's outputs. It has to be read back by the same adapter as the same
    outputs; an adapter that asks an LM for that (``dspy.TwoStepAdapter``) is trusted, and the LM is not asked.

    Args:
        student: The program that will be trained; its predictors have the teacher's names.
        adapter: The adapter it runs with.
        lm: The LM of predictors without one of their own.
        exclude_demos: Write the rows without the student's demos (it must then run without them).
    """

    def __init__(self, student: Any, adapter: Any, lm: Any, *, exclude_demos: bool) -> None:
        self._predictors = dict(student.named_predictors())
        self._lms = predictor_lms(student, lm)
        self._adapter = adapter
        self._exclude_demos = exclude_demos

    def row(self, step: TraceStep) -> ChatRow:
        """The row of one predictor call.

        Raises:
            UnwritableRowError: If there is none, or its reply would not be read as it was meant.
        """
        predictor = self._predictors[step.predictor]
        demos = [] if self._exclude_demos else predictor.demos
        asked = {"signature": predictor.signature, "demos": demos, "inputs": dict(step.inputs)}
        try:
            if _writes_its_own_rows(self._adapter):
                return dict(self._adapter.format_finetune_data(**asked, outputs=step.outputs))
            lm, config = self._lms[step.predictor], getattr(predictor, "config", {})
            asked["signature"] = asked_signature(self._adapter, lm, predictor.signature, config, asked["inputs"])
            _check_outputs(predictor.signature, asked["signature"], step.outputs)
            messages = chat_messages(self._adapter.format(**asked))
            reply = self._adapter.format_assistant_message_content(asked["signature"], step.outputs)
        except UnwritableRowError:
            raise
        except Exception as error:  # a field's type, or an adapter of the user's own
            raise UnwritableRowError(
                f"{type(self._adapter).__name__} cannot write a row: {describe_exception(error)}"
            ) from error
        self._check_reply(asked["signature"], step.outputs, reply)
        return {"messages": [*messages, {"role": "assistant", "content": reply}]}

    def _check_reply(self, signature: Any, outputs: Mapping[str, Any], reply: str) -> None:
        """Read a reply as the program will, and hold what it gives against what it was written from."""
        name = type(self._adapter).__name__
        try:
            with _no_lm_calls():
                fields = self._adapter.parse(signature, reply)
        except Exception as error:
            if _asked_an_lm(error):
                return
            raise UnwritableRowError(f"{name} cannot read its own reply: {describe_exception(error)}") from error
        for field, info in signature.output_fields.items():
            if not _same(outputs.get(field), fields.get(field), info.annotation):
                back = shorten(repr(fields.get(field)), 80)
                raise UnwritableRowError(f"{name} would read its reply as another: {field} comes back as {back}")


def written_rows(
    traces: Sequence[Trace], writer: RowWriter, accept: float | None
) -> tuple[list[Trace], list[tuple[str, ChatRow]]]:
    """Rows for all kept traces, and the traces: one whose calls cannot all be written is no longer kept.

    Args:
        traces: From :func:`collect_traces`.
        writer: Writes a row.
        accept: See :meth:`Trace.outcome`.

    Returns:
        The traces in their order, and (predictor name, row) in the order of the traces.
    """
    told, rows = [], []
    for trace in traces:
        if trace.outcome(accept) == "kept":
            written = []
            for step in trace.steps:
                try:
                    written.append((step.predictor, writer.row(step)))
                except UnwritableRowError as error:
                    trace = replace(trace, failure=f"training row: {error}", failed_in=step.predictor)
                    break
            else:
                rows += written
        told.append(trace)
    return told, rows


def unwritable(adapter: Any) -> str:
    """The reason why no training row can be written with an adapter at all; empty where there is none."""
    if _writes_its_own_rows(adapter):
        return ""
    for method in ("format_assistant_message_content", "parse"):
        if getattr(type(adapter), method, None) in (None, getattr(dspy.Adapter, method)):
            return f"it has no {method}()"
    return ""


def _writes_its_own_rows(adapter: Any) -> bool:
    """True for an adapter of the user's that has its own way to write rows."""
    method = getattr(type(adapter), "format_finetune_data", None)
    return method is not None and not str(getattr(method, "__module__", "")).startswith("dspy.")


def _check_outputs(declared: Any, asked: Any, outputs: Mapping[str, Any]) -> None:
    """Check that what the student's reply has to hold is there, and that a reply's text can hold all that was given."""
    for name, field in declared.output_fields.items():
        value = outputs.get(name)
        if name in asked.output_fields:
            optional = type(None) in getattr(field.annotation, "__args__", ()) or field.annotation is type(None)
            if value is None and not optional:
                raise UnwritableRowError(f"the answer has no {name}, which the student's prompt asks for")
        elif value and field.annotation is not dspy.Reasoning:
            raise UnwritableRowError(f"{name} is no part of a reply's text: the student's LM gives it by itself")


def _same(given: Any, read: Any, annotation: Any) -> bool:
    """Whether a value was read back: as it was, as its field's type makes it, or as text; space around it is lost."""
    if given == read or str(given).split() == str(read).split():
        return True
    with contextlib.suppress(Exception):  # a type of the user's, or a value that is not of it
        return bool(TypeAdapter(annotation).validate_python(given) == read)
    return False


class _Refusing:
    """Takes the place of a budget, and lets no call through."""

    def reserved(self, lm: Any, call: Any) -> NoReturn:
        """Refuse the call."""
        raise _LMAskedError

    def count(self, *_: Any) -> None:
        """Nothing is paid."""


@contextlib.contextmanager
def _no_lm_calls() -> Iterator[None]:
    with passing(budget=_Refusing()):
        yield


def _asked_an_lm(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _LMAskedError):
            return True
        error = error.__cause__ or error.__context__
    return False
