"""Gates fail in their own tests, stages are built once, and what is out of reach is skipped with the way to run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.plugin.projects import LADDER, calls, run, table


def test_baseline_alone_by_default(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    result = run(project, "-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "*dspy: parity*",
            "lm toy/parity*train 80 / dev 10 / test 10*1 built*10 LM calls*",
            "baseline*dev*50.0%*",
            "finetuned*skipped: needs --dspy-stage=finetune",
            "baseline >= 40%*dev*50.0%*PASS",
            "SKIPPED*test_baseline_alone_by_default.py:*: stage 'finetuned' needs --dspy-stage=finetune",
        ]
    )
    assert len(calls(project)) == 10


def test_the_whole_ladder(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    result = run(project, "--dspy-stage=finetune")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "baseline*dev*50.0%*",
            "prompt_optimized*dev*100.0%*+50.0*",
            "finetuned*test*100.0%*",
            "*80 of 80 traces kept (100%)*",
            "finetuned >= prompt_optimized*test*PASS",
        ]
    )


def test_second_run_loads_everything_and_says_the_same(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    first = run(project, "--dspy-stage=finetune")
    before = calls(project)
    second = run(project, "--dspy-stage=finetune")
    second.assert_outcomes(passed=4)
    # The handed-out program of the last test is called anew: it is the user's call, not a measurement.
    assert len(calls(project)) - len(before) == 1
    assert table(first) == table(second)
    second.stdout.fnmatch_lines(["lm toy/parity*0 built, 3 loaded*"])
    assert len((project.path / "jobs.log").read_text().splitlines()) == 1


def test_a_failing_gate_fails_its_own_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.dspy_gate("baseline >= 90%")
        def test_too_much(): ...

        def test_other(): ...
        """
    )
    result = run(project, "--junitxml=junit.xml")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "Gate `baseline >= 90%` failed (on dev, n = 10): observed 50.0%*",
            "*baseline 50.0% (5 of 10 right)*",
            "*FAIL*",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    junit = (project.path / "junit.xml").read_text()
    assert 'failures="1"' in junit
    assert "baseline &gt;= 90% on dev: 50.0% FAIL" in junit
    again = run(project, "--lf")
    again.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_unparsed_and_errors_stay_in_the_denominator(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import dspy, pytest
        from parity import examples, make_experiment, toy_lm
        from pytest_dspy_ft import Dataset

        @pytest.fixture(scope="session")
        def dspy_experiment():
            odd = [dspy.Example(text=t, label="odd").with_inputs("text") for t in ("unreadable", "raise")]
            dataset = Dataset(train=examples(range(20)), dev=examples(range(101, 109)) + odd)
            return make_experiment(dataset=dataset, lm=toy_lm(num_retries=0))
        """
    )
    project.makepyfile(
        """
        def test_counts(dspy_evaluate):
            result = dspy_evaluate("baseline")
            assert (result.n, result.unparsed, result.errors) == (10, 1, 1)
            assert result.score == 0.4
            failed = [e for e in result.examples if e.outcome == "error"]
            assert "the engine is down" in failed[0].error
        """
    )
    result = run(project)
    result.assert_outcomes(passed=1)


def test_gates_for_other_lms_are_skipped(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.dspy_gate("baseline >= 65%", lm="openai/*")
        def test_hosted(): ...

        @pytest.mark.dspy_gate("baseline >= 65%", lm="openai/*")
        @pytest.mark.dspy_gate("baseline >= 40%", lm="toy/*")
        def test_both(): ...
        """
    )
    result = run(project, "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*its gates hold for openai/*; this session runs toy/parity"])


def test_two_folders_two_experiments(project: pytest.Pytester) -> None:
    for name in ("one", "two"):
        folder = project.mkpydir(name)
        (folder / "conftest.py").write_text(
            "import pytest\nfrom parity import examples, make_experiment\nfrom pytest_dspy_ft import Dataset\n\n"
            "@pytest.fixture(scope='session')\ndef dspy_experiment():\n"
            "    dataset = Dataset.from_examples(examples(range(50)), split=(0.5, 0.5, 0))\n"
            f"    return make_experiment({name!r}, dataset=dataset)\n"
        )
        (folder / f"test_{name}.py").write_text(
            "def test_name(dspy_evaluate, dspy_baseline):\n"
            f"    assert dspy_evaluate('baseline').experiment == {name!r}\n"
        )
    result = run(project)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*dspy: one*", "*dspy: two*"])


def test_parametrized_experiment_multiplies_gates(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pytest
        from parity import make_experiment

        @pytest.fixture(scope="session", params=["small", "large"])
        def dspy_experiment(request):
            return make_experiment(request.param)
        """
    )
    project.makepyfile(
        """
        import pytest

        @pytest.mark.dspy_gate("baseline >= 40%")
        class TestAll:
            def test_one(self): ...
        """
    )
    result = run(project, "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_one[[]small[]]*", "*test_one[[]large[]]*"])


def test_no_program_is_shared_between_tests(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_spoil(dspy_prompt_optimized):
            dspy_prompt_optimized.demos = []

        def test_unspoiled(dspy_prompt_optimized, dspy_evaluate):
            assert len(dspy_prompt_optimized.demos) == 3
            assert dspy_evaluate("prompt_optimized").score == 1.0
        """
    )
    run(project, "--dspy-stage=prompt").assert_outcomes(passed=2)


def test_a_failed_stage_is_in_the_table_and_fails_what_needs_it(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITY_TRAINING", "fails")
    project.makepyfile(LADDER)
    result = run(project, "--dspy-stage=finetune")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*stage 'finetuned': training failed: *out of luck*", "finetuned*failed: see test_*::test_finetuned"]
    )
    assert len((project.path / "jobs.log").read_text().splitlines()) == 1, (
        "a failed stage is not tried again in the same session"
    )


def test_changed_example_rebuilds_only_what_depends_on_it(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    run(project, "--dspy-stage=finetune").assert_outcomes(passed=4)
    conftest = (project.path / "conftest.py").read_text()
    splits = "train=examples(range(70)), dev=examples(range(80, 90)), test=examples(range(90, 100))"
    (project.path / "conftest.py").write_text(
        conftest.replace("make_experiment()", f"make_experiment(dataset=Dataset({splits}))").replace(
            "import make_experiment", "import examples, make_experiment\nfrom pytest_dspy_ft import Dataset"
        )
    )
    result = run(project, "--dspy-stage=finetune")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["lm toy/parity*2 built, 1 loaded*"])


def test_frozen_judges_from_the_store_alone(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER.replace("def test_program", "def not_a_test"))
    missing = run(project, "--dspy-stage=finetune", "--dspy-frozen")
    missing.assert_outcomes(failed=3)
    missing.stdout.fnmatch_lines(
        ["*stage 'baseline' of experiment 'parity' is not in the store*run once without --dspy-frozen*"]
    )
    assert calls(project) == []
    run(project, "--dspy-stage=finetune").assert_outcomes(passed=3)
    made = calls(project)
    run(project, "--dspy-stage=finetune", "--dspy-frozen").assert_outcomes(passed=3)
    assert calls(project) == made


def test_rebuild_builds_the_stage_and_its_dependents_anew(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    run(project, "--dspy-stage=finetune").assert_outcomes(passed=4)
    result = run(project, "--dspy-stage=finetune", "--dspy-rebuild=prompt_optimized")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["lm toy/parity*2 built, 1 loaded*"])
    assert len((project.path / "jobs.log").read_text().splitlines()) == 2


def test_limit(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_sizes(dspy_trainset, dspy_devset, dspy_testset, dspy_evaluate):
            assert [len(s) for s in (dspy_trainset, dspy_devset, dspy_testset)] == [6, 6, 6]
            assert dspy_evaluate("baseline").n == 6
        """
    )
    result = run(project, "--dspy-limit=6")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*limit 6*"])


def test_a_program_of_ones_own_is_measured(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import dspy
        from parity import Labels

        def test_own(dspy_evaluate):
            own = dspy.Predict(Labels)
            own.demos = [dspy.Example(text="2", label="even")]
            assert dspy_evaluate(own, on="test").score == 1.0
            assert own.lm is None
        """
    )
    run(project).assert_outcomes(passed=1)


def test_the_stored_evaluation_holds_every_example(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    run(project).assert_outcomes(passed=1, skipped=3)
    files = list((project.path / ".dspy_ft" / "evaluations").rglob("*.json"))
    assert len(files) == 1
    content = json.loads(files[0].read_text())["result"]
    assert len(content["examples"]) == 10
    assert content["examples"][0]["prediction"] == {"label": "odd"}
    assert (project.path / ".dspy_ft" / ".gitignore").read_text().endswith("*\n")
    assert not list(Path(project.path / ".dspy_ft").rglob("*.pkl"))


def test_repeats(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pytest
        from parity import make_experiment, toy_lm

        @pytest.fixture(scope="session")
        def dspy_experiment():
            return make_experiment(lm=toy_lm(temperature=0.8))
        """
    )
    project.makeini("[pytest]\ndspy_repeats = 2\n")
    project.makepyfile('import pytest\n\n@pytest.mark.dspy_gate("baseline >= 50%")\ndef test_it(): ...\n')
    result = run(project, "--dspy-repeats=3")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*3 repeats*30 LM calls*", "baseline*dev*50.0%*"])
    assert len(calls(project)) == 30
    run(project, "--dspy-frozen", "--dspy-repeats=3").assert_outcomes(passed=1)
    run(project, "--dspy-frozen").assert_outcomes(failed=1)
