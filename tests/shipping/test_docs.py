"""docs/how-to/shipping.md is code too: its commands and its blocks are run, on a hosted LM of the loopback."""

from __future__ import annotations

import re
import shlex

import dspy
import pytest

from pytest_dspy_ft.cli import main, make_parser
from tests.conftest import REPOSITORY
from tests.lms.chat import serving
from tests.parity import Labels

PAGE = (REPOSITORY / "docs" / "how-to" / "shipping.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```([^\n]*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line[2:])
    for kind, body in BLOCKS
    if kind == "console"
    for line in body.splitlines()
    if line.startswith("$ ")
]

CONFTEST = """
import dspy, os, pytest
from parity import make_experiment
from pytest_dspy_ft import Stage

@pytest.fixture(scope="session")
def dspy_experiment():
    lm = dspy.LM("openai/base", api_base=os.environ["BASE"], api_key="none", cache=False)
    return make_experiment(lm=lm, stages=[Stage("finetuned", dspy.LabeledFewShot(k=3))])
"""

TEST = """
import pytest

@pytest.mark.dspy_gate("finetuned >= 90%")
def test_it(): ...
"""


def test_every_command_and_block_does_what_the_page_says(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {kind for kind, _ in BLOCKS} == {"console", "python"}
    project.makeconftest(CONFTEST)
    project.makepyfile(test_it=TEST)
    monkeypatch.chdir(project.path)
    with serving(keys=frozenset()) as server:
        monkeypatch.setenv("BASE", server.address)
        ran = []
        for words in COMMANDS:
            if words[0] == "pytest":
                project.runpytest_inprocess("-p", "no:xdist", "--dspy-stage=prompt").assert_outcomes(passed=1)
            else:
                arguments = words[3:]
                assert words[:3] == ["python", "-m", "pytest_dspy_ft"]
                make_parser().parse_args(arguments)
                if arguments[0] != "merge":  # that takes the embedded model: tests/real/test_exported.py
                    assert main(arguments) == 0
            ran.append(words[0] if words[0] == "pytest" else words[3])
        assert ran == ["pytest", "export", "verify", "merge", "merge"]
        capsys.readouterr()
        names = {"dspy": dspy, "Sorter": lambda: dspy.Predict(Labels)}
        for kind, body in BLOCKS:
            if kind == "python":
                exec(body, names)
        assert capsys.readouterr().out == "even\n"
        assert names["program"].get_lm().model == "openai/merged"  # type: ignore[attr-defined]
        assert len(names["program"].demos) == 3  # type: ignore[attr-defined]
