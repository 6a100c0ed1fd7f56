"""How often sequential stopping is wrong where the truth lies on a gate's boundary, what it finds, and what it spares.

    python benchmarks/stopping_calibration.py             # both tables of the page Calibration, some minutes
    python benchmarks/stopping_calibration.py --runs 200  # a quick look

Simulated examples, as in `gate_calibration.py`: 0/1 scores of one stage against a threshold, of two stages against each
other (whose examples agree more often than chance, by a Gaussian copula with correlation 0.8), and F1-like graded ones.
Each run is looked at as `pytest_dspy_ft.gates.looks` does it, by the same intervals (tests hold the two against each
other), and once more with all examples and no look before. Verdicts at confidence 0.95: PASS and FAIL are each meant to
be wrong in at most 2.6 % of the runs (2.5 % by a single look), and no look may lose power.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from gate_calibration import graded, right

from pytest_dspy_ft.gates.expression import Condition
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.intervals import gate_interval, resolves
from pytest_dspy_ft.gates.looks import look_sizes
from pytest_dspy_ft.statistics.sequential import look_confidences

Array = NDArray[np.float64]

CONFIDENCE = 0.95
SIZES = (60, 200, 500)
RHO = 0.8


@dataclass(frozen=True)
class Scene:
    """A gate, and scores that it is judged on."""

    gate: str
    stages: dict[str, Callable[[Array], Array]]
    """From luck, as a standard normal deviate, to scores."""
    costly: bool = False
    """Its intervals are resampled: fewer runs are made of it."""

    def draw(self, n: int, generator: np.random.Generator) -> dict[str, Array]:
        """Scores of n examples."""
        shared = generator.standard_normal(n)
        luck = (math.sqrt(RHO) * shared + math.sqrt(1 - RHO) * generator.standard_normal(n) for _ in self.stages)
        return {name: score(one) for (name, score), one in zip(self.stages.items(), luck, strict=True)}


def level(share: float, gain: float) -> dict[str, Callable[[Array], Array]]:
    """Two stages, the second better by so much."""
    return {"b": right(share), "a": right(share + gain)}


BOUNDARY = {
    "threshold 50%": Scene("a >= 50%", {"a": right(0.5)}),
    "threshold 80%": Scene("a >= 80%", {"a": right(0.8)}),
    "threshold 95%": Scene("a >= 95%", {"a": right(0.95)}),
    "two stages at 50%": Scene("a >= b", level(0.5, 0.0)),
    "two stages at 90%": Scene("a >= b", level(0.9, 0.0)),
    "two graded stages": Scene("a >= b", {"b": graded, "a": graded}, costly=True),
}
ABOVE = {
    "threshold 80%, truth 85%": Scene("a >= 80%", {"a": right(0.85)}),
    "threshold 80%, truth 90%": Scene("a >= 80%", {"a": right(0.9)}),
    "threshold 80%, truth 97%": Scene("a >= 80%", {"a": right(0.97)}),
    "threshold 80%, truth 50%": Scene("a >= 80%", {"a": right(0.5)}),
    "two stages, +5 points": Scene("a >= b", level(0.7, 0.05)),
    "two stages, +10 points": Scene("a >= b", level(0.7, 0.10)),
    "two stages, +25 points": Scene("a >= b", level(0.6, 0.25)),
    "two stages, +40 points": Scene("a >= b", level(0.5, 0.40)),
}


def look(scene: Scene, columns: dict[str, Array], confidence: float, *, last: bool = True) -> str:
    """The verdict of one look."""
    gate = Gate.parse(scene.gate)
    if scene.costly:
        named = {q: columns[q.stage] for q in gate.condition.quantities}
        if not last and not resolves(gate.condition, named, confidence):
            return "UNDECIDED"
        return _verdict(gate_interval(gate.condition, named, confidence=confidence))
    a, n = columns["a"], len(columns["a"])
    if "b" not in columns:
        return counted(scene.gate, n, int(a.sum()), -1, confidence)
    b = columns["b"]
    return counted(scene.gate, n, int((a > b).sum()), int((a < b).sum()), confidence)


@cache
def _condition(gate: str) -> Condition:
    return Gate.parse(gate).condition


@cache
def counted(gate: str, n: int, up: int, down: int, confidence: float) -> str:
    """The verdict on 0/1 scores, which depends on their counts alone."""
    condition, a, b = _condition(gate), np.zeros(n), np.zeros(n)
    a[:up] = 1.0
    if down > 0:
        b[up : up + down] = 1.0
    columns = {q: a if q.stage == "a" else b for q in condition.quantities}
    return _verdict(gate_interval(condition, columns, confidence=confidence))


def _verdict(ends: tuple[float, float] | None) -> str:
    return "UNDECIDED" if ends is None or ends[0] < 0 <= ends[1] else "PASS" if ends[0] >= 0 else "FAIL"


def run(scene: Scene, n: int, runs: int, seed: int) -> tuple[dict[str, float], dict[str, float], float]:
    """Shares of verdicts with all examples and by looks, and the mean share of examples that the looks used."""
    generator, sizes = np.random.default_rng(seed), look_sizes(n)
    confidences = look_confidences([size / n for size in sizes], CONFIDENCE)
    drawn = [scene.draw(n, generator) for _ in range(runs)]
    if scene.costly:
        return in_sum([alone(scene, columns, sizes, confidences) for columns in drawn], n)
    a = np.stack([columns["a"] for columns in drawn])
    b = np.stack([columns["b"] for columns in drawn]) if "b" in scene.stages else None
    return in_sum(by_counts(scene.gate, a, b, sizes, confidences), n)


Run = tuple[str, str, int]
"""The verdict on all examples, that of the looks, and how many examples these took."""


def alone(scene: Scene, columns: dict[str, Array], sizes: Sequence[int], confidences: Sequence[float]) -> Run:
    """One run."""
    whole, n = look(scene, columns, CONFIDENCE), sizes[-1]
    for size, confidence in zip(sizes, confidences, strict=True):
        part = {name: column[:size] for name, column in columns.items()}
        verdict = look(scene, part, confidence, last=size == n)
        if verdict != "UNDECIDED":
            return whole, verdict, size
    return whole, "UNDECIDED", n


def by_counts(gate: str, a: Array, b: Array | None, sizes: Sequence[int], confidences: Sequence[float]) -> list[Run]:
    """Runs on 0/1 scores, one a row, whose counts tell all."""
    up = np.cumsum(a if b is None else a > b, axis=1).astype(int)
    down = np.full_like(up, -1) if b is None else np.cumsum(a < b, axis=1).astype(int)
    found = []
    for ups, downs in zip(up, down, strict=True):
        whole = counted(gate, sizes[-1], int(ups[-1]), int(downs[-1]), CONFIDENCE)
        for size, confidence in zip(sizes, confidences, strict=True):
            verdict = counted(gate, size, int(ups[size - 1]), int(downs[size - 1]), confidence)
            if verdict != "UNDECIDED":
                break
        found.append((whole, verdict, size))
    return found


def in_sum(runs: Sequence[Run], n: int) -> tuple[dict[str, float], dict[str, float], float]:
    """Shares of verdicts with all examples and by looks, and the mean share of examples that the looks used."""
    verdicts = ("PASS", "FAIL", "UNDECIDED")
    shares = ({v: sum(one[i] == v for one in runs) / len(runs) for v in verdicts} for i in (0, 1))
    return *shares, sum(used for _, _, used in runs) / len(runs) / n


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    few, error = max(runs // 25, 1), 100 * math.sqrt(0.025 * 0.975 / runs)
    print(f"{runs} runs, {few} of graded scores; the standard error of 2.5 % is {error:.2f} points\n")
    print("| truth on the boundary | n | wrong PASS | wrong FAIL | examples used |\n|---|---|---|---|---|")
    for name, scene in BOUNDARY.items():
        for n in SIZES[: 2 if scene.costly else None]:
            _, found, used = run(scene, n, few if scene.costly else runs, seed=n)
            print(f"| {name} | {n} | {found['PASS']:.1%} | {found['FAIL']:.1%} | {used:.0%} |", flush=True)
    print("\n| truth | n | right, all examples | right, sequential | examples used |\n|---|---|---|---|---|")
    for name, scene in ABOVE.items():
        aim = "FAIL" if "truth 50%" in name else "PASS"
        for n in SIZES:
            whole, found, used = run(scene, n, runs, seed=n)
            print(f"| {name} | {n} | {whole[aim]:.1%} | {found[aim]:.1%} | {used:.0%} |", flush=True)


if __name__ == "__main__":
    main()
