"""NaN and halves of characters in data and replies: every file is written, every session ends as it should."""

from __future__ import annotations

import json

import pytest

from tests.plugin.projects import run

REPORTS = ("--dspy-report=run.json", "--dspy-report=run.md", "--dspy-report=run.html", "--junitxml=junit.xml")

CONFTEST = """
import json
import dspy, pytest
from pytest_dspy_ft import Dataset, Experiment, Stage
from tests.scripted import scripted_lm

ODD = [float("nan"), float("inf"), "\\ud83d", {"\\udc97": [float("-inf")]}, 10**400]

LABEL = "x\\u2028\\ud83d"

def reply():
    return json.dumps({"label": LABEL}, ensure_ascii=False)

def row(n):
    return dspy.Example(text=f"{n} t", odd=ODD[n % 5], label="x").with_inputs("text")

def right(example, prediction, trace=None):
    return prediction.label == LABEL and example.text != "21 t"

@pytest.fixture(scope="session")
def dspy_experiment():
    return Experiment("odd", program=dspy.Predict("text -> label"),
        dataset=Dataset(train=[row(n) for n in range(20)], dev=[row(n) for n in range(20, 40)]),
        metric=right, lm=scripted_lm(lambda fields, request: reply()), adapter=dspy.JSONAdapter(),
        stages=[Stage("few", dspy.LabeledFewShot(k=5))])
"""
GATES = """
import pytest
@pytest.mark.dspy_gate("baseline >= 90%")
def test_baseline(): ...
@pytest.mark.dspy_gate("few >= 100%")
def test_few(): ...
"""


@pytest.fixture
def odd(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=GATES)
    return pytester


@pytest.mark.parametrize("more", [(), ("-n", "2")])
def test_every_report_is_written_and_read_again(odd: pytest.Pytester, more: tuple[str, ...]) -> None:
    for built in ("2 built, 0 loaded", "0 built, 2 loaded"):
        result = run(odd, "--dspy-stage=all", *REPORTS, *more)
        result.assert_outcomes(passed=1, failed=1)
        assert "Traceback" not in result.stdout.str() + result.stderr.str()
        result.stdout.fnmatch_lines([f"*{built}*", "baseline *95.0%*", "*few >= 100%*95.0%*FAIL*"])
        record = json.loads((odd.path / "run.json").read_text("utf-8"), parse_constant=pytest.fail)
        contents = record["experiments"][0]["examples"].values()
        assert {str(content["expected"]["odd"])[:10] for content in contents} >= {"NaN", "Infinity", "\\ud83d"}
        assert (odd.path / "run.html").read_text("utf-8").count("\\ud83d")
        assert "\\ud83d" in (odd.path / "run.md").read_text("utf-8")
        assert (odd.path / "junit.xml").read_text("utf-8").count("<testcase") == 2
    shown = odd.run("python", "-m", "pytest_dspy_ft", "report", "run.json", "--dspy-report=again.md")
    assert "Traceback" not in shown.stderr.str()


def test_a_baseline_is_saved_and_compared(odd: pytest.Pytester) -> None:
    run(odd, "--dspy-stage=all", "--dspy-save-baseline=baseline.json").assert_outcomes(passed=1, failed=1)
    result = run(odd, "--dspy-stage=all", "--dspy-compare=baseline.json")
    result.assert_outcomes(passed=2, failed=1)  # the comparison is a test of its own


def test_recordings_give_the_same_replies_again(odd: pytest.Pytester) -> None:
    run(odd, "--dspy-record=once", "--dspy-store=one").assert_outcomes(passed=1, skipped=1)
    run(odd, "--dspy-record=none", "--dspy-store=two").assert_outcomes(passed=1, skipped=1)


def test_an_interrupted_evaluation_goes_on_behind_a_line_separator(odd: pytest.Pytester) -> None:
    odd.makeconftest(
        CONFTEST.replace("lambda fields, request: reply(", "lambda fields, request: answer(fields) or reply(")
    )
    with (odd.path / "conftest.py").open("a") as stream:
        stream.write(
            "\nimport os, pathlib\n"
            "def answer(fields):\n"
            "    with open('calls.log', 'a') as log: log.write(fields['text'] + '\\n')\n"
            "    if fields['text'] == '35 t' and not pathlib.Path('again').exists(): raise KeyboardInterrupt\n"
        )
    run(odd, "--dspy-num-threads=1", "-p", "no:xdist")
    before = len((odd.path / "calls.log").read_text().splitlines())
    (odd.path / "again").touch()
    run(odd, "--dspy-num-threads=1", "-p", "no:xdist").assert_outcomes(passed=1, skipped=1)
    assert len((odd.path / "calls.log").read_text().splitlines()) <= before + 6
