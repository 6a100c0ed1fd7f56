"""How long the interval of a gate over five stages takes, beside scipy's bootstrap and a plain numpy one.

    python benchmarks/statistics_speed.py

10 000 resamples of 5 stages x 10 000 examples, medians of several runs in turn. 0/1 scores and scores of few levels are
drawn as counts of distinct rows; where almost every row is different, above 1 200 examples, the means come from the
normal distribution that the central limit theorem gives them. Plain numpy and scipy draw every example every time;
scipy is given a tenth of the resamples, and its time is scaled.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.intervals import gate_interval
from pytest_dspy_ft.statistics.bootstrap import RESAMPLES, Array

EXPRESSION = "a >= (b + c) / 2 * d / e"


def margin(means: Array) -> Array:
    """The same gate's margin, from means of shape (m, 5)."""
    return means[:, 0] - (means[:, 1] + means[:, 2]) / 2 * means[:, 3] / means[:, 4]


def plain_numpy(data: Array) -> None:
    """A percentile bootstrap as one would write it down."""
    generator = np.random.default_rng(0)
    means = np.empty((RESAMPLES, data.shape[1]))
    for index in range(RESAMPLES):
        means[index] = data[generator.integers(0, len(data), len(data))].mean(axis=0)
    np.percentile(margin(means), [2.5, 97.5])


def scipys(data: Array) -> None:
    """scipy.stats.bootstrap, paired, percentile, in batches that fit into memory."""
    from scipy import stats

    def statistic(*columns: Array, axis: int) -> Array:
        means = np.stack([column.mean(axis=axis) for column in columns], axis=-1)
        return margin(means.reshape(-1, len(columns))).reshape(means.shape[:-1])

    stats.bootstrap(
        tuple(data.T),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES // 10,
        batch=50,
        method="percentile",
        rng=np.random.default_rng(0),
    )


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one run: what it takes on an idle core, also where the machine is busy."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    gate = Gate.parse(EXPRESSION, confidence=0.95)
    for kind in ("0/1", "11 levels", "graded"):
        generator = np.random.default_rng(0)
        shape = (arguments.examples, 5)
        levels = {"0/1": 1, "11 levels": 10}.get(kind)
        data = generator.integers(0, levels + 1, shape) / levels if levels else generator.random(shape)
        columns = dict(zip(gate.condition.quantities, data.T, strict=True))

        def ours(columns: dict[object, Array] = columns) -> object:
            return gate_interval(gate.condition, columns, confidence=0.95)  # type: ignore[arg-type]

        times: dict[str, list[float]] = {"ours": [], "plain numpy": [], "scipy": []}
        for repeat in range(arguments.repeats):
            times["ours"].append(seconds(ours))
            if repeat == 0:  # these take long, and vary little
                times["plain numpy"].append(seconds(lambda: plain_numpy(data)))  # noqa: B023
                times["scipy"].append(10 * seconds(lambda: scipys(data)))  # noqa: B023
        figures = ", ".join(f"{name} {statistics.median(values):.3f} s" for name, values in times.items())
        print(f"{kind}: {RESAMPLES} resamples of 5 stages x {arguments.examples} examples: {figures}", flush=True)


if __name__ == "__main__":
    main()
