"""One call of a program, and what it is worth: the metric's answer as a score, failures as data."""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, JsonValue

from pytest_dspy_ft.evaluation.judge import NOBODY, Judge
from pytest_dspy_ft.evaluation.run import Call
from pytest_dspy_ft.experiment.copies import copy_value
from pytest_dspy_ft.experiment.experiment import Metric
from pytest_dspy_ft.lms.failures import describe_exception, describe_provider_failure, failed_at_provider
from pytest_dspy_ft.records.evaluation import ExampleResult, Outcome
from pytest_dspy_ft.records.output import Output

_ROUNDING = 1e-6
"""How far beyond [0, 1] a score is taken for noise: cosines of equal float32 vectors come to 1.0000001."""

_DEEPEST = 50
"""Levels of a prediction that are kept: the record around it adds its own, and pydantic reads no more than 255."""


def output_of(call: Call, identity: str) -> Output:
    """What a call gave: its prediction, or who failed.

    Args:
        call: The call.
        identity: The example's stable id.
    """
    output = functools.partial(Output, id=identity, usage=call.usage, replies=tuple(call.replies))
    if call.lm_failure is not None:
        said = describe_provider_failure(call.lm_failure)
        if call.exception is not None:
            return output(error=said, fault="provider")
        shown = prediction_json(call.prediction)
        return output(error=f"caught by the program: {said}", fault="provider", prediction=shown)
    if call.exception is not None:
        said = describe_exception(call.exception)
        return output(error=said, unparsed=True) if call.unparsed else output(error=said, fault="program")
    return output(prediction=prediction_json(call.prediction))


def score_output(output: Output, example: Any, prediction: Any, metric: Metric, judge: Judge = NOBODY) -> ExampleResult:
    """Judge what a call gave.

    Args:
        output: What it gave.
        example: The example.
        prediction: The prediction as the program returned it; None where there is none.
        metric: The experiment's metric, which gets copies of both.
        judge: Whose LM answers the metric.

    Raises:
        ExperimentError: If the metric asks for an LM, and there is none.
    """
    result = functools.partial(ExampleResult, id=output.id, usage=output.usage, prediction=output.prediction)
    if not output.scorable:
        outcome: Outcome = "unparsed" if output.unparsed else "error"
        return result(score=0.0, outcome=outcome, error=output.error, fault=output.fault)
    answered = judge.answered(metric, copy_value(example), copy_value(prediction))
    result = functools.partial(result, judge=answered.usage)
    failed = functools.partial(result, score=0.0, outcome="error")
    score, error = 0.0, answered.exception
    if error is None:
        try:
            score = to_score(answered.value)
        except Exception as raised:
            error = raised
    failure = answered.lm_failure or (error if error is not None and failed_at_provider(error) else None)
    if failure is not None:
        caught = "caught by the metric" if error is None else "metric"
        return failed(error=f"{caught}: {describe_provider_failure(failure)}", fault="provider")
    if error is not None:
        return failed(error=f"metric: {describe_exception(error)}", fault="metric")
    return result(score=score)


def to_score(value: Any) -> float:
    """A metric's answer as a score.

    Args:
        value: A bool or a number in [0, 1] of any type (float, Decimal, Fraction, a numpy or torch scalar), or a
            ``dspy.Prediction`` with such a field ``score``. What rounding adds beyond 0 or 1 is taken off.

    Raises:
        ValueError: If it is NaN or further outside [0, 1] than rounding takes it.
        TypeError: If it is nothing of these.
    """
    if hasattr(value, "toDict"):
        fields = value.toDict()
        if "score" not in fields:
            raise TypeError(f"the metric returned a {type(value).__name__} without a field 'score'")
        value = fields["score"]
    if hasattr(value, "item") and not isinstance(value, (bool, int, float)):
        value = value.item()
    if not hasattr(type(value), "__float__"):  # ints and bools have it too; text has not
        raise TypeError(f"the metric returned {value!r}; a bool or a number in [0, 1] is needed")
    score = float(value)
    if math.isnan(score) or not -_ROUNDING <= score <= 1.0 + _ROUNDING:
        raise ValueError(f"the metric returned {score}, which is outside [0, 1]")
    return min(max(0.0, score), 1.0)


def prediction_json(prediction: Any) -> dict[str, JsonValue]:
    """A prediction as JSON, for records: values that JSON cannot hold become text."""
    try:
        fields = prediction.toDict() if hasattr(prediction, "toDict") else {"value": prediction}
    except Exception:  # it converts all fields at once: let one that cannot be converted not take the others along
        fields = dict(prediction.items())
    return {str(name): _json_or_note(value) for name, value in fields.items()}


def _json_or_note(value: Any) -> JsonValue:
    try:
        return _json(value)
    except Exception as error:  # a list that holds itself, bytes in a model, an object whose own code fails
        return f"<{type(value).__name__} that cannot be shown: {describe_exception(error, 100)}>"


def _json(value: Any, depth: int = 0) -> JsonValue:
    if depth > _DEEPEST:
        return f"<{type(value).__name__} nested too deeply to be kept>"
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, BaseModel):
        return _json(value.model_dump(mode="json"), depth)
    if isinstance(value, Mapping):
        return {str(k): _json(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v, depth + 1) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_json(v, depth + 1) for v in value), key=str)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy and torch: a scalar becomes a number, an array lists of them
        return _json(value.tolist(), depth)
    return str(value)
