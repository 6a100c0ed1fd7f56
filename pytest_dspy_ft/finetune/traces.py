"""Collecting traces for fine-tuning: by running a teacher, or from the labels.

DSPy's own collector dies on the first exception or unreadable reply, trains on the teacher's prompt although the
student runs with its own, and picks rows by position in the trace. This one treats failures as data, and files every
call under the predictor that made it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import dspy

from pytest_dspy_ft.errors import BuildError, ExperimentError, ProviderError
from pytest_dspy_ft.evaluation.run import Call, Runtime, run_program
from pytest_dspy_ft.evaluation.score import to_score
from pytest_dspy_ft.experiment.copies import copy_fields, copy_value, on_copies
from pytest_dspy_ft.lms.failures import describe_exception, failed_at_provider, judge_failure
from pytest_dspy_ft.progress import Progress

TraceOutcome = Literal["kept", "rejected", "unparsed", "raised"]


@dataclass(frozen=True)
class TraceStep:
    """One predictor call inside a trace, by the predictor's name."""

    predictor: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]


@dataclass(frozen=True)
class Trace:
    """The course of one train example: its predictor calls, its score, or how it failed."""

    example: Any
    steps: tuple[TraceStep, ...] = ()
    score: float | None = None
    """None where there is nothing to score."""
    answer: dict[str, Any] | None = None
    """The program's answer; None where it gave none."""
    failure: str | None = None
    unparsed: bool = False
    failed_in: str | None = None
    """The predictor whose call failed, where one did."""
    reply: str = ""
    """The LM's own text where that could not be read."""
    lm_failed: bool = False
    """True where the failure is an LM's or its provider's, and not the program's or the metric's."""

    def outcome(self, accept: float | None) -> TraceOutcome:
        """The outcome for the example; kept if its score reaches ``accept`` or, without one, is anything above 0."""
        if self.failure is not None:
            return "unparsed" if self.unparsed else "raised"
        if self.score is None:
            return "rejected"
        return "kept" if (self.score > 0.0 if accept is None else self.score >= accept) else "rejected"


def collect_traces(
    teacher: Any,
    examples: Sequence[Any],
    metric: Callable[..., Any] | None,
    runtime: Runtime,
    *,
    progress: Progress,
    title: str,
    accept: float | None = None,
) -> list[Trace]:
    """Run the teacher on every example and keep what it did.

    Args:
        teacher: A ``dspy.Module``; predictors without an LM of their own run on the runtime's.
        examples: The train split.
        metric: ``(example, prediction, trace) -> bool | float``; None scores every answer 1.
        runtime: LM, adapter and threads.
        progress: Told how far it is.
        title: What progress calls this work.
        accept: The score from which a trace is kept, for progress to count; None: above 0.

    Returns:
        One trace for each example, in their order; failures included.

    Raises:
        ProviderError: If the provider refuses, or does not come back.
    """
    name_of = _predictor_namer(teacher)
    failed: list[Exception] = []

    def to_trace(call: Call) -> Trace:
        # What a metric does to a prediction or to the trace must not reach the training rows.
        steps = tuple(
            TraceStep(name, copy_fields(inputs), copy_fields(prediction.toDict()))
            for predictor, inputs, prediction in call.trace
            if (name := name_of(predictor)) is not None
        )
        if (error := call.failure) is not None:
            if call.provider_failed:
                failed.append(error)
            return Trace(
                call.example,
                steps,
                lm_failed=failed_at_provider(error),
                failure=describe_exception(error),
                unparsed=call.unparsed,
                failed_in=_failed_in(error, name_of),
                reply=str(getattr(error, "lm_response", "") or "") if call.unparsed else "",
            )
        answer = call.prediction.toDict() if hasattr(call.prediction, "toDict") else {"value": call.prediction}
        trace = Trace(call.example, steps, answer=copy_fields(answer))
        return _scored(trace, metric, call.prediction, list(call.trace), failed)

    outcomes: Counter[str] = Counter()

    def counted(call: Call) -> Trace:
        trace = to_trace(call)
        outcomes[trace.outcome(accept)] += 1
        return trace

    with progress.task(title, total=len(examples), unit="traces") as task:

        def advanced(count: int, why: str = "") -> None:
            said = ", ".join(f"{outcomes[name]} {name}" for name in get_args(TraceOutcome) if outcomes[name])
            task.advance(count, note=why or said)

        traces = run_program(teacher, examples, replace(runtime, traced=True), counted, advanced, advanced)
    if failed:  # training on what an outage left over would make another model under the same key
        why = describe_exception(failed[-1])
        raise ProviderError(
            f"{title}: the provider failed on {len(failed)} of {len(examples)} examples, also when they were tried "
            f"again later; run it again once it is back, answers it already gave are kept\n  {why}"
        )
    return traces


def unteachable(student: Any, examples: Sequence[Any]) -> str:
    """Why labels cannot teach a program: a field of one of its predictors that no example has; empty where they can."""
    for name, (inputs, outputs) in _fields_of(student).items():
        missing = [field for field in (*inputs, *outputs) if not any(field in example for example in examples)]
        if missing:
            return (
                f"labels cannot teach predictor {name!r}: no train example has {', '.join(missing)}; "
                "use dspy.Predict where labels hold no reasoning, or a stage with teacher="
            )
    return ""


def _fields_of(student: Any) -> dict[str, tuple[list[str], list[str]]]:
    """The inputs and outputs of a program's predictors, by name."""
    return {
        name: (list(predictor.signature.input_fields), list(predictor.signature.output_fields))
        for name, predictor in student.named_predictors()
    }


def label_traces(student: Any, examples: Sequence[Any], metric: Callable[..., Any] | None) -> list[Trace]:
    """Traces in which every predictor answers with the example's own fields: labels as the teacher.

    Args:
        student: The program that will be trained.
        examples: The train split.
        metric: Judges the labels as it would judge answers; None scores all 1.

    Raises:
        BuildError: If a predictor has an input or output that no example holds.
    """
    if missing := unteachable(student, examples):
        raise BuildError(missing)
    fields = _fields_of(student)

    def trace(example: Any) -> Trace:
        steps = []
        for name, (inputs, outputs) in fields.items():
            absent = [field for field in (*inputs, *outputs) if field not in example]
            if absent:
                return Trace(example, failure=f"the example has no {', '.join(absent)}", failed_in=name)
            given = copy_value(example)
            steps.append(TraceStep(name, {f: given[f] for f in inputs}, {f: given[f] for f in outputs}))
        answer = {name: value for step in steps for name, value in step.outputs.items()}
        return _scored(Trace(example, tuple(steps), answer=answer), metric, dspy.Prediction(**answer), None, [])

    return [trace(example) for example in examples]


def _scored(
    trace: Trace,
    metric: Callable[..., Any] | None,
    prediction: Any,
    calls: list[Any] | None,
    failed: list[Exception],
) -> Trace:
    """The trace with the metric's score, or with what the metric raised.

    Args:
        trace: All of it but the score.
        metric: It gets copies of everything but the predictors in ``calls``.
        prediction: The program's answer.
        calls: The predictor calls; None where none were made.
        failed: What a provider failed that the metric asked is added here.
    """
    if metric is None:
        return replace(trace, score=1.0)
    try:
        return replace(trace, score=to_score(on_copies(metric)(trace.example, prediction, calls)))
    except ExperimentError:  # no LM for the metric: the next example would say so too
        raise
    except Exception as error:
        if judge_failure(error) != "own":
            failed.append(error)
        why = f"metric: {describe_exception(error)}"
        return replace(trace, failure=why, lm_failed=failed_at_provider(error))


def _failed_in(error: BaseException, name_of: Callable[[Any], str | None]) -> str | None:
    """The predictor whose call an exception came out of: the innermost one on its traceback."""
    found: str | None = None
    traceback = error.__traceback__
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, dspy.Predict):
            found = name_of(owner) or found
        traceback = traceback.tb_next
    # A program may raise anew what a predictor raised.
    inner = error.__cause__ or error.__context__
    return found if found is not None or inner is None else _failed_in(inner, name_of)


def _predictor_namer(program: Any) -> Callable[[Any], str | None]:
    """A function from a predictor to its name in a program, also where the program runs copies of its predictors."""
    by_identity = {id(predictor): name for name, predictor in program.named_predictors()}
    by_mark: dict[str, str | None] = {}
    for name, predictor in program.named_predictors():
        # dspy.Predict draws a random mark that its copies keep; two predictors copied from one share it.
        by_mark[predictor.stage] = name if predictor.stage not in by_mark else None
    return lambda predictor: by_identity.get(id(predictor)) or by_mark.get(getattr(predictor, "stage", ""))
