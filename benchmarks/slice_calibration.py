"""How often gates in slices are wrong on their boundary, and how often a slice is named where nothing differs.

    python -m benchmarks.slice_calibration                # both tables of the page Calibration, about 5 minutes
    python -m benchmarks.slice_calibration gates          # or one of them
    python -m benchmarks.slice_calibration notes
    python -m benchmarks.slice_calibration --runs 200     # a quick look

A split of five slices of 10, 20, 30, 50 and 100 examples, drawn as in `gate_calibration`. Slices are judged by the
intervals that gates are judged by and corrected by the very `Holm` that corrects them; tests hold this against whole
gates. Either all slices lie on the boundary, or one does and in the others the stage is far better.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate_calibration import CONFIDENCE, CORRELATIONS, NOMINAL, batch_interval, graded, lucks, right
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.holm import Holm
from pytest_dspy_ft.gates.intervals import gate_interval
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.run import ExperimentRecord
from pytest_dspy_ft.records.slices import SlicingRecord
from pytest_dspy_ft.report.slices import lost_slices, worst_slices

Array = NDArray[np.float64]
Scores = Callable[[Array], Array]
Ends = Callable[[int, int], tuple[float, float]]
"""The interval in one slice, its allowed error divided by a number."""

SIZES = (10, 20, 30, 50, 100)
CASES: tuple[tuple[str, str, Scores, Scores, Scores], ...] = (
    ("a >= b", "0/1, both 80 %", right(0.8), right(0.8), right(0.2)),
    ("a >= b + 10%", "0/1, 80 % and 70 %", right(0.8), right(0.7), right(0.1)),
    ("a >= b", "graded", graded, graded, lambda luck: graded(luck) * 0.1),
)
"""A gate, the scores, ``a``, ``b`` on the boundary, and a ``b`` that is far worse."""


def decide(ends: Ends, slices: int) -> list[str]:
    """The verdict in each slice, as gates in slices come to it."""

    def decided(part: int, divisor: int) -> bool:
        low, high = ends(part, divisor)
        return not low < 0 <= high

    holm = Holm(range(slices), decided)
    verdicts = []
    for part in range(slices):
        low, high = ends(part, holm.divisor(part))
        verdicts.append("PASS" if low >= -1e-12 else "FAIL" if high < -1e-12 else "UNDECIDED")
    return verdicts


def errors(case: int, on_boundary: int | None, rho: float, runs: int, seed: int = 0) -> tuple[float, float, float]:
    """How often a gate passes, fails, and passes in any slice on its boundary, as shares of the runs.

    Args:
        case: Which of `CASES`.
        on_boundary: The one slice on its boundary; None: all are.
        rho: Correlation of the stages' luck on one example.
        runs: How many data sets are drawn.
        seed: Of the data.
    """
    expression, kind, new, old, far_worse = CASES[case]
    gate = Gate.parse(expression, confidence=CONFIDENCE)
    generator = np.random.default_rng([seed, case, int(100 * rho), 99 if on_boundary is None else on_boundary])
    columns = []
    for part, n in enumerate(SIZES):
        drawn = [lucks(generator, n, rho, 2) for _ in range(runs)]
        other = old if on_boundary in (None, part) else far_worse
        columns.append([np.array([scores(luck[i]) for luck in drawn]).T for i, scores in enumerate((new, other))])
    ends_of = _counted(gate, columns) if kind.startswith("0/1") else _resampled(gate, columns)
    found = [decide(ends_of(run), len(SIZES)) for run in range(runs)]
    tested = range(len(SIZES)) if on_boundary is None else (on_boundary,)
    passed = sum(all(verdict == "PASS" for verdict in verdicts) for verdicts in found)
    failed = sum("FAIL" in verdicts for verdicts in found)
    any_passed = sum(any(verdicts[part] == "PASS" for part in tested) for verdicts in found)
    return passed / runs, failed / runs, any_passed / runs


def _counted(gate: Gate, columns: Sequence[Sequence[Array]]) -> Callable[[int], Ends]:
    """The intervals of 0/1 scores, each different data set looked at once."""
    a, b = gate.condition.quantities

    @cache
    def interval(fixed: int, broke: int, right_in_both: int, n: int, divisor: int) -> tuple[float, float]:
        after = np.repeat([1.0, 0.0, 1.0, 0.0], [fixed, broke, right_in_both, n - fixed - broke - right_in_both])
        before = np.repeat([0.0, 1.0, 1.0, 0.0], [fixed, broke, right_in_both, n - fixed - broke - right_in_both])
        confidence = 1 - (1 - CONFIDENCE) / divisor
        ends = gate_interval(gate.condition, {a: after, b: before}, confidence=confidence)
        assert ends is not None
        return ends

    def of_run(run: int) -> Ends:
        def ends(part: int, divisor: int) -> tuple[float, float]:
            new, old = (column[:, run] for column in columns[part])
            counts = int((new > old).sum()), int((new < old).sum()), int((new * old).sum())
            return interval(*counts, len(new), divisor)

        return ends

    return of_run


def _resampled(gate: Gate, columns: Sequence[Sequence[Array]]) -> Callable[[int], Ends]:
    """The intervals of graded scores, of all data sets at once."""

    @cache
    def intervals(part: int, divisor: int) -> tuple[Array, Array]:
        corrected = Gate.parse(gate.expression, confidence=1 - (1 - CONFIDENCE) / divisor)
        return batch_interval(corrected, columns[part])

    def of_run(run: int) -> Ends:
        def ends(part: int, divisor: int) -> tuple[float, float]:
            low, high = intervals(part, divisor)
            return float(low[run]), float(high[run])

        return ends

    return of_run


def false_notes(scores: Scores, rho: float, runs: int, seed: int = 0) -> tuple[float, float]:
    """How often a worst slice and a lost one are named where all slices and both stages are level, as shares."""
    generator = np.random.default_rng([seed, int(100 * rho)])
    names = [f"{part}" for part, n in enumerate(SIZES) for _ in range(n)]
    ids = [f"{place:016}" for place in range(len(names))]
    groups = {name: tuple(i for i, own in zip(ids, names, strict=True) if own == name) for name in dict.fromkeys(names)}
    slicing = SlicingRecord(by="slice", on="dev", source="label", asked=False, groups=groups)
    found = np.zeros(2)
    for _ in range(runs):
        results = [
            StageResult(
                experiment="e",
                stage=stage,
                on="dev",
                lm="l",
                key="k",
                examples=tuple(
                    ExampleResult(id=i, score=float(score)) for i, score in zip(ids, scores(luck), strict=True)
                ),
            )
            for stage, luck in zip(("a", "b"), lucks(generator, len(ids), rho, 2), strict=True)
        ]
        record = ExperimentRecord(
            name="e", lm="l", sizes={"dev": len(ids)}, order=("a", "b"), results=tuple(results), slices=(slicing,)
        )
        found += [bool(worst_slices(record)), bool(lost_slices(record))]
    worst, lost = found / runs
    return float(worst), float(lost)


def print_gates(runs: int) -> None:
    """The table of errors at the boundary."""
    print("| gate | scores | on the boundary | " + " | ".join(f"rho {rho:g}" for rho in CORRELATIONS) + " |")
    print("|---|---|---|" + "---|" * len(CORRELATIONS))
    for case, (gate, kind, *_) in enumerate(CASES):
        for on_boundary in (None, *range(len(SIZES))):
            where = "all five" if on_boundary is None else f"the slice of {SIZES[on_boundary]}"
            shown = []
            for rho in CORRELATIONS:
                passed, failed, any_passed = errors(case, on_boundary, rho, runs)
                shown.append(f"{100 * passed:.1f} / {100 * failed:.1f} ({100 * any_passed:.1f})")
            print(f"| `{gate}` | {kind} | {where} | " + " | ".join(shown) + " |", flush=True)


def print_notes(runs: int) -> None:
    """The table of what is said where nothing differs."""
    print("| scores | " + " | ".join(f"rho {rho:g}" for rho in CORRELATIONS) + " |")
    print("|---|" + "---|" * len(CORRELATIONS))
    for kind, scores in (("0/1, 80 %", right(0.8)), ("0/1, 95 %", right(0.95)), ("graded", graded)):
        found = [false_notes(scores, rho, runs) for rho in CORRELATIONS]
        print(f"| {kind} | " + " | ".join(f"{100 * w:.1f} / {100 * lost:.1f}" for w, lost in found) + " |", flush=True)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("gates", "notes", "both"), default="both")
    parser.add_argument("--runs", type=int, help="default 2000, for notes 1000")
    arguments = parser.parse_args()
    if arguments.what != "notes":
        runs = arguments.runs or 2000
        error = math.sqrt(NOMINAL * (1 - NOMINAL) / runs)
        print(f"gate PASS / gate FAIL (any slice on its boundary PASS) in %, {runs} runs each, 2.5 at most meant")
        print(f"(standard error {100 * error:.2f})\n")
        print_gates(runs)
    if arguments.what != "gates":
        runs = arguments.runs or 1000
        print(f"\na worst slice is named / a lost one is, in % of {runs} sessions in which nothing differs\n")
        print_notes(runs)


if __name__ == "__main__":
    main()
