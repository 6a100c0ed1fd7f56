"""Projects that the tests of the plugin run: the toy ladder's tests, its baseline, and what a run left behind."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

LADDER = """
import pytest

@pytest.mark.dspy_gate("baseline >= 40%")
def test_baseline(): ...

@pytest.mark.dspy_gate("prompt_optimized >= 90%")
@pytest.mark.dspy_gate("prompt_optimized >= baseline + 30%")
def test_prompt_optimized(): ...

@pytest.mark.dspy_gate("finetuned >= prompt_optimized", on="test")
@pytest.mark.dspy_gate("bootstrap_rate(finetuned) >= 90%")
def test_finetuned(): ...

def test_program(dspy_finetuned):
    assert dspy_finetuned(text="4").label == "even"
"""
GATES = LADDER.replace("def test_program", "def not_a_test")
FILE = "baseline.json"
SAVE = f"--dspy-save-baseline={FILE}"
COMPARE = f"--dspy-compare={FILE}"
FULL = "--dspy-stage=finetune"
DEV = ",".join(map(str, range(80, 90)))
ITEM = "test_it.py::dspy_compare[[]parity[]]"


def calls(project: pytest.Pytester) -> list[str]:
    log = project.path / "calls.log"
    return log.read_text().splitlines() if log.exists() else []


def table(result: pytest.RunResult) -> list[str]:
    """The report from its table on, without what only a session that measures says: what it cannot see."""
    lines = result.stdout.lines
    start = next(i for i, line in enumerate(lines) if line.startswith("stage"))
    shown, left_out = [], False
    for line in lines[start:]:
        left_out = line.startswith("(!) a change is not seen where ") or (left_out and line.startswith("    "))
        if line and not left_out and "passed" not in line:
            shown.append(line)
    return shown


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest; in this process where the arguments do not need one of its own."""
    if any(a.startswith(("-n", "-p")) for a in arguments):
        return project.runpytest_subprocess(*arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)  # what we say to users is shown, as in a process of its own
        return project.runpytest_inprocess("-p", "no:xdist", *arguments)


def text(project: pytest.Pytester) -> str:
    return (project.path / FILE).read_text(encoding="utf-8")


def content(project: pytest.Pytester) -> Any:
    return json.loads(text(project))


def wrong(monkeypatch: pytest.MonkeyPatch, numbers: str) -> str:
    """From now on these numbers get wrong answers; the store to use with it, as nothing else tells the change."""
    monkeypatch.setenv("PARITY_WRONG", numbers)
    return "--dspy-store=worse"
