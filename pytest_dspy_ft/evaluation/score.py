"""One call of a program, and what it is worth: the metric's answer as a score, failures as data."""

from __future__ import annotations

import datetime
import enum
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, JsonValue

from pytest_dspy_ft.errors import MetricError
from pytest_dspy_ft.evaluation.judge import NOBODY, Judge
from pytest_dspy_ft.evaluation.run import Call
from pytest_dspy_ft.experiment.copies import copy_value
from pytest_dspy_ft.experiment.metrics import Metric
from pytest_dspy_ft.lms.failures import describe_exception, describe_provider_failure, failed_at_provider
from pytest_dspy_ft.records.evaluation import ExampleResult, MetricScore, Outcome
from pytest_dspy_ft.records.output import Output
from pytest_dspy_ft.text import shorten

_ROUNDING = 1e-6
"""How far beyond [0, 1] a score is taken for noise: cosines of equal float32 vectors come to 1.0000001."""

_LONGEST_FEEDBACK = 2000

_NEEDED = "return a bool, a number in [0, 1], or dspy.Prediction(score=..., feedback=...)"

_ADVICE: Final[dict[type, str]] = {
    type(None): ": does each of its ways out return one?",
    dict: "; for a score with a reason return dspy.Prediction(score=..., feedback=...)",
    tuple: "; for a score with a reason return dspy.Prediction(score=..., feedback=...)",
    str: "; return the comparison itself, or float() of a judge's number",
}
"""What would be right instead of an answer of this type."""

_DEEPEST = 50
"""Levels of a prediction that are kept: the record around it adds its own, and pydantic reads no more than 255."""


@dataclass(frozen=True)
class Metrics:
    """An experiment's metrics, and whose LM answers them."""

    metric: Metric
    """The one that a stage's score is by."""
    further: Mapping[str, Metric] = field(default_factory=dict)
    """The others, by name."""
    judge: Judge = NOBODY


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


def score_output(
    output: Output,
    example: Any,
    prediction: Any,
    metrics: Metrics,
    strict: bool = False,
    standing: ExampleResult | None = None,
) -> ExampleResult:
    """Judge what a call gave. What cannot be measured is an error with score 0, never an exception.

    Args:
        output: What it gave.
        example: The example.
        prediction: The prediction as the program returned it; None where there is none.
        metrics: The experiment's metrics, which get copies of both.
        strict: An answer that no working metric gives is an exception.
        standing: What the metric, and those of the further ones that it names, said before: they are not asked again.

    Raises:
        ExperimentError: If a metric asks for an LM, and there is none.
        MetricError: If ``strict``, and what a metric returned is no score.
    """
    result = functools.partial(ExampleResult, id=output.id, usage=output.usage, prediction=output.prediction)
    if not output.scorable:
        outcome: Outcome = "unparsed" if output.unparsed else "error"
        return result(score=0.0, outcome=outcome, error=output.error, fault=output.fault)

    def said(metric: Metric, name: str) -> MetricScore:
        return metric_score(metric, example, prediction, metrics.judge, refused_as=name if strict else "")

    score = said(metrics.metric, "metric") if standing is None else None
    kept = {} if standing is None else standing.further
    further = {n: kept[n] if n in kept else said(metric, f"metric {n!r}") for n, metric in metrics.further.items()}
    if score is None:
        assert standing is not None, "else the metric was asked"
        return standing.model_copy(update={"further": further})
    return result(
        score=score.score,
        outcome="scored" if score.error is None else "error",
        error=score.error,
        fault=score.fault,
        feedback=score.feedback,
        judge=score.judge,
        further=further,
    )


def metric_score(
    metric: Metric, example: Any, prediction: Any, judge: Judge = NOBODY, *, refused_as: str = ""
) -> MetricScore:
    """What one metric says of one prediction.

    Args:
        metric: The metric, which gets copies of both.
        example: The example.
        prediction: The prediction as the program returned it.
        judge: Whose LM answers the metric.
        refused_as: Names the metric in the error about an answer that no working metric gives; empty: such an answer
            is a result like what a metric raises.

    Raises:
        ExperimentError: If the metric asks for an LM, and there is none.
        MetricError: If its answer is refused.
    """
    answered = judge.answered(metric, copy_value(example), copy_value(prediction))
    failed = functools.partial(MetricScore, score=0.0, judge=answered.usage)
    score, feedback, error = 0.0, None, answered.exception
    if error is None:
        try:
            score, feedback = to_score(answered.value), feedback_of(answered.value)
        except Exception as raised:
            error = raised
            advice = "".join(getattr(raised, "__notes__", ()))
            if refused_as and advice and answered.lm_failure is None:
                raise MetricError(f"{refused_as} ({_name_of(metric)}) cannot work: {raised}{advice}") from None
    failure = answered.lm_failure or (error if error is not None and failed_at_provider(error) else None)
    if failure is not None:
        caught = "caught by the metric" if error is None else "metric"
        return failed(error=f"{caught}: {describe_provider_failure(failure)}", fault="provider")
    if error is not None:
        return failed(error=f"metric: {describe_exception(error)}", fault="metric")
    return MetricScore(score=score, feedback=feedback, judge=answered.usage)


def to_score(value: Any) -> float:
    """A metric's answer as a score.

    Args:
        value: A bool or a number in [0, 1] of any type (float, Decimal, Fraction, a numpy or torch scalar), or a
            ``dspy.Prediction`` with such a field ``score``. What rounding adds beyond 0 or 1 is taken off.

    Raises:
        ValueError: If it is NaN or further outside [0, 1] than rounding takes it.
        TypeError: If it is nothing of these.

    An answer that no working metric gives, unlike NaN, has a note on its error that says what would be right.
    """
    if hasattr(value, "toDict"):
        fields = value.toDict()
        if "score" not in fields:
            raise _noted(TypeError(f"the metric returned a {type(value).__name__} without a field 'score'"))
        value = fields["score"]
    if hasattr(value, "item") and not isinstance(value, (bool, int, float)):
        try:
            value = value.item()
        except (ValueError, RuntimeError) as error:  # an array of several
            raise _noted(error) from None
    if not hasattr(type(value), "__float__"):  # ints and bools have it too; text has not
        shown = shorten(repr(value), 200)
        needed = TypeError(f"the metric returned {shown}; a bool or a number in [0, 1] is needed")
        raise _noted(needed, _ADVICE.get(type(value), f"; {_NEEDED}"))
    score = float(value)
    if math.isnan(score):
        raise ValueError(f"the metric returned {score}, which is outside [0, 1]")
    if not -_ROUNDING <= score <= 1.0 + _ROUNDING:
        advice = "; divide by 100" if 1 < score <= 100 else f"; {_NEEDED}"
        raise _noted(ValueError(f"the metric returned {score}, which is outside [0, 1]"), advice)
    return min(max(0.0, score), 1.0)


def feedback_of(value: Any) -> str | None:
    """What a metric said beside its score, as much of it as is kept; None where it said nothing."""
    said = getattr(value, "feedback", None) if hasattr(value, "toDict") else None
    return None if said is None else shorten(str(said), _LONGEST_FEEDBACK)


def _noted(error: Exception, advice: str = "") -> Exception:
    error.add_note(advice or f"; {_NEEDED}")
    return error


def _name_of(metric: Any) -> str:
    return str(getattr(metric, "__name__", None) or type(metric).__name__)


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
    if isinstance(value, enum.Enum):
        value = value.value
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
