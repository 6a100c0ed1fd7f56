"""Exporting from the tests' projects, in this process, and loading in another one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pytest_dspy_ft.cli import main
from pytest_dspy_ft.records.receipt import RECEIPT, Receipt, parsed_receipt
from pytest_dspy_ft.store.inventory import take_inventory

CONFTEST = """
import pytest
from parity import make_experiment

@pytest.fixture(scope="session")
def dspy_experiment():
    return make_experiment()
"""

GATES = """
import pytest

@pytest.mark.dspy_gate("baseline >= 40%")
def test_baseline(): ...

@pytest.mark.dspy_gate("prompt_optimized >= 90%")
@pytest.mark.dspy_gate("prompt_optimized >= baseline + 30%")
def test_prompt_optimized(): ...

@pytest.mark.dspy_gate("finetuned >= prompt_optimized", on="test")
def test_finetuned(): ...
"""

ANSWERS = """
import json, sys
import pytest_dspy_ft
{imports}
program = pytest_dspy_ft.load({folder!r}{given})
assert "pytest" not in sys.modules and "_pytest" not in sys.modules
inputs = json.loads(sys.stdin.read())
print(json.dumps([dict(program(**one).items()) for one in inputs]))
"""


def export(project: Path, stage: str, *arguments: str, experiment: str = "parity", store: str = ".dspy_ft") -> int:
    """Export a stage into ``out`` of a project."""
    return main(["export", str(project / store), experiment, stage, "-o", str(project / "out"), *arguments])


def receipt_in(folder: Path) -> Receipt:
    """The receipt of an exported program."""
    return parsed_receipt((folder / RECEIPT).read_text(encoding="utf-8"), RECEIPT)


def gated_answers(store: Path, stage: str, on: str) -> list[dict[str, Any]]:
    """The predictions of a stage's evaluation, in the order of the split."""
    results = [e.result for e in take_inventory(store).evaluations]
    (result,) = [r for r in results if (r.stage, r.on) == (stage, on)]
    return [dict(example.prediction or {}) for example in result.examples]


def answers_elsewhere(
    folder: Path,
    inputs: list[dict[str, Any]],
    *,
    imports: str = "",
    given: str = "",
    path: Path | None = None,
    **environment: str,
) -> list[dict[str, Any]]:
    """What an exported program answers in a process of its own, which must not load pytest."""
    script = ANSWERS.format(folder=str(folder), imports=imports, given=given)
    paths = [str(path)] if path else []
    paths.append(str(Path(__file__).resolve().parents[2]))
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(inputs),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers
