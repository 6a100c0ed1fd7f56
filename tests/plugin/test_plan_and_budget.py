"""``--dspy-plan`` runs nothing and says what would be done; ``--dspy-max-cost`` stops in time and says so."""

from __future__ import annotations

import pytest

from tests.plugin.projects import LADDER, calls, run

PRICED = "[pytest]\ndspy_prices = toy/* = 1000 1000\n"
"""A dollar for a thousand tokens: a call of the toy engine costs one or two cents."""


def test_a_plan_runs_nothing_and_names_every_step(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    project.makeini(PRICED)
    result = run(project, "--dspy-plan", "--dspy-stage=finetune", "--dspy-report=r.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*dspy plan: parity*",
            "lm toy/parity*3 to build, 4 to measure, 0 in the store*about 120 LM calls*time not known",
            "step*because*LM calls*tokens*time*cost*estimated from",
            "build baseline*never built before*",
            "measure baseline on dev*the stage is not built yet*10 *the length of prompts and labels*",
            "build finetuned*80 *one trace for each train example*time of training not known yet",
            "measure finetuned on test*",
            "nothing was run",
        ]
    )
    assert calls(project) == []
    assert not (project.path / ".dspy_ft").exists()
    assert not (project.path / "r.json").exists()


def test_a_plan_says_which_part_of_a_key_changed_and_estimates_from_what_was_measured(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    project.makeini(PRICED)
    run(project, "--dspy-stage=finetune").assert_outcomes(passed=4)
    whole = run(project, "--dspy-plan", "--dspy-stage=finetune")
    whole.stdout.fnmatch_lines(["lm toy/parity*0 to build, 0 to measure, 7 in the store*about 0 LM calls*"])
    conftest = project.path / "conftest.py"
    conftest.write_text(
        conftest.read_text().replace(
            "return make_experiment()",
            "import dspy; from parity import right_label, Stage\n"
            "    return make_experiment(stages=[\n"
            "        Stage('prompt_optimized', dspy.LabeledFewShot(k=4)),\n"
            "        Stage('finetuned', dspy.BootstrapFinetune(metric=right_label), teacher='prompt_optimized'),\n"
            "    ])",
        )
    )
    before = len(calls(project))
    changed = run(project, "--dspy-plan", "--dspy-stage=finetune")
    changed.stdout.fnmatch_lines(
        [
            "load baseline*in the store",
            "build prompt_optimized*changed: optimizer*",
            "measure prompt_optimized on dev*10 *its last evaluation on *",
            "build finetuned*changed: teacher* 80 *what building it took before",
        ]
    )
    assert len(calls(project)) == before


def test_a_plan_asks_only_for_what_is_within_reach(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    result = run(project, "--dspy-plan", "-n", "2")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*1 to build, 1 to measure*"])
    result.stdout.no_fnmatch_line("*finetuned*")
    assert calls(project) == []


def test_a_plan_of_a_project_without_experiments(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(): ...")
    result = run(pytester, "--dspy-plan")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["no test uses an experiment: nothing to plan"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_the_session_stops_before_its_limit_and_says_so(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    project.makepyfile(LADDER)
    project.makeini(PRICED)
    conftest = project.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("make_experiment()", "make_experiment(lm=toy_lm(max_tokens=5))"))
    conftest.write_text(conftest.read_text().replace("import make_experiment", "import make_experiment, toy_lm"))
    result = run(project, "--dspy-stage=finetune", "--dspy-max-cost=0.9", *workers)
    assert result.ret == 1
    made = len(calls(project))
    assert 10 < made < 60, "some work was done, and not all of the 120 calls"
    result.stdout.fnmatch_lines(
        [
            "*dspy: parity - INCOMPLETE*",
            "INCOMPLETE: --dspy-max-cost=0.9: stopped before the next call of toy/parity*what was paid for is kept*",
        ]
    )
    # With room enough it goes on, and pays only for what is left.
    run(project, "--dspy-stage=finetune", *workers).assert_outcomes(passed=4)


def test_a_limit_must_be_an_amount(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    result = run(project, "--dspy-max-cost=lots")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--dspy-max-cost: 'lots' is not an amount of US dollars*"])
