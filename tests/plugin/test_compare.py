"""``--dspy-compare``: what got worse fails in an item of its own, which stands, runs and is chosen like any test."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from tests.plugin.projects import COMPARE, DEV, FILE, FULL, GATES, ITEM, SAVE, calls, run, wrong


@pytest.mark.parametrize("how", [(), ("-n2",), ("-p", "no:xdist"), ("-p", "xdist")], ids=["plain", "n2", "no", "p"])
def test_the_same_results_pass(saved: pytest.Pytester, how: tuple[str, ...]) -> None:
    if how != ("-p", "no:xdist"):
        pytest.importorskip("xdist")
    before = calls(saved)
    result = run(saved, FULL, COMPARE, "-v", *how)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            f"*{ITEM} PASSED*",
            f"compared with {FILE} (saved *): 3 no loss seen (80.0 points or more would have been), 1 *",
            "baseline*50.0%*50.0%*no loss could have been seen in 10 examples",
            "finetuned*test*100.0%*100.0%*no loss seen (80.0 points or more would have been)",
            "not measured anew, as their LMs answer on this machine: baseline on dev, *",
            "4 comparisons in this session, corrected for that by Holm's method*",
        ]
    )
    assert calls(saved) == before


ANY_GATES = (
    GATES.replace('"baseline >= 40%', '"tokens(baseline) <= 9999')
    .replace('"prompt_optimized >= 90%', '"tokens(prompt_optimized) <= 9999')
    .replace("+ 30%", "- 99%")
)
"""The gates of the ladder, asking for little that wrong answers could miss."""


@pytest.mark.parametrize("how", [(), ("-n2",)], ids=["plain", "n2"])
def test_what_got_worse_fails_in_an_item_of_its_own(
    saved: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...]
) -> None:
    if how:
        pytest.importorskip("xdist")
    saved.makepyfile(test_it=ANY_GATES)
    store = wrong(monkeypatch, DEV)
    result = run(saved, FULL, COMPARE, store, "--junitxml=junit.xml", "-v", *how)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            f"*{ITEM} FAILED*",
            "*compared with baseline.json (saved *): 1 REGRESSED, 2 no loss seen *",
            "  prompt_optimized on dev: 100.0% then, 0.0% now, of 10 examples (-100.0 pts, 95% interval *); "
            "0 fixed, 10 broke",
            "  broke *: text='8?'",
            "    expected label=*",
            "    now label='neither'",
            "  and 5 more broke",
            "prompt_optimized*dev*10*100.0%*0.0%*-100.0*0*10*REGRESSED",
            "prompt_optimized*test*10*100.0%*100.0%*+0.0*0*0*no loss seen*",
        ]
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    cases = ElementTree.parse(saved.path / "junit.xml").getroot().iter("testcase")
    failed = [c.get("name") for c in cases if c.find("failure") is not None]
    assert failed == ["dspy_compare[parity]"]
    again = run(saved, FULL, COMPARE, store, "--lf", *how)
    again.assert_outcomes(failed=1)
    monkeypatch.delenv("PARITY_WRONG")
    run(saved, FULL, COMPARE, "--lf", *how).assert_outcomes(passed=1)


def test_lf_finds_the_comparison_beside_a_failed_test_of_another_file(
    saved: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved.makepyfile(test_a="def test_fails():\n    assert False\n", test_z="def test_fails():\n    assert False\n")
    store = wrong(monkeypatch, DEV)
    run(saved, "-k", "compare or fails", FULL, COMPARE, store).assert_outcomes(failed=3)
    run(saved, "--lf", FULL, COMPARE, store).assert_outcomes(failed=3)


def test_the_earlier_prediction_is_shown_where_the_store_has_it(
    saved: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITY_WRONG", DEV)
    conftest = saved.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("make_experiment()", "make_experiment(seed=1)"))
    result = run(saved, FULL, COMPARE)
    result.stdout.fnmatch_lines(["    then label='*'", "    now label='neither'", "  the seed was 0, now it is 1"])


def test_a_stage_out_of_reach_is_no_regression(saved: pytest.Pytester) -> None:
    result = run(saved, COMPARE, "-v")
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(
        [
            f"{ITEM} PASSED*",
            f"compared with {FILE} (saved *): 1 no loss seen (50.0 points or more would have been), 3 absent",
            "finetuned on test: absent: needs --dspy-stage=finetune",
        ]
    )


def test_a_failed_stage_is_no_regression_of_its_own(saved: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_TRAINING", "fails")
    result = run(saved, FULL, COMPARE, "--dspy-store=other", "-v")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines([f"{ITEM} PASSED*", "finetuned on test: absent: failed: *out of luck*"])


def test_beside_other_tests_the_comparison_measures_nothing_itself(saved: pytest.Pytester) -> None:
    before = len(calls(saved))
    arguments = ("--dspy-store=other", FULL, COMPARE, "-k", "test_baseline or compare", "-v")
    result = run(saved, *arguments)
    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines(["prompt_optimized on dev: absent: not measured in this session"])
    assert len(calls(saved)) - before == 10, "what the gate asked for, and no more"
    assert len((saved.path / "jobs.log").read_text().splitlines()) == 1


@pytest.mark.parametrize("how", [(), ("-n2",)], ids=["plain", "n2"])
@pytest.mark.parametrize("selection", [("-k", "compare"), ("test_it.py::dspy_compare[parity]",)], ids=["k", "id"])
def test_chosen_alone_it_measures_what_the_file_holds_within_reach(
    saved: pytest.Pytester, selection: tuple[str, ...], how: tuple[str, ...]
) -> None:
    if how:
        pytest.importorskip("xdist")
    before = len(calls(saved))
    result = run(saved, COMPARE, "--dspy-store=other", "--dspy-stage=prompt", *selection, *how)
    assert result.parseoutcomes()["passed"] == 1
    result.stdout.fnmatch_lines(
        [
            "*: 2 no loss seen (70.0 points or more would have been), 1 too small*",
            "*, 1 absent",
            "finetuned on test: absent: needs --dspy-stage=finetune",
        ]
    )
    assert len(calls(saved)) - before == 30
    assert len((saved.path / "jobs.log").read_text().splitlines()) == 1


def test_collect_only_lists_the_comparison(saved: pytest.Pytester) -> None:
    result = run(saved, COMPARE, "--collect-only", "-q")
    result.stdout.fnmatch_lines([ITEM, "4 tests collected*"])


def test_marks_of_the_module_are_not_about_the_comparison(saved: pytest.Pytester) -> None:
    saved.makepyfile(test_it=f'{GATES}\npytestmark = pytest.mark.skip("not today")\n')
    result = run(saved, COMPARE, "-rs")
    result.assert_outcomes(skipped=4)
    result.stdout.fnmatch_lines(["SKIPPED*nothing of experiment 'parity' was measured in this session"])


def test_parametrized_experiments_each_have_their_comparison(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pytest
        from parity import make_experiment

        @pytest.fixture(params=["small", "large"])
        def dspy_experiment(request):
            return make_experiment(request.param)
        """
    )
    project.makepyfile(
        test_it="""
        import pytest

        class TestAll:
            @pytest.mark.parametrize("number", [1, 2])
            @pytest.mark.dspy_gate("baseline >= 40%")
            def test_one(self, number): ...
        """
    )
    run(project, SAVE).assert_outcomes(passed=4)
    for how in ((), ("-p", "no:xdist")):
        result = run(project, COMPARE, "-v", *how)
        result.assert_outcomes(passed=4, skipped=2)
        for name in ("small", "large"):  # 5 right answers of 10 are too few to show a loss among two comparisons
            result.stdout.fnmatch_lines([f"test_it.py::TestAll::dspy_compare[[]{name}[]] SKIPPED*"])
        result.stdout.fnmatch_lines(["*: 1 too small for any loss to be seen"])


def test_the_comparison_runs_last_however_tests_are_ordered(saved: pytest.Pytester) -> None:
    (saved.path / "conftest.py").write_text(
        (saved.path / "conftest.py").read_text()
        + "\n\ndef pytest_collection_modifyitems(items):\n    items.reverse()\n"
    )
    result = run(saved, FULL, COMPARE, "-v")
    result.stdout.fnmatch_lines([f"{ITEM} PASSED*100%*"])
    result.stdout.fnmatch_lines(["*: 3 no loss seen *"])


def test_frozen_judges_changed_gates_without_a_call(saved: pytest.Pytester) -> None:
    before = calls(saved)
    saved.makepyfile(test_it=GATES.replace("+ 30%", "+ 60%").replace("finetuned >= prompt", "finetuned > prompt"))
    result = run(saved, FULL, COMPARE, "--dspy-frozen")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["lm toy/parity*0 built, 3 loaded * 0 LM calls*", "*: 3 no loss seen *"])
    assert calls(saved) == before
