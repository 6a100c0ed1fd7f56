"""How near the times of ``--dspy-plan`` are: a ladder's local steps planned in an empty store, then really made.

    python benchmarks/planned_times.py examples/ticket_sorting --stage finetune
    python -m pytest_dspy_ft init /tmp/first && python benchmarks/planned_times.py /tmp/first --stage finetune

Prints each step's planned and real seconds. The plan is made twice: with the pace that this machine had noted before
(or a trial), and again after the run, with what the run itself noted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

Step = tuple[str, str]


class Keeper:
    """Keeps the plans of a session."""

    def __init__(self) -> None:
        self.steps: dict[Step, float | None] = {}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Read them before pytest forgets its configuration."""
        from pytest_dspy_ft.plugin.plan import plans_of

        for plan in plans_of(session.config):
            self.steps |= {(step.stage, step.on or "build"): step.seconds for step in plan.steps}


def arguments_of(options: argparse.Namespace, store: str) -> list[str]:
    """Those of every session."""
    words = [str(options.project), f"--dspy-stage={options.stage}", f"--dspy-store={store}", "-p", "no:cacheprovider"]
    return words + ([f"--dspy-limit={options.limit}"] if options.limit else [])


def planned(options: argparse.Namespace, store: str) -> dict[Step, float | None]:
    """The plan's seconds, by stage and split (or "build"); in a process of its own, as a user's would be."""
    script = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import planned_times as p; "
        "print(json.dumps(p.plan_here(sys.argv[2:])))"
    )
    here = str(Path(__file__).parent)
    words = [sys.executable, "-c", script, here, "--dspy-plan", *arguments_of(options, store)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {(stage, on): seconds for stage, on, seconds in json.loads(done.stdout.splitlines()[-1])}


def plan_here(words: list[str]) -> list[tuple[str, str, float | None]]:
    """The plan of a session in this process."""
    keeper = Keeper()
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(words, plugins=[keeper])
    return [(stage, on, seconds) for (stage, on), seconds in keeper.steps.items()]


def real(options: argparse.Namespace, folder: Path) -> dict[Step, float]:
    """What the steps took."""
    report = folder / "report.json"
    words = [sys.executable, "-m", "pytest", f"--dspy-report={report}", *arguments_of(options, str(folder / "store"))]
    subprocess.run(words, check=False)
    found: dict[Step, float] = {}
    for experiment in json.loads(report.read_text("utf-8"))["experiments"]:
        records: list[dict[str, Any]] = experiment["stages"]
        found |= {(one["stage"], "build"): one["seconds"] for one in records if one["status"] == "built"}
        found |= {(one["stage"], one["on"]): one["wall_seconds"] for one in experiment["results"]}
    return found


def main() -> None:
    """Plan, run, plan again, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--stage", default="finetune")
    parser.add_argument("--limit", help="--dspy-limit of the sessions")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = planned(options, str(folder / "empty"))
        took = real(options, folder)
        after = planned(options, str(folder / "empty"))
    print(f"\n{'step':<34}{'planned':>9}{'real':>9}{'planned anew':>14}   seconds")
    for step in before:
        figures = (before[step], took.get(step), after.get(step))
        cells = ["-" if value is None else f"{value:.1f}" for value in figures]
        print(f"{' '.join(step):<34}{cells[0]:>9}{cells[1]:>9}{cells[2]:>14}")
    sums = [sum(value or 0.0 for step, value in side.items() if step in before) for side in (before, took, after)]
    print(f"{'all':<34}{sums[0]:>9.1f}{sums[1]:>9.1f}{sums[2]:>14.1f}")


if __name__ == "__main__":
    main()
