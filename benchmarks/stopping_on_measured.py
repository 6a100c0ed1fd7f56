"""What sequential stopping finds and spares on results that were measured, in thousands of orders of their examples.

    python benchmarks/stopping_on_measured.py                    # the table of the page Calibration
    python benchmarks/stopping_on_measured.py --record run.json  # the ladders of a report that a session wrote

``measured_ladders.json`` has the 0/1 scores of a ladder on the embedded LM, example by example: five intents of
Banking77 (the 200 examples of its test file; prompted with 8 labelled examples, fine-tuned on 60 and on 120 labels for
an epoch, on 120 for two). Of each pair of stages, n examples are drawn with replacement in thousands of orders, and the
gate ``higher >= lower`` is judged once with all of them and once by looks. Where there is no gain, what passes is a
wrong PASS: for that, each example's two scores change places by the toss of a coin.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from stopping_calibration import CONFIDENCE, Array, by_counts, in_sum

from pytest_dspy_ft.gates.looks import look_sizes
from pytest_dspy_ft.records.run_file import read_record
from pytest_dspy_ft.statistics.sequential import look_confidences

MEASURED = Path(__file__).with_name("measured_ladders.json")
SIZES = (60, 200)
GATE = "a >= b"

Ladders = dict[str, dict[str, str]]
"""By experiment and stage, the score of each example: 0 or 1."""


def of_record(path: Path) -> Ladders:
    """The ladders of a record, on the split that each has most examples of; graded scores count from a half on."""
    ladders: Ladders = {}
    for experiment in read_record(path).experiments:
        results = [r for r in experiment.results if r.n == max(one.n for one in experiment.results)]
        held = [r for r in results if r.ids == results[0].ids]
        ladders[experiment.name] = {r.stage: "".join(str(int(score >= 0.5)) for score in r.scores) for r in held}
    return ladders


def scores(text: str) -> Array:
    """The scores of a stage."""
    return np.array([float(one) for one in text])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="a record of --dspy-report=FILE.json instead")
    parser.add_argument("--runs", type=int, default=4000)
    options = parser.parse_args()
    ladders: Ladders = of_record(options.record) if options.record else json.loads(MEASURED.read_text())
    print("| ladder | higher | lower | gain | n | PASS, all examples | PASS, looks | examples used | wrong PASS |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, stages in ladders.items():
        for lower, higher in itertools.combinations(stages, 2):
            low, high = scores(stages[lower]), scores(stages[higher])
            for n in SIZES:
                generator, sizes = np.random.default_rng(n), look_sizes(n)
                confidences = look_confidences([size / n for size in sizes], CONFIDENCE)
                drawn = generator.integers(len(low), size=(options.runs, n))
                a, b = high[drawn], low[drawn]
                whole, found, used = in_sum(by_counts(GATE, a, b, sizes, confidences), n)
                turned = generator.random(a.shape) < 0.5
                null = by_counts(GATE, np.where(turned, a, b), np.where(turned, b, a), sizes, confidences)
                wrong = in_sum(null, n)[1]["PASS"]
                gain = 100 * (high.mean() - low.mean())
                print(
                    f"| {name} | {higher} | {lower} | {gain:+.1f} | {n} | {whole['PASS']:.1%} | {found['PASS']:.1%} "
                    f"| {used:.0%} | {wrong:.1%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
