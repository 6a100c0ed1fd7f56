"""Gates with a confidence where the truth lies on their boundary; at length in benchmarks/gate_calibration.py."""

from __future__ import annotations

import math

import pytest

from benchmarks.gate_calibration import CASES, NOMINAL, Case, errors, exact_errors

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
