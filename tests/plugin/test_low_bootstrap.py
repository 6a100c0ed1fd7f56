"""What the user sees of a collection of traces that kept few."""

from __future__ import annotations

import pytest

CONFTEST = """
import pytest
import dspy
from parity import make_experiment, right_label
from pytest_dspy_ft import Stage

@pytest.fixture(scope="session")
def dspy_experiment():
    few = lambda example, prediction, trace=None: int(example.text) < {kept}
    return make_experiment(stages=[
        Stage("prompt_optimized", dspy.LabeledFewShot(k=3)),
        Stage("finetuned", dspy.BootstrapFinetune(metric=few), teacher="prompt_optimized"),
    ])
"""

GATE = """
import pytest

@pytest.mark.dspy_gate("bootstrap_rate(finetuned) >= 1%")
def test_rate(): ...
"""


def run(project: pytest.Pytester, kept: int) -> pytest.RunResult:
    project.makeconftest(CONFTEST.format(kept=kept))
    project.makepyfile(test_rate=GATE)
    return project.runpytest("--dspy-stage=finetune")


def test_a_low_rate_is_diagnosed_in_the_terminal_each_time(project: pytest.Pytester) -> None:
    for _ in range(2):  # built, then loaded
        result = run(project, 20)
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(
            ["finetuned: 20 of 80 traces kept (25%), 60 rejected*", "  scores: 0 x 60, 1 x 20", "*what helps:*"]
        )


def test_a_good_rate_is_not(project: pytest.Pytester) -> None:
    result = run(project, 80)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*what helps*")


def test_a_refused_stage_fails_its_test_and_is_diagnosed_there(project: pytest.Pytester) -> None:
    result = run(project, 9)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*stage 'finetuned': 9 of 80 traces by 'prompt_optimized' are good enough to train on*",
            "*what helps:*",
            "*every trace, with all replies:*traces.jsonl*",
            "*dspy: parity*",
            "finetuned  *failed: see test_rate.py::test_rate",
            "finetuned: 9 of 80 traces kept (11%), 71 rejected",
        ]
    )
    assert str(result.stdout).count("what helps:") == 1
    assert not (project.path / "jobs.log").exists(), "nothing was trained"
