"""Gates with a confidence where the truth lies on their boundary; at length in benchmarks/gate_calibration.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.gate_calibration import (
    CASES,
    NOMINAL,
    TAILS,
    Case,
    batch_interval,
    cost_errors,
    errors,
    exact_errors,
)
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.intervals import gate_interval

RUNS = 300


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.gate}, {case.kind}")
@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_neither_error_exceeds_its_half(case: Case, rho: float) -> None:
    """Four standard errors of the simulation are allowed."""
    most = NOMINAL + 4 * math.sqrt(NOMINAL * (1 - NOMINAL) / RUNS)
    assert max(errors(case, 40, rho, RUNS)) <= most


@pytest.mark.parametrize("n", [1, 5, 20, 60])
def test_a_single_share_errs_within_its_half_exactly(n: int) -> None:
    """Wilson's interval does not: that is why gates do not use it."""
    wilsons_worst = 0.0
    for p in (0.02, 0.2, 0.5, 0.8, 0.93, 0.99, 0.999):
        ours, wilsons = exact_errors(p, n)
        assert max(ours) <= NOMINAL + 1e-9, p
        wilsons_worst = max(wilsons_worst, *wilsons)
    assert wilsons_worst > 2 * NOMINAL


@pytest.mark.parametrize(
    ("tail", "n"),
    [
        ("2 % 60 times as dear", 20),
        ("2 % 60 times as dear", 100),
        ("2 % 60 times as dear", 200),
        ("3 % 60 times as dear", 50),
        ("lognormal, sd 1.5", 100),
        ("Pareto, index 2.5", 50),
        ("lognormal, sd 0.3", 50),
    ],
)
@pytest.mark.parametrize("ratio", [False, True])
def test_costs_pass_falsely_no_more_often_than_meant(tail: str, n: int, ratio: bool) -> None:
    """A plain bootstrap passes 14 in 100 at n = 100 where 2 % are 60 times as dear, and 74 to 82 at n = 10."""
    most = NOMINAL + 4 * math.sqrt(NOMINAL * (1 - NOMINAL) / RUNS)
    found = cost_errors(tail, n, RUNS, ratio=ratio)
    assert found is not None
    assert max(found) <= most


def test_below_20_examples_costs_are_not_decided() -> None:
    assert cost_errors("2 % 60 times as dear", 10, 1) is None


@pytest.mark.parametrize(("n", "times"), [(50, 6.0), (200, 2.4), (500, 1.6)])
def test_light_tails_pass_well_below_the_limit(n: int, times: float) -> None:
    costs, mean = TAILS["lognormal, sd 0.3"]
    gate = Gate.parse(f"cost(a) <= {times * mean!r}", confidence=0.95)
    low, _ = batch_interval(gate, [costs(np.random.default_rng(0).standard_normal((n, 100)))])
    assert (low >= 0).mean() >= 0.95


@pytest.mark.parametrize("expression", ["cost(a) <= cost(b) / 15", "a >= 93% * b"])
def test_intervals_of_many_data_sets_are_those_of_gates(expression: str) -> None:
    gate = Gate.parse(expression, confidence=0.95)
    generator = np.random.default_rng(1)
    drawn = [generator.random((60, 4)), generator.random((60, 4))]
    columns = [np.exp(column) for column in drawn] if "cost" in expression else drawn
    for run, (low, high) in enumerate(zip(*batch_interval(gate, columns), strict=True)):
        given = {q: column[:, run] for q, column in zip(gate.condition.quantities, columns, strict=True)}
        ends = gate_interval(gate.condition, given, confidence=0.95)
        assert ends is not None
        assert (low, high) == pytest.approx(ends, abs=0.06 * (high - low))
