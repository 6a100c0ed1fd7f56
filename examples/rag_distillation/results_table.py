"""The docs' table of results, from what a session measured: quality, cost and what is kept of the teacher's quality.

    pytest examples/rag_distillation --dspy-stage=all --dspy-report=run.json
    python examples/rag_distillation/results_table.py run.json

Costs are those of the session: tokens that were counted, at list prices or at those of the ini file's `dspy_prices`.
Where nothing has a price, as on the embedded LM by default, tokens a call are compared instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from pytest_dspy_ft import StageResult, read_record

TEACHER = "teacher_optimized"
HEADERS = ("stage", "on", "F1", "tokens/call", "$/1M tokens", "$/1k calls", "relative cost", "retention")


def table(results: Sequence[StageResult]) -> str:
    """The results of one split, the teacher's first."""
    teacher = next(result for result in results if result.stage == TEACHER)
    rows = []
    for result in sorted(results, key=lambda r: r.stage != TEACHER):
        priced = result.cost is not None and bool(result.cost) and bool(teacher.cost)
        relative = (result.cost or 0) / (teacher.cost or 1) if priced else result.tokens / teacher.tokens
        rows.append(
            [
                result.stage,
                result.on,
                f"{result.score:.1%}",
                f"{result.tokens:.0f}",
                f"{1e6 * (result.cost or 0) / result.tokens:.2f}" if priced else "no price",
                f"{1e3 * (result.cost or 0):.3f}" if priced else "no price",
                f"{relative:.3f}x" + ("" if priced else " (tokens)"),
                f"{result.score / teacher.score:.1%}" if teacher.score else "",
            ]
        )
    return tabulate(rows, HEADERS, disable_numparse=True)


def main() -> None:
    """Print the tables of a session."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="what --dspy-report=FILE.json wrote")
    record = read_record(parser.parse_args().report)
    for experiment in record.experiments:
        for split in experiment.sizes:
            results = [result for result in experiment.results if result.on == split]
            if any(result.stage == TEACHER for result in results):
                print(table(results), end="\n\n")


if __name__ == "__main__":
    main()
