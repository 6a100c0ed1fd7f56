"""What a session prints and writes holds no key: warnings, captured output, logs, JUnit, annotations, the store."""

from __future__ import annotations

from pathlib import Path

import pytest

KEY = "sk-planted-0123456789"
PASSWORD = "planted-PASS-42"
CONFTEST = f"""
import dspy, logging, pytest, warnings
from pytest_dspy_ft import Dataset, Experiment, Stage
from tests.scripted import CHAT, numbers, reply, scripted_lm

class Own(UserWarning):
    def __init__(self, settings):
        super().__init__(settings)

def answer(fields, request):
    if fields["text"] == "35":
        raise RuntimeError("cannot reach http://me:{PASSWORD}@host/v1 with {KEY}")
    return reply(label="{KEY} http://me:{PASSWORD}@host")

@pytest.fixture(scope="session")
def dspy_experiment():
    data = numbers(40)
    lm = scripted_lm(answer, num_retries=0)
    stages = [Stage("few", dspy.BootstrapFewShot(metric=lambda example, prediction, trace=None: True))]
    return Experiment("e", program=dspy.Predict("text -> label"), dataset=Dataset(train=data[:20], dev=data[20:]),
        metric=lambda example, prediction, trace=None: "{KEY}" in prediction.label, lm=lm, adapter=CHAT, stages=stages)
"""
TESTS = """
import logging, os, pytest, warnings
from conftest import Own

SETTINGS = {"api_key": os.environ["OPENAI_API_KEY"], "api_base": os.environ["OPENAI_BASE_URL"]}

@pytest.mark.dspy_gate("baseline >= 95%")
def test_baseline(): ...

@pytest.mark.dspy_gate("few >= 99%")
def test_few(): ...

def test_warns():
    warnings.warn(f"calling {SETTINGS}")
    warnings.warn(Own(f"calling {SETTINGS}"))

def test_shows(record_property):
    record_property("settings", str(SETTINGS))
    print(SETTINGS)
    try:
        raise ValueError(str(SETTINGS))
    except ValueError:
        logging.getLogger("other").exception("refused")
    settings = SETTINGS
    assert settings == {}
"""


@pytest.mark.parametrize("more", [(), ("-n", "1")])
def test_no_key_and_no_password_anywhere(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://me:{PASSWORD}@host/v1")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "step.md"))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=TESTS)
    reports = [f"--dspy-report=run.{kind}" for kind in ("json", "md", "html")]
    files = (
        "--junitxml=junit.xml",
        "--log-file=log.txt",
        "--log-level=DEBUG",
        "-rA",
        "--showlocals",
        "-ojunit_family=xunit1",
    )
    result = pytester.runpytest_subprocess("--dspy-stage=all", *reports, *files, *more)
    result.assert_outcomes(passed=2, failed=2, warnings=2)
    written = {str(path): path.read_text("utf-8", "replace") for path in _made_by_the_session(pytester.path)}
    written["stdout"], written["stderr"] = result.stdout.str(), result.stderr.str()
    for secret in (KEY, PASSWORD):
        assert [name for name, text in written.items() if secret in text] == []
    result.stdout.fnmatch_lines(["*Own: calling {*'api_key': '***'*", "baseline *95.0%*"])
    assert "***" in written[str(pytester.path / "junit.xml")]
    assert any("***" in text for name, text in written.items() if name.endswith("program.json"))
    assert "*** http://***@host" in written[str(pytester.path / "run.json")]


def _made_by_the_session(folder: Path) -> list[Path]:
    given = {"conftest.py", "test_it.py"}
    return [p for p in folder.rglob("*") if p.is_file() and p.name not in given and "__pycache__" not in p.parts]
