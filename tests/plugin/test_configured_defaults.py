"""What a project configures DSPy with, in a conftest or a fixture, before or after its experiment is declared."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import CONFTEST

OPTIMIZER = """
import dspy, pytest
from parity import make_experiment, right_label
from pytest_dspy_ft import Stage

{top}

@pytest.fixture(scope="session")
def settings():
    return {{"metric": right_label, "auto": "light"}}

@pytest.fixture(scope="session")
def optimizer(settings):
    return dspy.MIPROv2(**settings)

@pytest.fixture(scope="session")
def dspy_experiment(optimizer):
    return make_experiment(stages=[Stage("searched", optimizer)])
"""

TEST = """
import dspy, pytest

@pytest.mark.dspy_gate("baseline >= 10%")
def test_gate(): ...

def test_nothing_is_left_configured():
    assert dspy.settings.lm is None
"""


def test_an_optimizer_that_wants_an_lm_may_be_a_fixture(project: pytest.Pytester) -> None:
    project.makeconftest(OPTIMIZER.format(top=""))
    project.makepyfile(TEST)
    project.runpytest_subprocess().assert_outcomes(passed=2)


@pytest.mark.parametrize("scope", ["session", "function"])
def test_an_adapter_that_is_configured_too_late_is_said(project: pytest.Pytester, scope: str) -> None:
    late = f"""
import dspy

@pytest.fixture(scope="{scope}", autouse=True)
def configured():
    dspy.configure(adapter=dspy.JSONAdapter())
"""
    project.makeconftest(CONFTEST.replace("make_experiment()", "make_experiment(adapter=None)") + late)
    project.makepyfile('import pytest\n\n@pytest.mark.dspy_gate("baseline >= 10%")\ndef test_gate(): ...\n')
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*DSPy is configured with JSONAdapter now*"])
