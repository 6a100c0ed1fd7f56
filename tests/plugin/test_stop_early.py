"""``--dspy-stop-early``: evaluations end when their verdicts are decided, and nothing that was paid for is lost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pytest_dspy_ft.records.baseline import baseline_of
from pytest_dspy_ft.records.run_file import read_record
from tests.plugin.projects import COMPARE, SAVE, calls, run

CURTAIL, SEQUENTIAL = "--dspy-stop-early=curtail", "--dspy-stop-early=sequential"
PROMPT = "--dspy-stage=prompt"
THREADS = "--dspy-num-threads=5"
EARLY = re.compile(r"\d of 100(?! right)")

CONFTEST = """
import pytest
from parity import Dataset, examples, make_experiment

@pytest.fixture(scope="session")
def dspy_experiment():
    return make_experiment(dataset=Dataset(train=examples(range(20)), dev=examples(range(20, 120))))
"""
FAILS = """
import pytest

@pytest.mark.dspy_gate("baseline >= 80%")
def test_threshold(): ...
"""
RELATION = """
import pytest

@pytest.mark.dspy_gate("baseline >= 40%", confidence=0.95)
def test_baseline(): ...

@pytest.mark.dspy_gate("prompt_optimized >= baseline + 10%", confidence=0.95)
def test_relation(): ...
"""


@pytest.fixture
def half_right(project: pytest.Pytester) -> pytest.Pytester:
    """A project whose baseline has every second of 100 examples right, and whose prompted stage all."""
    project.makeconftest(CONFTEST)
    project.makepyfile(test_it=FAILS)
    return project


def verdict(project: pytest.Pytester, *arguments: str) -> str:
    result = run(project, *arguments)
    return "\n".join(result.stdout.lines)


def test_what_is_left_is_paid_only_when_somebody_needs_it(half_right: pytest.Pytester) -> None:
    said = verdict(half_right, CURTAIL, THREADS)
    assert "Gate `baseline >= 80%` failed (on dev, n = 45 of 100): observed 48.9%" in said
    assert "decided after 45 of 100 examples (curtail)" in said
    assert "whatever the other 55 score, the margin over all 100 is at most -3.0 pts" in said
    assert re.search(r"baseline +dev +45 of 100 +48\.9%", said)
    assert "ended after 45 of 100 examples" in said
    assert len(calls(half_right)) == 45
    again = verdict(half_right, CURTAIL, THREADS)
    assert "45 of 100" in again
    assert " 0 LM calls" in again
    assert len(calls(half_right)) == 45, "it ends where it ended, and calls nothing"
    whole = verdict(half_right)
    assert "(on dev, n = 100): observed 50.0%" in whole
    assert not EARLY.search(whole)
    assert len(set(calls(half_right))) == len(calls(half_right)) == 100
    assert not EARLY.search(verdict(half_right, CURTAIL)), "what is whole is judged whole"


def test_another_gate_goes_on_from_there(half_right: pytest.Pytester) -> None:
    run(half_right, CURTAIL, THREADS)
    half_right.makepyfile(test_it=FAILS.replace("80%", "60%"))
    assert "n = 85 of 100" in verdict(half_right, CURTAIL, THREADS)
    assert len(set(calls(half_right))) == len(calls(half_right)) == 85


def test_a_test_that_asks_for_the_evaluation_gets_all_of_it(half_right: pytest.Pytester) -> None:
    half_right.makepyfile(
        test_it=f"{FAILS}\ndef test_all(dspy_evaluate):\n    assert dspy_evaluate('baseline').n == 100"
    )
    said = verdict(half_right, CURTAIL)
    assert "decided after 48 of 100" in said
    assert re.search(r"baseline +dev +50\.0%", said), "the table shows the whole"
    assert len(set(calls(half_right))) == len(calls(half_right)) == 100


def test_a_gate_that_a_test_adds_by_itself_is_judged_on_the_whole(half_right: pytest.Pytester) -> None:
    half_right.makepyfile(
        test_it=f"""
{FAILS}
def test_late(request, dspy_experiment):
    request.applymarker(pytest.mark.dspy_gate("baseline >= 50%"))
"""
    )
    result = run(half_right, CURTAIL)
    result.assert_outcomes(passed=1, failed=1)
    assert len(set(calls(half_right))) == len(calls(half_right)) == 100


def test_looks_decide_a_relation_by_adjusted_intervals_only(half_right: pytest.Pytester) -> None:
    half_right.makepyfile(test_it=RELATION)
    result = run(
        half_right, SEQUENTIAL, PROMPT, THREADS, "--dspy-report=run.json", "--dspy-report=r.md", "--dspy-report=r.html"
    )
    result.assert_outcomes(passed=1, failed=1)
    said = "\n".join(result.stdout.lines)
    assert re.search(r"baseline +dev +100 +50\.0%", said), "no look could know what the stage above comes to"
    assert re.search(r"prompt_optimized +dev +40 of 100 +100\.0%", said)
    assert len(calls(half_right)) == 140
    undecided, passed = read_record(half_right.path / "run.json").experiments[0].verdicts
    assert (undecided.verdict, passed.verdict) == ("UNDECIDED", "PASS")
    assert "95% interval of the margin at look 10 of 10: " in undecided.message
    assert "interval of the margin at look 4 of 10 (O'Brien-Fleming)" in passed.message
    assert "95% interval" not in passed.message
    assert passed.stopped == "decided after 40 of 100 examples (sequential)"
    content = json.loads((half_right.path / "run.json").read_text())
    [planned] = [r["planned"] for r in content["experiments"][0]["results"] if r["stage"] == "prompt_optimized"]
    assert planned == 100
    assert "dev, 40 of 100 examples" in (half_right.path / "r.md").read_text()
    assert '<td class="n">40 of 100</td>' in (half_right.path / "r.html").read_text()
    saved = baseline_of(read_record(half_right.path / "run.json"))
    assert [e.stage for e in saved.experiments[0].evaluations] == ["baseline"], "a part is compared with nothing"
    run(half_right, PROMPT)
    assert len(calls(half_right)) == 200
    whole = run(half_right, SEQUENTIAL, PROMPT, THREADS, "--dspy-report=again.json")
    whole.assert_outcomes(passed=1, failed=1)
    again = read_record(half_right.path / "again.json").experiments[0].verdicts
    assert [(v.interval, v.level, v.stopped) for v in again] == [
        (v.interval, v.level, v.stopped) for v in (undecided, passed)
    ], "the same looks decide, whoever measured the rest"


def test_gates_corrected_for_their_number_stop_at_the_strictest(half_right: pytest.Pytester) -> None:
    half_right.makepyfile(test_it=RELATION)
    half_right.makeini("[pytest]\ndspy_correction = holm\ndspy_stop_early = sequential\n")
    result = run(half_right, PROMPT, THREADS, "--dspy-report=run.json")
    result.assert_outcomes(passed=1, failed=1)
    passed = read_record(half_right.path / "run.json").experiments[0].verdicts[1]
    assert (passed.tried, passed.verdict) == (2, "PASS")
    assert passed.confidence == pytest.approx(0.975)
    assert "error 0.05 / 2" in passed.message


def test_workers_end_at_the_same_example_and_share_what_was_paid(half_right: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    half_right.makepyfile(test_it=FAILS, test_other=FAILS.replace("80%", "75%"))
    result = run(half_right, CURTAIL, THREADS, "-n2")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*decided after 55 of 100 examples (curtail)*", "baseline*dev*55 of 100*49.1%*"])
    assert len({line.split()[2] for line in calls(half_right)}) == len(calls(half_right)) == 55


def test_such_a_session_saves_no_baseline(half_right: pytest.Pytester) -> None:
    half_right.makepyfile(test_it=FAILS.replace("80%", "40%"))
    result = run(half_right, CURTAIL, SAVE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(
        [
            "dspy: this session will not be saved as a baseline: --dspy-stop-early=curtail may end evaluations*",
            "baseline NOT saved*--dspy-stop-early=curtail may end evaluations before all examples are measured*",
        ]
    )
    assert not (half_right.path / "baseline.json").exists()


def test_what_is_compared_is_measured_whole(half_right: pytest.Pytester) -> None:
    assert "baseline saved" in verdict(half_right, SAVE, "-p", "no:randomly")
    said = verdict(half_right, CURTAIL, COMPARE, "--dspy-store=elsewhere")
    assert "dspy: nothing ends early: --dspy-compare needs every example" in said
    assert not EARLY.search(said)
    assert len(calls(half_right)) == 200


def test_the_plan_says_when_an_evaluation_would_end(half_right: pytest.Pytester) -> None:
    half_right.makepyfile(test_it=RELATION)
    said = verdict(half_right, PROMPT, SEQUENTIAL, "--dspy-plan")
    assert "it may end early, if what its gates compare it with is measured before it" in said
    assert "<=100" in said
    half_right.makepyfile(test_it=FAILS)
    assert "it may end after 25 of 100 examples, or after all" in verdict(half_right, CURTAIL, "--dspy-plan")
    run(half_right)
    half_right.makeconftest(CONFTEST.replace("examples(range(20)),", "examples(range(19)),"))
    asked = (CURTAIL, "--dspy-plan", "--dspy-rebuild=baseline")
    assert "its last evaluation would have ended after 45 of 100 examples" in verdict(half_right, *asked)
    assert "it may end" not in verdict(half_right, "--dspy-plan", "--dspy-rebuild=baseline")


def test_a_rule_that_there_is_not_is_a_usage_error(half_right: pytest.Pytester) -> None:
    half_right.makeini("[pytest]\ndspy_stop_early = soon\n")
    result = run(half_right)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*dspy_stop_early = soon: choices are curtail, sequential*"])
    assert not Path(".dspy_ft").exists()


def test_workers_judge_relations_by_the_same_looks(half_right: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    half_right.makepyfile(test_it=RELATION, test_other=RELATION.replace("+ 10%", "+ 20%"))
    result = run(half_right, SEQUENTIAL, PROMPT, THREADS, "-n2", "--dspy-report=run.json")
    result.assert_outcomes(passed=2, failed=2)
    verdicts = read_record(half_right.path / "run.json").experiments[0].verdicts
    found = {(v.expression, v.verdict, v.stopped) for v in verdicts}
    assert found == {
        ("baseline >= 40%", "UNDECIDED", ""),
        ("prompt_optimized >= baseline + 10%", "PASS", "decided after 40 of 100 examples (sequential)"),
        ("prompt_optimized >= baseline + 20%", "PASS", "decided after 50 of 100 examples (sequential)"),
    }
    assert len(calls(half_right)) == 150, "all of the baseline, and what the later look takes"
