"""Further metrics in a session: gates, table, pages, records, baselines, and what is refused at collection."""

from __future__ import annotations

import json

import pytest

from tests.plugin.projects import COMPARE, DEV, FILE, SAVE, calls, run, wrong

CONFTEST = """
import dspy, pytest
from parity import make_experiment, right_label

def kindness(example, prediction, trace=None):
    score = LENIENT if prediction.label == "odd" else 1.0
    return dspy.Prediction(score=score, feedback=f"it said <{prediction.label}>")

LENIENT = 0.25

async def exact(gold, pred, trace, pred_name, pred_trace):
    return gold.label == pred.label

@pytest.fixture(scope="session")
def dspy_experiment():
    return make_experiment(metrics={"kindness": kindness, "exact": exact})
"""

GATES = """
import pytest

@pytest.mark.dspy_gate("exact(prompt_optimized) >= exact(baseline) + 30%")
@pytest.mark.dspy_gate("kindness(prompt_optimized) >= 60%")
def test_prompt_optimized(): ...

@pytest.mark.dspy_gate("kindness(baseline) >= 60%")
def test_baseline(): ...
"""


@pytest.fixture
def scored(project: pytest.Pytester) -> pytest.Pytester:
    project.makeconftest(CONFTEST)
    project.makepyfile(test_it=GATES)
    return project


def test_a_session(scored: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    reports = [f"--dspy-report=run.{kind}" for kind in ("json", "md", "html")]
    result = run(scored, "--dspy-stage=all", *reports)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "Gate `kindness(baseline) >= 60%` failed (on dev, n = 10): observed 25.0%",
            "  baseline 50.0% (5 of 10 right), kindness 25.0%",
            "  wrong *: text=*",
            "    baseline label='odd' (score 0.25)",
            "      feedback: it said <odd>",
            "stage  *  kindness  *  exact  *  unparsed  errors*",
            "baseline  *  25.0% [[]*[]]  50.0% [[]23.7,  76.3[]] *",
            "prompt_optimized  *  62.5% [[]*[]]  100.0% [[]72.2, 100.0[]] *",
        ]
    )
    assert len(calls(scored)) == 20
    run_ = json.loads((scored.path / "run.json").read_text())
    (experiment,) = run_["experiments"]
    assert [row["metrics"]["kindness"]["score"] for row in experiment["summary"]] == [0.25, 0.625]
    assert experiment["results"][0]["examples"][0]["further"]["kindness"]["feedback"] == "it said <odd>"
    page = (scored.path / "run.html").read_text()
    assert '<th scope="col" class="n">kindness</th><th scope="col" class="n">exact</th>' in page
    assert '["kindness","0.25: it said \\u003codd\\u003e"]' in page
    assert "| kindness | exact | unparsed |" in (scored.path / "run.md").read_text()
    again = run(scored, "--dspy-stage=all")
    again.stdout.fnmatch_lines(["stage  *  kindness  *  exact  *", "baseline  *  25.0% *"])
    assert len(calls(scored)) == 20


def test_a_narrow_terminal_gives_up_their_intervals_first(
    scored: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    result = run(scored, "--dspy-stage=all")
    result.stdout.fnmatch_lines(
        [
            "stage  *  kindness * exact * unparsed  errors",
            "(no room: $/1k calls, tokens/call, intervals of further metrics*)",
        ]
    )


def test_a_baseline_keeps_and_compares_them(scored: pytest.Pytester) -> None:
    scored.makepyfile(test_it=GATES.replace('kindness(baseline) >= 60%"', 'kindness(baseline) >= 5%"'))
    run(scored, "--dspy-stage=all", SAVE).assert_outcomes(passed=2)
    assert '"kindness(baseline)": 0.25' in (scored.path / FILE).read_text()
    same = run(scored, "--dspy-stage=all", COMPARE)
    same.assert_outcomes(passed=3)
    same.stdout.fnmatch_lines(["exact(prompt_optimized) *dev *100.0% *100.0% *no loss seen*", "6 comparisons in this*"])
    scored.makeconftest(CONFTEST.replace("0.25", "0.5"))
    changed = run(scored, "--dspy-stage=all", COMPARE)
    changed.assert_outcomes(passed=3)
    changed.stdout.fnmatch_lines(["kindness(prompt_optimized) *measured with another metric"])


def test_wrong_names_are_refused_at_collection(scored: pytest.Pytester) -> None:
    scored.makepyfile(test_it='import pytest\n\n@pytest.mark.dspy_gate("exat(baseline) >= 60%")\ndef test_it(): ...\n')
    result = run(scored)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*py:3: test_it: dspy_gate: there is no function `exat`; did you mean `exact`?",
            "*functions: cost, tokens, latency, errors, unparsed, bootstrap_rate, p50, p90, p95, p99, min, max",
            "*metrics: kindness, exact",
            "*    ^",
        ]
    )
    assert calls(scored) == []


def test_a_metric_that_cannot_work_fails_each_test_after_one_call(scored: pytest.Pytester) -> None:
    scored.makeconftest(CONFTEST.replace("LENIENT = 0.25", "LENIENT = 25"))
    result = run(scored, "--dspy-stage=all")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*experiment 'parity': metric 'kindness' (kindness) cannot work: the metric returned 25.0, which is "
            "outside [[]0, 1[]]; divide by 100 (found on the first answers of 'baseline' on dev: no other call was "
            "made)",
        ]
    )
    assert len(calls(scored)) == 1


def test_a_loss_by_a_further_metric_alone_fails_the_comparison(
    scored: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored.makeconftest(CONFTEST.replace("metrics={", "metric=lambda e, p: True, metrics={"))
    scored.makepyfile(test_it=GATES.replace("+ 30%", "- 99%").replace("60%", "5%"))
    run(scored, "--dspy-stage=all", SAVE).assert_outcomes(passed=2)
    worse = run(scored, "--dspy-stage=all", COMPARE, wrong(monkeypatch, DEV))
    worse.assert_outcomes(passed=2, failed=1)
    worse.stdout.fnmatch_lines(
        [
            "*exact(prompt_optimized) on dev: 100.0% then, 0.0% now, of 10 examples*",
            "  broke *: text='8?'",
            "    now label='neither'",
            "*exact(prompt_optimized) *dev *100.0% *0.0% *REGRESSED*",
        ]
    )
