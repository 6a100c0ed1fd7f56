"""How often a session fails that compares stages in which nothing changed, and which true losses it finds.

Each example of a stage is right with a probability of its own (Beta(4, 1): 80 % on average), then and now alike, as
with an LM that samples; all stages are independent, which is the hardest case for a correction. Graded scores are the
mean of four such throws.

    python benchmarks/compare_calibration.py            # both tables of docs/how-to/baselines.md
    python benchmarks/compare_calibration.py --runs 500
"""

from __future__ import annotations

import argparse
import functools
import math

import numpy as np

from pytest_dspy_ft.gates.holm import Holm
from pytest_dspy_ft.gates.losses import PairedScores

CONFIDENCE = 0.95


@functools.lru_cache(maxsize=100_000)
def lost(before: tuple[float, ...], after: tuple[float, ...], divisor: int) -> int:
    """-1 for a loss that is found, 1 for a gain, 0 for neither."""
    scores = PairedScores("", tuple(map(str, range(len(before)))), before, after)
    if not scores.is_decided(CONFIDENCE, divisor):
        return 0
    return -1 if scores.mean_after < scores.mean_before else 1


def drawn(generator: np.random.Generator, n: int, graded: bool, loss: float = 0.0) -> tuple[tuple[float, ...], ...]:
    """Scores then and now, sorted, as their order does not matter; nor does what stays right, with 0/1 scores."""
    rate = generator.beta(4, 1, n)
    throws = 4 if graded else 1
    before = generator.binomial(throws, rate) / throws
    after = generator.binomial(throws, np.clip(rate * (1 - loss / 0.8), 0, 1)) / throws
    if not graded:
        before, after = np.clip(before - after, 0, 1), np.clip(after - before, 0, 1)
    pairs = sorted(zip(before.tolist(), after.tolist(), strict=True))
    return tuple(old for old, _ in pairs), tuple(new for _, new in pairs)


def failing(n: int, comparisons: int, runs: int, graded: bool) -> tuple[float, float]:
    """The share of sessions that find a loss where nothing changed: corrected, and each judged by itself."""
    generator = np.random.default_rng([n, comparisons, graded])
    corrected = plain = 0
    for _ in range(runs):
        session = [drawn(generator, n, graded) for _ in range(comparisons)]
        holm = Holm(range(comparisons), lambda one, divisor, session=session: lost(*session[one], divisor) != 0)
        corrected += any(lost(*pair, holm.divisor(one)) < 0 for one, pair in enumerate(session))
        plain += any(lost(*pair, 1) < 0 for pair in session)
    return corrected / runs, plain / runs


def found(n: int, comparisons: int, loss: float, runs: int) -> float:
    """The share of sessions that find a true loss of one stage among so many comparisons."""
    generator = np.random.default_rng([n, comparisons, round(1000 * loss)])
    return sum(lost(*drawn(generator, n, graded=False, loss=loss), comparisons) < 0 for _ in range(runs)) / runs


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    error = math.sqrt(0.025 * 0.975 / runs)
    print(
        f"sessions in which nothing changed that fail, in % ({runs} each; nominal 2.5, "
        f"standard error {100 * error:.1f})\n"
    )
    print("| scores | n | 1 comparison | 10 | 30 | 30, each judged by itself |\n|---|---|---|---|---|---|")
    for graded, some in ((False, runs), (True, max(runs // 10, 1))):
        for n in (50, 200):
            figures = [failing(n, comparisons, some, graded) for comparisons in (1, 10, 30)]
            shown = " | ".join(f"{100 * corrected:.1f}" for corrected, _ in figures)
            kind = f"graded ({some} sessions)" if graded else "0/1"
            print(f"| {kind} | {n} | {shown} | {100 * figures[-1][1]:.0f} |", flush=True)
    print(f"\ntrue losses of one stage that are found, 0/1, in % ({runs} sessions each)\n")
    print("| n | comparisons | 5 points | 10 | 15 | 20 | 30 |\n|---|---|---|---|---|---|---|")
    for n in (50, 200):
        for comparisons in (1, 10, 30):
            shares = [found(n, comparisons, loss, runs) for loss in (0.05, 0.1, 0.15, 0.2, 0.3)]
            print(f"| {n} | {comparisons} | " + " | ".join(f"{100 * share:.0f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
