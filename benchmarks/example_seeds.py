"""The examples' ladders, measured with several seeds: mean and range of every figure that their READMEs quote.

    python benchmarks/example_seeds.py ticket_sorting --seeds 0 1 2 --store /tmp/seeds
    python benchmarks/example_seeds.py --store /tmp/seeds                                # all of them

Runs ``pytest examples/NAME --dspy-stage=all`` with EXAMPLE_SEED set, each seed in an empty store of its own below
``--store`` (one that is there already is loaded), and reads the evaluations that it leaves. A failing gate ends
nothing: the figures are what is asked for, and the exit code of each run is shown.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.store.inventory import take_inventory

REPOSITORY = Path(__file__).resolve().parents[1]


def run(example: str, seed: int, store: Path, more: Sequence[str]) -> tuple[int, float]:
    """One seed's session: its exit code and how long it took, in seconds."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(Path("examples", example)),
        "--dspy-stage=all",
        f"--dspy-store={store}",
        *more,
    ]
    started = time.monotonic()
    session = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "EXAMPLE_SEED": str(seed)}, check=False)
    return session.returncode, time.monotonic() - started


def spread(values: Sequence[float], form: str) -> str:
    """Mean and range."""
    return f"{statistics.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What stands behind -- is handed to pytest.",
    )
    parser.add_argument("example", nargs="?", default="", help="a folder below examples/; all of them if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--store", type=Path, required=True, help="where each seed's store lies")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:end])
    runs: list[list[Any]] = []
    found: dict[tuple[str, str, str], list[StageResult]] = {}
    for seed in arguments.seeds:
        store = (arguments.store / f"{arguments.example or 'all'}-{seed}").absolute()
        code, seconds = run(arguments.example, seed, store, words[end + 1 :])
        runs.append([seed, code, f"{seconds:.0f}"])
        for result in (stored.result for stored in take_inventory(store).evaluations):
            found.setdefault((result.experiment, result.stage, result.on), []).append(result)
    rows = [
        [
            experiment,
            stage,
            on,
            ", ".join(f"{100 * r.score:.1f}" for r in of),
            spread([100 * r.score for r in of], ".1f"),
            spread([100 * r.unparsed / r.n for r in of], ".1f"),
            sum(r.errors for r in of),
            spread([r.tokens for r in of], ".0f"),
        ]
        for (experiment, stage, on), of in sorted(found.items())
    ]
    print(tabulate(runs, headers=["seed", "exit code", "seconds"]))
    print()
    print(
        tabulate(
            rows, headers=["experiment", "stage", "on", "by seed", "score %", "unparsed %", "errors", "tokens/call"]
        )
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\npeak memory of the largest process: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
