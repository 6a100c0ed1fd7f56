"""Further metrics as they are declared: names that a gate can call, functions that can be called."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Stage
from pytest_dspy_ft.errors import ExperimentError
from pytest_dspy_ft.experiment.metrics import filled
from pytest_dspy_ft.experiment.stage import RESERVED_NAMES
from pytest_dspy_ft.gates.expression import FUNCTIONS
from tests.ladder.helpers import predict, right, scripted
from tests.scripted import experiment


def declare(metrics: Any, **more: Any) -> Any:
    return experiment(predict(), scripted(), more.pop("stages", ()), metrics=metrics, **more)


def test_they_are_kept_by_name() -> None:
    assert declare({"f1": right}).metrics == {"f1": right}
    assert declare({}).metrics == {}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("token-f1", "use a Python identifier"),
        ("", "use a Python identifier"),
        ("lambda", "use a Python identifier"),
        (7, "use a Python identifier"),
        ("score", "already means something in a gate.*'score_metric'"),
        ("and", "use a Python identifier"),
        ("p95", "already means something in a gate"),
        ("p75", "already means something in a gate"),
        ("baseline", "is a stage and a metric"),
        ("tuned", "is a stage and a metric"),
        *((name, "already means something in a gate") for name in FUNCTIONS),
    ],
)
def test_names_that_a_gate_cannot_call(name: Any, said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        declare({name: right}, stages=[Stage("tuned")])


def test_the_words_of_gates_are_known_here() -> None:
    assert {*FUNCTIONS} - {"p50", "p90", "p95", "p99"} <= RESERVED_NAMES


def test_what_is_no_dict_of_functions() -> None:
    with pytest.raises(ExperimentError, match=r"metrics must be a dict of functions by name.*not list"):
        declare([right])
    with pytest.raises(ExperimentError, match=r"metric 'f1' must be callable, not str"):
        declare({"f1": "exact"})


@pytest.mark.parametrize(
    "metric",
    [lambda example: True, lambda: True, lambda e, p, *, strict: True, lambda a, b, c, d, e, f: True],
    ids=["one argument", "none", "a named one", "six"],
)
def test_functions_that_can_never_be_called_so(metric: Any) -> None:
    with pytest.raises(ExperimentError, match="metric 'f1' cannot be called with an example and a prediction"):
        declare({"f1": metric})
    with pytest.raises(ExperimentError, match="metric cannot be called with an example and a prediction"):
        experiment(predict(), scripted(), metric=metric)


def test_what_nobody_fills_is_none() -> None:
    def five(gold: Any, pred: Any, trace: Any, pred_name: Any, pred_trace: Any) -> bool:
        return True

    class Judge(dspy.Module):
        def forward(self, example: Any, pred: Any, trace: Any) -> bool:
            return True

    assert filled(five, (1, 2)) == (1, 2, None, None, None)
    assert filled(five, (1, 2, 3)) == (1, 2, 3, None, None)
    assert filled(Judge(), (1, 2)) == (1, 2, None)
    assert filled(right, (1, 2)) == (1, 2)
    assert filled(lambda *args: True, (1, 2)) == (1, 2)
    assert filled(max, (1, 2)) == (1, 2)
