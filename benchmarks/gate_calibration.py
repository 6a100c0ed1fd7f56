"""How often gates with a confidence are wrong where the truth lies on their boundary, and what they find above it.

    python benchmarks/gate_calibration.py errors            # about 15 minutes on one core
    python benchmarks/gate_calibration.py power             # about 5 minutes
    python benchmarks/gate_calibration.py errors --runs 200 # a quick look

Simulated examples: each has a difficulty that all stages share to some degree (a Gaussian copula with correlation
``rho``). 0/1 scores are right where luck beats the difficulty; graded ones are F1-like: 60 % perfect, 15 % zero, the
rest in between. Verdicts come from `gate_interval`, which gates are judged by, at confidence 0.95. So PASS and FAIL are
each meant to happen in at most 2.5 % of the runs; in brackets stands the simulation's standard error at 2.5 %.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.intervals import gate_interval
from pytest_dspy_ft.statistics.shares import wilson_interval

Array = NDArray[np.float64]

CONFIDENCE = 0.95
NOMINAL = (1 - CONFIDENCE) / 2
SIZES = (20, 50, 200, 2000)
CORRELATIONS = (0.0, 0.5, 0.8, 0.95)

_GRID = np.linspace(-6, 6, 4001)
_CDF = np.array([NormalDist().cdf(z) for z in _GRID])
_BETA = np.sort(np.random.default_rng(123).beta(5, 3, 20_001))


def right(share: float) -> Callable[[Array], Array]:
    """0/1 scores of which so many are 1."""
    edge = NormalDist().inv_cdf(share)
    return lambda luck: (luck < edge).astype(np.float64)


def graded(luck: Array, shift: float = 0.0) -> Array:
    """F1-like scores; ``shift`` moves that share of the examples from 0 to 1."""
    u = np.interp(luck, _GRID, _CDF)
    zero, perfect = 0.15 - shift, 0.6 + shift
    partial = np.interp((u - zero) / (1 - zero - perfect), np.linspace(0, 1, len(_BETA)), _BETA)
    return np.where(u < zero, 0.0, np.where(u > 1 - perfect, 1.0, partial))


GRADED_MEAN = float(graded(np.interp((np.arange(1_000_000) + 0.5) / 1e6, _CDF, _GRID)).mean())


@dataclass(frozen=True)
class Case:
    """A gate, and stages for which its margin is exactly 0."""

    gate: str
    kind: str
    stages: tuple[Callable[[Array], Array], ...]


CASES = (
    Case("a >= b", "0/1, both 80 %", (right(0.8), right(0.8))),
    Case("a >= b", "0/1, both 95 %", (right(0.95), right(0.95))),
    Case("a >= b + 10%", "0/1, 80 % and 70 %", (right(0.8), right(0.7))),
    Case("a >= b", "graded", (graded, graded)),
    Case("a >= 90% * b", "0/1, 81 % and 90 %", (right(0.81), right(0.9))),
    Case("a >= max(b, c) + 5%", "0/1, 75, 70, 70 %", (right(0.75), right(0.7), right(0.7))),
    Case(f"a >= {GRADED_MEAN!r}", "graded, one stage", (graded,)),
)


def errors(case: Case, n: int, rho: float, runs: int, seed: int = 0) -> tuple[float, float]:
    """How often the gate of a case passes and fails, as shares of the runs.

    Args:
        case: The gate and its stages.
        n: Examples.
        rho: Correlation of the stages' luck on one example.
        runs: How many data sets are drawn.
        seed: Of the data.
    """
    gate = Gate.parse(case.gate, confidence=CONFIDENCE)
    quantities = sorted(gate.condition.quantities, key=lambda quantity: quantity.stage)
    generator = np.random.default_rng([seed, n, int(100 * rho)])
    passed = failed = 0
    known: dict[bytes, tuple[float, float] | None] = {}
    for run in range(runs):
        columns = [
            stage(luck) for stage, luck in zip(case.stages, lucks(generator, n, rho, len(case.stages)), strict=True)
        ]
        rows = np.sort(np.column_stack(columns) @ (10.0 ** np.arange(len(columns))))  # order does not matter to a gate
        key = rows.tobytes() if set(np.unique(columns)) <= {0.0, 1.0} else b""
        if not key or key not in known:
            given = dict(zip(quantities, columns, strict=True))
            known[key] = gate_interval(gate.condition, given, confidence=CONFIDENCE, seed=0 if key else run)
        ends = known[key]
        assert ends is not None
        passed += ends[0] >= -1e-12
        failed += ends[1] < -1e-12
    return passed / runs, failed / runs


def lucks(generator: np.random.Generator, n: int, rho: float, stages: int) -> list[Array]:
    """Luck of each stage on each example: standard normal, correlated by what the example brings."""
    shared = generator.standard_normal(n)
    return [math.sqrt(rho) * shared + math.sqrt(1 - rho) * generator.standard_normal(n) for _ in range(stages)]


def exact_errors(threshold: float, n: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """The same for a gate ``a >= threshold`` on 0/1 scores, by summing over all outcomes instead of drawing some.

    Returns:
        (passes, fails) of the gate, and of Wilson's interval in its place.
    """
    gate = Gate.parse(f"a >= {threshold!r}", confidence=CONFIDENCE)
    [quantity] = gate.condition.quantities
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    chance = np.exp(logs[n] - logs[k] - logs[n - k] + k * math.log(threshold) + (n - k) * math.log1p(-threshold))
    likely = k[chance > 1e-9]
    ours, wilsons = np.zeros(2), np.zeros(2)
    for count in likely:
        column = np.repeat([1.0, 0.0], [count, n - count])
        ends = gate_interval(gate.condition, {quantity: column}, confidence=CONFIDENCE)
        assert ends is not None
        ours += chance[count] * np.array([ends[0] >= 0, ends[1] < 0])
        low, high = wilson_interval(int(count), n, CONFIDENCE)
        wilsons += chance[count] * np.array([low >= threshold, high < threshold])
    return (float(ours[0]), float(ours[1])), (float(wilsons[0]), float(wilsons[1]))


def print_errors(runs: int) -> None:
    """The table of errors at the boundary."""
    error = math.sqrt(NOMINAL * (1 - NOMINAL) / runs)
    print(f"PASS / FAIL in % at the boundary, {runs} runs each (nominal 2.5, standard error {100 * error:.1f})\n")
    print("| gate | scores | n | " + " | ".join(f"rho {rho:g}" for rho in CORRELATIONS) + " |")
    print("|---|---|---|" + "---|" * len(CORRELATIONS))
    for case in CASES:
        name = "a >= (true mean)" if len(case.stages) == 1 else case.gate
        for n in SIZES:
            shown = []
            for rho in CORRELATIONS if len(case.stages) > 1 else CORRELATIONS[:1]:
                passed, failed = errors(case, n, rho, runs)
                shown.append(f"{100 * passed:.1f} / {100 * failed:.1f}")
            print(f"| `{name}` | {case.kind} | {n} | " + " | ".join(shown) + " |", flush=True)
    print("\n`a >= p`, 0/1, exactly (no simulation); Wilson's interval in its place in brackets\n")
    print("| n | " + " | ".join(f"p = {p:.0%}" for p in (0.5, 0.8, 0.95, 0.99)) + " |")
    print("|---|---|---|---|---|")
    for n in SIZES:
        shown = []
        for p in (0.5, 0.8, 0.95, 0.99):
            ours, wilsons = exact_errors(p, n)
            shown.append(f"{100 * ours[0]:.1f} / {100 * ours[1]:.1f} ({100 * wilsons[0]:.1f} / {100 * wilsons[1]:.1f})")
        print(f"| {n} | " + " | ".join(shown) + " |", flush=True)


def print_power(runs: int, n: int = 100) -> None:
    """How often each method finds that the new stage is better: where it is not, and where it is."""
    print(f"share of runs in % that find the new stage better, n = {n}, {runs} runs\n")
    print("| scores | truth | rho | the gate, paired | unpaired | McNemar or Wilcoxon | scipy's bootstrap |")
    print("|---|---|---|---|---|---|---|")
    for kind, old, better in (
        ("0/1", right(0.8), right(0.88)),
        ("graded", graded, lambda luck: graded(luck, 0.08)),
    ):
        for truth, new in (("level", old), ("+8 points", better)):
            for rho in CORRELATIONS:
                found = np.zeros(4)
                generator = np.random.default_rng([int(100 * rho), n])
                for run in range(runs):
                    before, after = (f(luck) for f, luck in zip((old, new), lucks(generator, n, rho, 2), strict=True))
                    found += _methods(before, after, kind, run)
                print(
                    f"| {kind} | {truth} | {rho:g} | " + " | ".join(f"{100 * x / runs:.1f}" for x in found) + " |",
                    flush=True,
                )


def _methods(before: Array, after: Array, kind: str, run: int) -> list[bool]:
    """Whether each method finds ``after`` better, two-sided at 5 %."""
    from scipy import stats

    gate = Gate.parse("a > b", confidence=CONFIDENCE)
    a, b = gate.condition.quantities
    ends = gate_interval(gate.condition, {a: after, b: before}, confidence=CONFIDENCE, seed=run)
    assert ends is not None
    up, down = int((after > before).sum()), int((after < before).sum())
    differs = up + down > 0
    if kind == "0/1":
        pooled = (before.mean() + after.mean()) / 2
        spread = math.sqrt(2 * pooled * (1 - pooled) / len(after))
        unpaired = spread > 0 and (after.mean() - before.mean()) / spread > stats.norm.ppf(1 - NOMINAL)
        paired = differs and up > down and stats.binomtest(up, up + down).pvalue < 2 * NOMINAL
    else:
        unpaired = stats.ttest_ind(after, before, equal_var=False, alternative="greater").pvalue < NOMINAL
        paired = differs and stats.wilcoxon(after, before, alternative="greater", method="asymptotic").pvalue < NOMINAL
    drawn = np.random.default_rng(run)
    boot = differs and (
        stats.bootstrap(
            (after - before,), np.mean, confidence_level=CONFIDENCE, n_resamples=2000, method="BCa", rng=drawn
        ).confidence_interval.low
        > 0
    )
    return [ends[0] > 0, bool(unpaired), bool(paired), bool(boot)]


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("errors", "power"))
    parser.add_argument("--runs", type=int, default=2000)
    arguments = parser.parse_args()
    if arguments.what == "errors":
        print_errors(arguments.runs)
    else:
        print_power(arguments.runs)


if __name__ == "__main__":
    main()
