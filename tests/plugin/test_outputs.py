"""Outputs in sessions of pytest: scored again, planned, shown as they came where something went wrong."""

from __future__ import annotations

import json
import os

import pytest

from pytest_dspy_ft import cli
from tests.plugin.projects import LADDER, calls, run

CONFTEST = """
import dspy, pytest
from pytest_dspy_ft import Dataset, Experiment
from tests.scripted import numbers, reply, scripted_lm

def metric(example, prediction, trace=None):
    return prediction.label == example.label

def answer(fields, request):
    number = int(fields["text"].split()[0])
    if number % 5 == 0:
        return "[[ ## label ## "  # cut off
    if number % 5 == 1:
        return '{"label": "odd"}'
    return reply(label="even" if number % 2 == 0 else "odd")

@pytest.fixture(scope="session")
def dspy_experiment():
    return Experiment("numbers", program=dspy.Predict("text -> label"), dataset=Dataset(dev=numbers(10)), metric=metric,
                      lm=scripted_lm(answer))
"""

GATE = """
import pytest

@pytest.mark.dspy_gate("baseline >= 95%")
def test_baseline(): ...
"""


@pytest.fixture
def unreadable(project: pytest.Pytester) -> pytest.Pytester:
    project.makeconftest(CONFTEST)
    project.makepyfile(GATE)
    return project


def edited(project: pytest.Pytester, file: str, before: str, after: str) -> None:
    path = project.path / file
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


def test_a_changed_metric_is_planned_scored_and_loaded(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    run(project, "--dspy-stage=prompt")
    before = calls(project)
    edited(project, "parity.py", "prediction.label == example.label", "prediction.label != example.label")
    plan = run(project, "--dspy-plan", "--dspy-stage=prompt")
    plan.stdout.fnmatch_lines(
        [
            "*2 to score again from stored outputs, *",
            "score baseline on dev * scored again from stored outputs: changed: parity.right_label * 0 *no LM call*",
        ]
    )
    rescored = run(project, "--dspy-rescore")
    assert rescored.ret == pytest.ExitCode.OK
    rescored.stdout.fnmatch_lines(
        [
            "*dspy rescore: parity*",
            "baseline * dev *10 *50.0% *50.0% *scored again (changed: parity.right_label)",
            "prompt_optimized * dev *10 *100.0% *0.0% *scored again (changed: parity.right_label)",
            "0 LM calls",
        ]
    )
    assert not rescored.parseoutcomes().get("passed"), "no test ran"
    again = run(project, "--dspy-plan", "--dspy-stage=prompt")
    again.stdout.fnmatch_lines(["*0 to build, 0 to measure, 4 in the store*"])
    assert calls(project) == before


def test_what_cannot_be_scored_fails_and_says_why(unreadable: pytest.Pytester) -> None:
    run(unreadable)
    edited(
        unreadable,
        "conftest.py",
        "    return prediction.label == example.label\n",
        "    return dspy.Predict('label -> fine: bool')(label=prediction.label).fine\n",
    )
    edited(
        unreadable, "conftest.py", "lm=scripted_lm(answer))", "lm=scripted_lm(answer), judge_lm=scripted_lm(answer))"
    )
    result = run(unreadable, "--dspy-rescore")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*the metric asks an LM (toy/scripted)*", "1 evaluation could not be scored*"])


def test_raw_replies_are_shown_where_an_answer_could_not_be_read(
    unreadable: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(unreadable, "--dspy-report=run.json", "--dspy-report=run.html")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*baseline UNPARSED*",
            "*the last of 2 replies: [[][[] ## label ##*",
            "*Read the raw replies: python -m pytest_dspy_ft show*",
            "(!) `baseline` on dev: the JSON fallback made 1.4 times the calls: 4 of 10 replies could not be read*",
        ]
    )
    record = json.loads((unreadable.path / "run.json").read_text())
    unparsed = next(e for e in record["experiments"][0]["results"][0]["examples"] if e["outcome"] == "unparsed")
    page = (unreadable.path / "run.html").read_text()
    assert "[[ ## label ## " in page
    assert "asked again by the JSON adapter" in page
    capsys.readouterr()
    store = unreadable.path / ".dspy_ft"
    assert cli.main(["show", str(store), "numbers", "baseline", unparsed["id"][:8]]) == 0
    shown = capsys.readouterr().out
    assert "unparsed, score 0" in shown
    assert "reply 2 of 2 · toy/scripted · ended: stop · 100 + 7 tokens · asked again by the JSON adapter" in shown
    assert shown.count("  | [[ ## label ## ") == 2
    assert "  label: " in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "numbers", "baseline", "0"], "nowhere does not exist"),
        ([".dspy_ft", "number", "baseline", "0"], "no experiment 'number' in .dspy_ft; did you mean 'numbers'?"),
        ([".dspy_ft", "numbers", "baselin", "0"], "stage 'baselin' of 'numbers' was not measured; did you mean"),
        ([".dspy_ft", "numbers", "baseline", "0", "--on=test"], "was not measured on test; it was on dev"),
        (
            [".dspy_ft", "numbers", "baseline", "zz"],
            "no example 'zz' in the evaluations of stage 'baseline' on dev",
        ),
        ([".dspy_ft", "numbers", "baseline", ""], "begins the ids of 10 examples"),
    ],
)
def test_what_is_not_there_is_said(
    unreadable: pytest.Pytester, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    run(unreadable)
    capsys.readouterr()
    os.chdir(unreadable.path)
    assert cli.main(["show", *arguments]) == cli.MISUSED
    assert said in capsys.readouterr().err
