"""An experiment's metrics: what they may be called, and what they are called with."""

from __future__ import annotations

import functools
import inspect
import keyword
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pytest_dspy_ft.errors import ExperimentError
from pytest_dspy_ft.experiment.argument_checks import given_as
from pytest_dspy_ft.experiment.stage import RESERVED_NAMES

Metric = Callable[..., Any]

_WORDS = RESERVED_NAMES | {"score", "and", "or", "not"}
"""What a gate would read as something else."""

_QUANTILE = re.compile(r"p\d+")

_MOST_ARGUMENTS = 5
"""GEPA's metrics take gold, prediction, trace, the predictor's name and its trace."""


def checked_metrics(where: str, metrics: Mapping[str, Metric], stages: Collection[str]) -> dict[str, Metric]:
    """The further metrics of an experiment, each of a name that a gate can call.

    Args:
        where: Names the experiment, for messages.
        metrics: As they were declared.
        stages: The names of its stages.

    Raises:
        ExperimentError: If one cannot be called, or not by its name.
    """
    if not isinstance(metrics, Mapping):
        raise ExperimentError(
            f"{where}: metrics must be a dict of functions by name, such as {{'f1': token_f1}}, "
            f"not {type(metrics).__name__}"
        )
    for name, metric in metrics.items():
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ExperimentError(
                f"{where}: a gate cannot call a metric {name!r}: use a Python identifier such as 'token_f1'"
            )
        if name in _WORDS or _QUANTILE.fullmatch(name):
            words = ", ".join(sorted(RESERVED_NAMES))
            raise ExperimentError(
                f"{where}: metric {name!r} already means something in a gate: give it another name, such as "
                f"'{name}_metric'; words of the language are {words} and the quantiles p50, p90, p95, p99"
            )
        if name in stages:
            raise ExperimentError(f"{where}: {name!r} is a stage and a metric: rename one of them")
        check_metric(f"{where}: metric {name!r}", metric)
    return dict(metrics)


def check_metric(what: str, metric: Any) -> None:
    """Refuse a metric that can never be called with an example and a prediction.

    Args:
        what: Names it, for messages.
        metric: The metric.

    Raises:
        ExperimentError: If it cannot be called, or not so.
    """
    signature = "(example, prediction, trace=None)"
    if isinstance(metric, type):
        raise ExperimentError(f"{what} is {given_as(metric, '()')}")
    if not callable(metric):
        raise ExperimentError(
            f"{what} must be callable, not {given_as(metric, '')}: give the function itself, {signature}"
        )
    name = getattr(metric, "__name__", type(metric).__name__)
    parameters = _parameters(metric)
    if parameters is None:
        return
    given = _needed(parameters, 2)
    try:
        inspect.Signature(list(parameters)).bind(*[None] * given)
    except TypeError as error:
        raise ExperimentError(
            f"{what} cannot be called with an example and a prediction ({error}): let {name} take {signature}; GEPA's "
            "metrics take pred_name and pred_trace, too"
        ) from None


def filled(metric: Metric, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, and None for each further one that a metric insists on: a trace that nobody has, GEPA's names."""
    parameters = _parameters(metric)
    needed = len(arguments) if parameters is None else _needed(parameters, len(arguments))
    return (*arguments, *[None] * (needed - len(arguments)))


def _needed(parameters: Collection[inspect.Parameter], given: int) -> int:
    """How many arguments a function insists on, as far as a metric is given so many; at least those that are given."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
    return max(given, required if required <= _MOST_ARGUMENTS else given)


def _parameters(metric: Any) -> tuple[inspect.Parameter, ...] | None:
    """What a metric takes; None where it does not say."""
    called = metric
    if hasattr(metric, "named_predictors"):  # a dspy.Module: it hands on what it is called with
        called = next((getattr(metric, name) for name in ("forward", "aforward") if hasattr(metric, name)), metric)
    try:
        return _signature(called)
    except TypeError:  # it cannot be hashed
        return _read(called)


def _read(called: Any) -> tuple[inspect.Parameter, ...] | None:
    try:
        return tuple(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):
        return None


_signature = functools.lru_cache(maxsize=256)(_read)
