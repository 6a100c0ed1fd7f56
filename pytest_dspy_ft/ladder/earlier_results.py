"""Outputs out of scores of earlier versions, which kept predictions as people read them.

They are taken where that leaves no doubt what a prediction was: DSPy's own predictors give just the fields of their
signature, and a field is taken whose type gives the same JSON again. What a program of the user's own returned may have
been anything that reads like it.
"""

from __future__ import annotations

from typing import Any

import dspy
from pydantic import TypeAdapter

from pytest_dspy_ft.evaluation.kept_predictions import KeptPredictions
from pytest_dspy_ft.evaluation.known import DSPY_MODULES
from pytest_dspy_ft.evaluation.score import prediction_json
from pytest_dspy_ft.ladder.context import LadderContext, Measuring
from pytest_dspy_ft.ladder.evaluation_task import EvaluationTask
from pytest_dspy_ft.lms.resolve import is_local
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.records.output import Output
from pytest_dspy_ft.redaction import HIDDEN


class UnclearError(Exception):
    """What a prediction was cannot be told from what is kept of it; the message says why."""


def outputs_of_results(
    context: LadderContext, task: EvaluationTask, measuring: Measuring, kept: KeptPredictions, known: Any
) -> None:
    """Add to known outputs what an earlier version's evaluation of the same build holds, or why it does not count.

    Args:
        context: The experiment in this session.
        task: What is to be measured.
        measuring: What that rests on now.
        kept: Writes predictions down.
        known: The outputs that count so far: none.
    """
    wanted = set(task.call_ids(context.experiment.examples(task.on)))
    for result in context.store.evaluations_of(task.experiment, task.name, task.on):
        calls = {call.call_id: call for example in result.examples for call in example.each}
        if result.outputs or not task.digest or result.build != task.digest or calls.keys() != wanted:
            continue
        if context.must_renew(task.name, task.outputs_key, result.session):
            continue
        try:
            doubt = _doubt(context, task, result, measuring)
            outputs = {} if doubt else {i: [_output(call, task.program, kept)] for i, call in calls.items()}
        except UnclearError as problem:
            doubt = f"an earlier version kept its predictions as text only: {problem}"
        if doubt:
            known.doubt = known.doubt or doubt
            continue
        known.calls = {i: some for i, some in outputs.items() if some[0].fault != "provider"}
        known.failed = {i: some for i, some in outputs.items() if some[0].fault == "provider"}
        known.footprints = [_of_program(result.footprint, measuring)] if result.footprint is not None else []
        known.earlier, known.batched = True, result.waited
        return


def _doubt(context: LadderContext, task: EvaluationTask, result: StageResult, measuring: Measuring) -> str:
    if result.footprint is None:
        return "made before what it rests on was kept"
    if is_local(task.lm) or dspy.settings.get("track_usage"):
        return "an earlier version did not keep all that its predictions were"
    return context.doubt(_of_program(result.footprint, measuring), measuring.answering)


def _of_program(footprint: Footprint, measuring: Measuring) -> Footprint:
    """The part of a footprint that is not the metric's alone: what nobody leads to now may have been the program's."""
    judging, answering = measuring.judging.labels(), measuring.answering.labels()
    alone = judging - answering
    return footprint.model_copy(
        update={
            "functions": {name: digest for name, digest in footprint.functions.items() if name not in alone},
            "state": {name: digests for name, digests in footprint.state.items() if name not in alone},
        }
    )


def _output(call: ExampleResult, program: Any, kept: KeptPredictions) -> Output:
    output = Output(id=call.id, repeat=call.repeat, usage=call.usage)
    if call.fault == "metric" or (call.outcome == "scored" and call.fault is None) or _judge_failed(call):
        values, why = kept.write(_prediction(call, program), call.prediction)
        if values is None:
            raise UnclearError(why)
        return output.model_copy(update={"prediction": call.prediction, "values": values})
    if call.outcome == "error" and call.fault not in ("program", "provider"):
        raise UnclearError("it does not say whose its errors were")
    failed = {"error": call.error, "prediction": call.prediction, "unparsed": call.outcome == "unparsed"}
    return output.model_copy(update={**failed, "fault": call.fault})


def _judge_failed(call: ExampleResult) -> bool:
    """True for an answer that stands, where the provider of the metric's LM failed."""
    return call.fault == "provider" and (call.error or "").startswith(("metric:", "caught by the metric:"))


def _prediction(call: ExampleResult, program: Any) -> Any:
    if type(program) not in DSPY_MODULES:
        raise UnclearError(f"what {type(program).__name__}.forward returned may have been more than its text")
    [predictor] = program.predictors()
    if (predictor.config.get("n") or 1) != 1 or call.prediction is None:
        raise UnclearError("there were several completions, or none")
    fields = {}
    for name, shown in call.prediction.items():
        field = predictor.signature.output_fields.get(name)
        if field is None:
            raise UnclearError(f"field {name!r} is none of its signature's")
        if HIDDEN in str(shown):
            raise UnclearError(f"field {name!r} held a key, which is not kept")
        try:
            fields[name] = TypeAdapter(field.annotation).validate_python(shown)
        except Exception:  # whatever a type of the user's own raises
            raise UnclearError(f"field {name!r} cannot be read as {field.annotation}") from None
    made = dspy.Prediction.from_completions([fields], signature=predictor.signature)
    if prediction_json(made) != call.prediction:
        raise UnclearError("its types do not give the same text again")
    return made
