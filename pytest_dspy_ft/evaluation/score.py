"""One call of a program, and what it is worth: the metric's answer as a score, failures as data."""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, JsonValue

from pytest_dspy_ft.evaluation.run import Call
from pytest_dspy_ft.experiment.copies import copy_value
from pytest_dspy_ft.experiment.experiment import Metric
from pytest_dspy_ft.lms.failures import describe_exception, failed_at_provider
from pytest_dspy_ft.records.evaluation import ExampleResult, Fault, Outcome


def score_call(call: Call, metric: Metric, identity: str) -> ExampleResult:
    """Judge one call. What cannot be measured is an error with score 0, never an exception.

    Args:
        call: The call.
        metric: The experiment's metric.
        identity: The example's stable id.
    """
    result = functools.partial(ExampleResult, id=identity, usage=call.usage)
    if call.exception is not None:
        outcome: Outcome = "unparsed" if call.unparsed else "error"
        fault = None if call.unparsed else _fault(call.exception, "program")
        return result(score=0.0, outcome=outcome, error=describe_exception(call.exception), fault=fault)
    prediction = prediction_json(call.prediction)
    try:
        score = to_score(metric(copy_value(call.example), copy_value(call.prediction)))
    except Exception as error:
        said = f"metric: {describe_exception(error)}"
        return result(score=0.0, outcome="error", error=said, fault=_fault(error, "metric"), prediction=prediction)
    return result(score=score, prediction=prediction)


def _fault(error: Exception, raised_by: Fault) -> Fault:
    """What failed: the provider, also where a metric asked it, or the code that raised."""
    return "provider" if failed_at_provider(error) else raised_by


def to_score(value: Any) -> float:
    """A metric's answer as a score.

    Args:
        value: A bool, a number in [0, 1], a numpy scalar of these, or a ``dspy.Prediction`` with a field ``score``.

    Raises:
        ValueError: If it is NaN or outside [0, 1].
        TypeError: If it is nothing of these.
    """
    if hasattr(value, "toDict"):
        fields = value.toDict()
        if "score" not in fields:
            raise TypeError(f"the metric returned a {type(value).__name__} without a field 'score'")
        value = fields["score"]
    if hasattr(value, "item") and not isinstance(value, (bool, int, float)):
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"the metric returned {value!r}; a bool or a number in [0, 1] is needed")
    score = float(value)
    if math.isnan(score) or not 0.0 <= score <= 1.0:
        raise ValueError(f"the metric returned {score}, which is outside [0, 1]")
    return score


def prediction_json(prediction: Any) -> dict[str, JsonValue]:
    """A prediction as JSON, for records: values that JSON cannot hold become text."""
    fields = prediction.toDict() if hasattr(prediction, "toDict") else {"value": prediction}
    return {str(name): _json(value) for name, value in fields.items()}


def _json(value: Any) -> JsonValue:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, BaseModel):
        return _json(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_json(v) for v in value), key=str)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy and torch: a scalar becomes a number, an array lists of them
        return _json(value.tolist())
    return str(value)
