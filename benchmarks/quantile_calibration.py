"""How often gates on quantiles are wrong where the truth lies on their boundary, and what they find beyond it.

    python benchmarks/quantile_calibration.py             # the tables of the page Calibration, about 2 minutes
    python benchmarks/quantile_calibration.py --runs 200  # a quick look

Seconds (or dollars) of calls with the tails of `SHAPES`; two stages' calls on one example are correlated by ``rho``
(a Gaussian copula), as those of a long example are. Every verdict comes from `gate_interval`, which gates are judged
by, at confidence 0.95: so PASS and FAIL are each meant to happen in at most 2.5 % of the runs.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pytest_dspy_ft.gates.expression import Condition
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.intervals import gate_interval
from pytest_dspy_ft.statistics.order import binomial, quantile_interval

Array = NDArray[np.float64]

CONFIDENCE = 0.95
SIZES = (100, 400, 1500)
EXACT_SIZES = (20, 50, 100, 200, 400, 1500)
CORRELATIONS = (0.0, 0.8)

_GRID = np.linspace(-7, 7, 8001)
_CDF = np.array([NormalDist().cdf(z) for z in _GRID])


def uniform(z: Array) -> Array:
    """The share of all calls below a call."""
    return np.interp(z, _GRID, _CDF)


SHAPES: dict[str, Callable[[Array], Array]] = {
    "lognormal, sd 0.3": lambda z: np.exp(0.3 * z),
    "lognormal, sd 1.5": lambda z: np.exp(1.5 * z),
    "Pareto, index 1.5": lambda z: (1 - np.minimum(uniform(z), 1 - 1e-12)) ** (-1 / 1.5),
    "6 % time out at 60 s": lambda z: np.where(uniform(z) > 0.94, 60.0, np.exp(0.3 * z)),
    "whole tokens": lambda z: np.floor(100 * np.exp(0.5 * z)),
}
"""Seconds of a call as a growing function of a standard normal variable."""


def truth(shape: str, percentile: int) -> float:
    """The true quantile."""
    return float(SHAPES[shape](np.array([NormalDist().inv_cdf(percentile / 100)]))[0])


def rates(gate: str, columns: Callable[[np.random.Generator], dict[str, Array]], runs: int) -> tuple[float, float]:
    """How often a gate passes and fails."""
    condition: Condition = Gate.parse(gate, confidence=CONFIDENCE).condition
    passed = failed = 0
    for run in range(runs):
        drawn = columns(np.random.default_rng([run, zlib.crc32(gate.encode())]))
        ends = gate_interval(condition, {q: drawn[q.stage] for q in condition.quantities}, confidence=CONFIDENCE)
        if ends is not None:
            passed += ends[0] >= 0
            failed += ends[1] < 0
    return passed / runs, failed / runs


def exact_errors(percentile: int, n: int) -> tuple[float, float]:
    """How often a gate passes and fails at the true quantile of a continuous variable: nothing is simulated."""
    low, high = quantile_interval(range(1, n + 1), percentile, CONFIDENCE)
    below = binomial(n, percentile / 100)  # the chances of so many values below the quantile
    passed = 0.0 if math.isinf(high) else float(below[int(high) :].sum())
    return passed, 0.0 if math.isinf(high) else float(below[: int(low)].sum())


def one(shape: str, percentile: int, n: int, slack: float, runs: int) -> tuple[float, float]:
    """A quantile held against ``slack`` times its true value."""

    def columns(random: np.random.Generator) -> dict[str, Array]:
        return {"a": SHAPES[shape](random.standard_normal(n))}

    limit = slack * truth(shape, percentile)
    return around(lambda near: f"p{percentile}(latency(a)) <= {near * limit:.12f}", columns, slack, runs)


def two(shape: str, percentile: int, n: int, rho: float, slack: float, runs: int) -> tuple[float, float]:
    """A stage whose calls take twice as long as another's, held against ``2 * slack`` times as long."""

    def columns(random: np.random.Generator) -> dict[str, Array]:
        shared, own, other = random.standard_normal((3, n))
        a, b = (np.sqrt(rho) * shared + np.sqrt(1 - rho) * each for each in (own, other))
        return {"a": 2 * SHAPES[shape](a), "b": SHAPES[shape](b)}

    def gate(near: float) -> str:
        return f"p{percentile}(latency(a)) <= {near * 2 * slack:.12f} * p{percentile}(latency(b))"

    return around(gate, columns, slack, runs)


def around(
    gate: Callable[[float], str], columns: Callable[[np.random.Generator], dict[str, Array]], slack: float, runs: int
) -> tuple[float, float]:
    """How often a gate passes and fails; at the truth itself, passes where it just does not hold, fails where it does.

    Where many calls take the same the quantile is one of these values: ``<=`` it holds, and below it does not.
    """
    passed, failed = rates(gate(1.0), columns, runs)
    return (passed if slack != 1 else rates(gate(1 - 1e-7), columns, runs)[0]), failed


def shown(pair: tuple[float, float]) -> str:
    """PASS / FAIL in percent."""
    return " / ".join(f"{100 * rate:.1f}" for rate in pair)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    print("PASS / FAIL in % where the limit is the true quantile of whatever varies freely: exactly, by counting\n")
    print("| gate | " + " | ".join(f"n = {n}" for n in EXACT_SIZES) + " |")
    print("|---" * (len(EXACT_SIZES) + 1) + "|")
    for percentile in (50, 90, 95, 99):
        cells = (shown(exact_errors(percentile, n)) for n in EXACT_SIZES)
        print(f"| `p{percentile}(latency(a)) <= x` | {' | '.join(cells)} |")
    print(f"\nPASS / FAIL in % of {runs} runs; 2.5 / 2.5 is meant at most where the truth is the limit itself\n")
    print("| gate | a call takes | n | the limit is the truth | 1.5 times the truth |")
    print("|---|---|---|---|---|")
    for percentile in (50, 90, 95, 99):
        for shape in SHAPES:
            for n in SIZES:
                cells = (shown(one(shape, percentile, n, slack, runs)) for slack in (1.0, 1.5))
                print(f"| `p{percentile}(latency(a)) <= x` | {shape} | {n} | {' | '.join(cells)} |", flush=True)
    print("\n| gate | a call takes | n | rho 0 | rho 0.8 | rho 0, 3 times allowed | rho 0.8, 3 times allowed |")
    print("|---|---|---|---|---|---|---|")
    for percentile in (50, 95):
        for shape in SHAPES:
            for n in SIZES:
                cells = (
                    shown(two(shape, percentile, n, rho, slack, runs)) for slack in (1.0, 1.5) for rho in CORRELATIONS
                )
                gate = f"`p{percentile}(latency(a)) <= 2 * p{percentile}(latency(b))`"
                print(f"| {gate} | {shape} | {n} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
