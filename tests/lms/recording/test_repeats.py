"""Repeats of an LM that samples are calls of their own: recorded one by one, and replayed to the same score."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.projects import run

CONFTEST = """
import random
import pytest
from parity import ParityEngine, ParityProvider, make_experiment
import dspy

class Sampling(ParityEngine):
    '''Right now and then: another answer each time it is really asked.'''

    def complete(self, request):
        response = super().complete(request)
        if random.random() < 0.5:
            return response
        return self._reply(request, "[[ ## label ## ]]\\neven\\n\\n[[ ## completed ## ]]")

@pytest.fixture(scope="session")
def dspy_experiment():
    lm = dspy.LM("toy/sampling", engine=Sampling(), provider=ParityProvider(), cache=False, temperature=1.0)
    return make_experiment(lm=lm, stages=[])
"""

TESTS = """
def test_repeats(dspy_evaluate):
    result = dspy_evaluate("baseline")
    print("SCORES", [round(example.score, 4) for example in result.examples])
    assert result.n == 10
"""


def scores(result: pytest.RunResult) -> str:
    return next(line.partition("SCORES")[2] for line in result.stdout.lines if "SCORES" in line)


def test_repeats_are_replayed_one_by_one(project: pytest.Pytester) -> None:
    project.makeconftest(CONFTEST)
    project.makepyfile(TESTS)
    first = run(project, "-s", "--dspy-repeats=6", "--dspy-record=once", "--dspy-store=one")
    first.assert_outcomes(passed=1)
    calls = Path(project.path / "calls.log").read_text().splitlines()
    assert len(calls) == 60
    second = run(project, "-s", "--dspy-repeats=6", "--dspy-offline", "--dspy-store=two")
    second.assert_outcomes(passed=1)
    assert scores(second) == scores(first)
    assert Path(project.path / "calls.log").read_text().splitlines() == calls
    assert len(set(scores(first).split(","))) > 1, "repeats differ from one another"
