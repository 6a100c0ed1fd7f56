"""The tour of the four examples: on the embedded LM, on few examples, with the gates that those can tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.model

REPOSITORY = Path(__file__).resolve().parents[2]
TOUR = ["examples", "--dspy-stage=all", "--dspy-limit=40", "-m", "tour"]


def test_the_tour(tmp_path: Path) -> None:
    assert f"pytest {' '.join(TOUR)}\n" in (REPOSITORY / "docs/examples/index.md").read_text("utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTEST_ADDOPTS", "EXAMPLE_SEED")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *TOUR, f"--dspy-store={tmp_path / 'store'}", "-p", "no:cacheprovider"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "4 passed" in done.stdout
    for experiment in ("tickets", "rag", "entities", "problems"):
        assert f"dspy: {experiment} " in done.stdout, "each ladder has its table"
