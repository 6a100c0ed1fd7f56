"""How often gates with a confidence are wrong where the truth lies on their boundary, and what they find above it.

    python benchmarks/gate_calibration.py errors            # all tables of the page Calibration, about 20 minutes
    python benchmarks/gate_calibration.py scores            # or one of them
    python benchmarks/gate_calibration.py costs
    python benchmarks/gate_calibration.py power             # about 5 minutes
    python benchmarks/gate_calibration.py errors --runs 200 # a quick look

Simulated examples: each has a difficulty that all stages share to some degree (a Gaussian copula with correlation
``rho``). 0/1 scores are right where luck beats the difficulty; graded ones are F1-like: 60 % perfect, 15 % zero, the
rest in between. Costs have the tails of `TAILS`. Verdicts on 0/1 differences come from `gate_interval`, which gates are
judged by, at confidence 0.95; whatever it resamples is resampled here for all data sets at once by one matrix product
(`batch_interval`, which tests hold against it). So PASS and FAIL are each meant to happen in at most 2.5 % of the runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pytest_dspy_ft.gates.expression import Operation, Quantity, affine
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.intervals import gate_interval
from pytest_dspy_ft.statistics import MIN_UNBOUNDED, bootstrap
from pytest_dspy_ft.statistics.shares import wilson_interval

Array = NDArray[np.float64]

CONFIDENCE = 0.95
NOMINAL = (1 - CONFIDENCE) / 2
SIZES = (10, 20, 50, 200, 2500)
COST_SIZES = (10, 20, 50, 100, 200, 500, 1000, 2500)
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


def scaled(luck: Array) -> Array:
    """Graded scores with 93 % of their mean."""
    return 0.93 * graded(luck)


GRADED_MEAN = float(graded(np.interp((np.arange(1_000_000) + 0.5) / 1e6, _CDF, _GRID)).mean())


@dataclass(frozen=True)
class Case:
    """A gate, and stages for which its margin is exactly 0."""

    gate: str
    kind: str
    stages: tuple[Callable[[Array], Array], ...]

    @property
    def counted(self) -> bool:
        """True where its interval comes from counts instead of resamples."""
        return self.kind.startswith("0/1") and "*" not in self.gate


CASES = (
    Case("a >= b", "0/1, both 80 %", (right(0.8), right(0.8))),
    Case("a >= b", "0/1, both 95 %", (right(0.95), right(0.95))),
    Case("a >= b + 10%", "0/1, 80 % and 70 %", (right(0.8), right(0.7))),
    Case("a >= b", "graded", (graded, graded)),
    Case("a >= 90% * b", "0/1, 81 % and 90 %", (right(0.81), right(0.9))),
    Case("a >= 93% * b", "0/1, 91.1 % and 98 %", (right(0.9114), right(0.98))),
    Case("a >= 93% * b", "graded", (scaled, graded)),
    Case("a >= max(b, c) + 5%", "0/1, 75, 70, 70 %", (right(0.75), right(0.7), right(0.7))),
    Case(f"a >= {GRADED_MEAN!r}", "graded, one stage", (graded,)),
)


Tail = Callable[[Array], Array]
"""From standard normal luck to costs."""


def lognormal(spread: float) -> Tail:
    """Costs whose logarithm has this standard deviation."""
    return lambda luck: np.exp(spread * luck)


def rare(share: float, spread: float = 0.3) -> Tail:
    """Costs that hardly differ, but for this share that is 60 times as dear."""
    edge = NormalDist().inv_cdf(1 - share)
    # Which ones these are is independent of the rest: the digits of luck that the spread does not show.
    return lambda luck: np.exp(spread * luck[::-1]) * np.where(luck > edge, 60.0, 1.0)


def pareto(index: float) -> Tail:
    """Costs with a power law's tail."""
    return lambda luck: (1 - np.interp(luck, _FINE, _FINE_CDF)) ** (-1 / index)


_FINE = np.linspace(-6, 6, 200_001)
_FINE_CDF = np.array([NormalDist().cdf(z) for z in _FINE])

TAILS: dict[str, tuple[Tail, float]] = {
    "lognormal, sd 0.3": (lognormal(0.3), math.exp(0.3**2 / 2)),
    "lognormal, sd 0.6": (lognormal(0.6), math.exp(0.6**2 / 2)),
    "lognormal, sd 1.5": (lognormal(1.5), math.exp(1.5**2 / 2)),
    "Pareto, index 2.5": (pareto(2.5), 2.5 / 1.5),
    "3 % 60 times as dear": (rare(0.03), math.exp(0.3**2 / 2) * (1 + 59 * 0.03)),
    "2 % 60 times as dear": (rare(0.02), math.exp(0.3**2 / 2) * (1 + 59 * 0.02)),
    "1 % 60 times as dear": (rare(0.01), math.exp(0.3**2 / 2) * (1 + 59 * 0.01)),
    "0.5 % 60 times as dear": (rare(0.005), math.exp(0.3**2 / 2) * (1 + 59 * 0.005)),
}
"""Distributions of costs, with their means."""


def batch_interval(
    gate: Gate, columns: Sequence[Array], *, seed: int = 0, resamples: int = bootstrap.RESAMPLES
) -> tuple[Array, Array]:
    """The intervals that `margin_interval` gives to many data sets, by the same weights for all.

    Args:
        gate: One whose sides are weighted sums.
        columns: Shape (n, runs) each, in the order in which the gate names the quantities.
        seed: Of the resampling.
        resamples: How many.

    Returns:
        (low, high), shape (runs,) each.
    """
    condition = gate.condition
    sides = (condition.left, condition.right) if condition.upward else (condition.right, condition.left)
    form = affine(Operation("-", *sides))
    assert form is not None
    assert gate.confidence is not None
    n, runs = columns[0].shape
    whole = any(not quantity.share for quantity in condition.quantities)
    offset = float(form[1])
    margins, worst, best = np.full((n, runs), offset), np.full(runs, offset), np.full(runs, offset)
    for quantity, column in zip(condition.quantities, columns, strict=True):
        factor = float(form[0][quantity])
        top = 1.0 if quantity.share else [max(bootstrap.unseen_cost(c, gate.confidence), c.max()) for c in column.T]
        margins += factor * column
        worst += np.minimum(factor * np.asarray(top), 0.0)
        best += np.maximum(factor * np.asarray(top), 0.0)
    generator = np.random.default_rng(seed)
    weights = generator.standard_exponential((resamples, n), dtype=np.float32)
    total = weights.sum(axis=1)[:, None]
    one = generator.standard_exponential((resamples, 1), dtype=np.float32)
    half = generator.standard_gamma(0.5, (resamples, 2)).astype(np.float32)
    low, high = np.zeros(runs), np.zeros(runs)
    for start in range(0, runs, 500):
        part = slice(start, min(start + 500, runs))
        centre = margins[:, part].mean(axis=0)
        seen = weights @ (margins[:, part] - centre).astype(np.float32)
        ends = [(reached[part] - centre).astype(np.float32) for reached in (worst, best)]
        kinds = [([(seen + one * end) / (total + one) for end in ends], (1 - gate.confidence) / 2)]
        if not whole:
            both = (seen + half @ np.array(ends)) / (total + half.sum(axis=1)[:, None])
            kinds.append(([both, both], bootstrap._expanded_tail(n, gate.confidence)))
        below = (seen < 0).mean(axis=0) + (seen == 0).mean(axis=0) / 2
        for (lower, upper), tail in kinds:
            lower, upper = np.sort(lower, axis=0), np.sort(upper, axis=0)
            for run, share in enumerate(below):
                bias = NormalDist().inv_cdf(min(max(float(share), 0.01), 0.99))
                first = lower[bootstrap._rank(tail, min(bias, 0.0), resamples), run]
                last = upper[resamples - 1 - bootstrap._rank(tail, min(-bias, 0.0), resamples), run]
                low[start + run], high[start + run] = min(low[start + run], first), max(high[start + run], last)
        low[part] += centre
        high[part] += centre
    return low, high


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
    drawn = [lucks(generator, n, rho, len(case.stages)) for _ in range(runs)]
    columns = [
        np.array([stage(luck[place]) for luck in drawn]).T for place, stage in enumerate(case.stages)
    ]  # each (n, runs)
    if case.counted:
        ends = _counted(gate, quantities, columns)
    else:
        order = [quantities.index(quantity) for quantity in gate.condition.quantities]
        ends = batch_interval(gate, [columns[place] for place in order], seed=seed)
    return float((ends[0] >= -1e-12).mean()), float((ends[1] < -1e-12).mean())


def _counted(gate: Gate, quantities: Sequence[Quantity], columns: Sequence[Array]) -> tuple[Array, Array]:
    """The intervals of many data sets of 0/1 scores, each different one looked at once."""
    patterns = sum(column * 2**place for place, column in enumerate(columns)).astype(np.int64)
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    found = []
    for run in range(patterns.shape[1]):
        counts = tuple(map(int, np.bincount(patterns[:, run], minlength=2 ** len(columns))))
        if counts not in known:
            rows = np.repeat(np.arange(len(counts)), counts)
            given = {q: ((rows >> place) & 1).astype(np.float64) for place, q in enumerate(quantities)}
            ends = gate_interval(gate.condition, given, confidence=CONFIDENCE)
            assert ends is not None
            known[counts] = ends
        found.append(known[counts])
    low, high = np.array(found).T
    return low, high


def cost_errors(tail: str, n: int, runs: int, *, ratio: bool = False, seed: int = 0) -> tuple[float, float] | None:
    """The same for ``cost(a) <= (true mean)``, or for ``cost(a) <= cost(b) / 15``; None where gates do not decide.

    Args:
        tail: One of `TAILS`.
        n: Examples.
        runs: How many data sets are drawn.
        ratio: Two stages whose luck on one example has the correlation 0.5; ``b`` is 15 times as dear.
        seed: Of the data.
    """
    if n < MIN_UNBOUNDED:
        return None
    costs, mean = TAILS[tail]
    gate = Gate.parse("cost(a) <= cost(b) / 15" if ratio else f"cost(a) <= {mean!r}", confidence=CONFIDENCE)
    generator = np.random.default_rng([seed, n, ratio])
    own = [generator.standard_normal((n, runs)) for _ in range(3)]
    columns = [costs((own[2] + own[0]) / math.sqrt(2))]
    if ratio:
        columns.append(15 * costs((own[2] + own[1]) / math.sqrt(2)))
    low, high = batch_interval(gate, columns, seed=seed)
    return float((low >= 0).mean()), float((high < 0).mean())


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


def print_scores(runs: int) -> None:
    """The table of errors at the boundary, for scores."""
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


def print_costs(runs: int) -> None:
    """The table of errors at the boundary, for costs (and tokens and seconds, which are judged alike)."""
    print("| gate | costs | " + " | ".join(f"n = {n}" for n in COST_SIZES) + " |")
    print("|---|---|" + "---|" * len(COST_SIZES))
    for ratio, name in ((False, "cost(a) <= (true mean)"), (True, "cost(a) <= cost(b) / 15")):
        for tail in TAILS:
            found = [cost_errors(tail, n, runs, ratio=ratio) for n in COST_SIZES]
            shown = ["-" if e is None else f"{100 * e[0]:.1f} / {100 * e[1]:.1f}" for e in found]
            print(f"| `{name}` | {tail} | " + " | ".join(shown) + " |", flush=True)


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
    parser.add_argument("what", choices=("errors", "scores", "costs", "power"))
    parser.add_argument("--runs", type=int, help="default 4000, for power 1000")
    arguments = parser.parse_args()
    if arguments.what == "power":
        print_power(arguments.runs or 1000)
        return
    runs = arguments.runs or 4000
    error = math.sqrt(NOMINAL * (1 - NOMINAL) / runs)
    print(f"PASS / FAIL in % at the boundary, {runs} runs each (nominal 2.5, standard error {100 * error:.2f})\n")
    if arguments.what in ("errors", "scores"):
        print_scores(runs)
        print()
    if arguments.what in ("errors", "costs"):
        print_costs(runs)


if __name__ == "__main__":
    main()
