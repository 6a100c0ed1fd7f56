"""Gates that were declared and not judged are counted, with the reason, and fail the session that requires them."""

from __future__ import annotations

import pytest

from tests.plugin.projects import LADDER, run

REQUIRE = "--dspy-require"
GATE = '@pytest.mark.dspy_gate("baseline >= 40%"'
SKIPPING = """
import pytest

@pytest.fixture(scope="session")
def dspy_experiment():
    pytest.skip("no key here")
"""

UNJUDGED = {
    "skip": (f"@pytest.mark.skip(reason='flaky')\n{GATE})\ndef test_one(): ...", "skipped: flaky"),
    "skipif": (f"@pytest.mark.skipif('True', reason='always')\n{GATE})\ndef test_one(): ...", "skipped: always"),
    "unittest_skip": (
        f"class Checks(unittest.TestCase):\n    @unittest.skip('later')\n    {GATE})\n    def test_one(self): ...",
        "skipped: later",
    ),
    "unittest_skip_class": (
        f"@unittest.skip('later')\nclass Checks(unittest.TestCase):\n    {GATE})\n    def test_one(self): ...",
        "skipped: later",
    ),
    "xfail": (
        f"@pytest.mark.xfail(reason='known')\n{GATE.replace('40', '90')})\ndef test_one(): ...",
        "xfailed: known",
    ),
    "xfail_not_run": (
        f"@pytest.mark.xfail(run=False, reason='hangs')\n{GATE})\ndef test_one(): ...",
        "xfailed: *hangs",
    ),
    "out_of_reach": (
        '@pytest.mark.dspy_gate("finetuned >= 40%")\ndef test_one(): ...',
        "skipped: stage 'finetuned' needs --dspy-stage=finetune",
    ),
    "stage_out_of_reach": (
        f'@pytest.mark.dspy_stage("finetuned")\n{GATE})\ndef test_one(): ...',
        "skipped: stage 'finetuned' needs --dspy-stage=finetune",
    ),
    "other_lm": (f'{GATE}, lm="openai/*")\ndef test_one(): ...', "lm='openai/[*]' does not match toy/parity"),
    "fixture_skips": (
        f"@pytest.fixture\ndef service():\n    pytest.skip('offline')\n\n{GATE})\ndef test_one(service): ...",
        "skipped: offline",
    ),
    "importorskip_in_a_fixture": (
        "@pytest.fixture\ndef needed():\n    pytest.importorskip('no_such_package')\n\n"
        f"{GATE})\ndef test_one(needed): ...",
        "skipped: could not import 'no_such_package'*",
    ),
    "added_before_a_skip": (
        f"@pytest.fixture\ndef strict(request):\n    request.applymarker({GATE[1:]}))\n    pytest.skip('offline')\n\n"
        "def test_one(strict): ...",
        "skipped: offline",
    ),
}


def project_with(project: pytest.Pytester, module: str) -> None:
    project.makepyfile(test_it=f"import unittest, pytest\n\n{module}\n")


@pytest.mark.parametrize("reason", UNJUDGED)
def test_an_unjudged_gate_fails_the_session_that_requires_it(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a note is cut to the terminal's width
    module, why = UNJUDGED[reason]
    project_with(project, module)
    counted = run(project)
    assert counted.ret == pytest.ExitCode.OK
    counted.stdout.fnmatch_lines(["dspy: 1 gate declared, 0 judged", f"  1 not judged, {why} (test_it.py::*test_one)"])
    required = run(project, REQUIRE)
    assert required.ret == pytest.ExitCode.TESTS_FAILED
    expression = "*" if "reach" in reason or reason == "xfail" else "`baseline >= 40%` on dev"
    required.stdout.fnmatch_lines(
        [
            "dspy: 1 gate declared, 0 judged; all are required (--dspy-require)",
            f"NOT JUDGED test_it.py::*test_one: {expression}: {why}",
        ]
    )


def test_the_ini_file_requires_gates(project: pytest.Pytester) -> None:
    project_with(project, f"@pytest.mark.skip(reason='flaky')\n{GATE})\ndef test_one(): ...\n\ndef test_other(): ...")
    project.makeini("[pytest]\ndspy_require = gates\n")
    assert run(project).ret == pytest.ExitCode.TESTS_FAILED
    assert run(project, "-o", "dspy_require=").ret == pytest.ExitCode.OK
    project.makeini("[pytest]\ndspy_require = gate\n")
    wrong = run(project)
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR
    wrong.stderr.fnmatch_lines(["ERROR: *dspy_require = gate*gates*"])


def test_a_session_that_judged_all_passes(project: pytest.Pytester) -> None:
    project_with(project, f"{GATE})\n{GATE.replace('40', '45')})\ndef test_one(): ...\n\ndef test_other(): ...")
    result = run(project, REQUIRE)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["dspy: 2 gates declared, 2 judged"])
    assert "NOT JUDGED" not in result.stdout.str()


def test_a_gate_that_fails_or_is_undecided_was_judged(project: pytest.Pytester) -> None:
    warns = GATE.replace("40", "50") + ", confidence=0.9, undecided='pass')"
    project_with(project, f"{GATE.replace('40', '90')})\ndef test_one(): ...\n\n{warns}\ndef test_two(): ...")
    result = run(project, REQUIRE)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["dspy: 2 gates declared, 2 judged"])


def test_gates_that_stand_behind_a_failure(project: pytest.Pytester) -> None:
    project.makeconftest(SKIPPING.replace("pytest.skip", "raise RuntimeError"))
    project_with(project, f"{GATE})\ndef test_one(): ...")
    result = run(project, REQUIRE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["NOT JUDGED test_it.py::test_one: `baseline >= 40%` on dev: its set-up failed"])


def test_an_experiment_that_skips_leaves_its_gates_unjudged(project: pytest.Pytester) -> None:
    project.makeconftest(SKIPPING)
    project_with(project, f"{GATE})\ndef test_one(): ...")
    assert run(project).ret == pytest.ExitCode.OK
    result = run(project, REQUIRE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["NOT JUDGED test_it.py::test_one: `baseline >= 40%` on dev: skipped: no key here"])


def test_a_session_that_stops_early_names_what_it_left(project: pytest.Pytester) -> None:
    project_with(project, f"def test_stops():\n    assert False\n\n{GATE})\ndef test_one(): ...")
    stopped = run(project, "-x", REQUIRE)
    assert stopped.ret == pytest.ExitCode.TESTS_FAILED
    stopped.stdout.fnmatch_lines(["NOT JUDGED test_it.py::test_one: *: its test was not run"])
    project_with(project, f"def test_ends():\n    pytest.exit('enough', returncode=0)\n\n{GATE})\ndef test_one(): ...")
    assert run(project).ret == pytest.ExitCode.OK
    assert run(project, REQUIRE).ret == pytest.ExitCode.TESTS_FAILED


def test_a_plan_judges_nothing_and_says_so(project: pytest.Pytester) -> None:
    project_with(project, f"{GATE})\ndef test_one(): ...")
    plan = run(project, "--dspy-plan")
    assert plan.ret == pytest.ExitCode.OK
    plan.stdout.fnmatch_lines(["dspy: 1 gate declared, 0 judged (--dspy-plan runs no test)"])
    assert run(project, "--dspy-plan", REQUIRE).ret == pytest.ExitCode.TESTS_FAILED


def test_what_was_not_chosen_is_not_declared(project: pytest.Pytester) -> None:
    project_with(project, f"{GATE})\ndef test_one(): ...\n\n@pytest.mark.skip\n{GATE})\ndef test_two(): ...")
    for chosen in (["-k", "one"], ["test_it.py::test_one"], ["--deselect", "test_it.py::test_two"]):
        result = run(project, REQUIRE, *chosen)
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines(["dspy: 1 gate declared, 1 judged"])
    listed = run(project, REQUIRE, "--collect-only")
    assert listed.ret == pytest.ExitCode.OK
    assert " declared, " not in listed.stdout.str()


def test_a_gate_for_another_parameter_s_lm_is_judged_there(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pytest
        from parity import ParityEngine, dspy, make_experiment

        @pytest.fixture(scope="session", params=["toy/a", "other/b"])
        def dspy_experiment(request):
            lm = dspy.LM(request.param, engine=ParityEngine(), cache=False)
            return make_experiment(request.param.replace("/", "-"), lm=lm)
        """
    )
    gates = f"{GATE}, lm='toy/*')\n{GATE}, lm='other/*')\n"
    project_with(project, f"{gates}def test_one(): ...")
    result = run(project, REQUIRE)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["dspy: 2 gates declared, 2 judged"])
    project_with(project, f"{gates}{GATE}, lm='toi/*')\ndef test_one(): ...")
    misspelt = run(project, REQUIRE)
    assert misspelt.ret == pytest.ExitCode.TESTS_FAILED
    misspelt.stdout.fnmatch_lines(["NOT JUDGED *: lm='toi/[*]' does not match toy/a"])


def test_a_session_without_gates_says_nothing(project: pytest.Pytester) -> None:
    project_with(project, "def test_one(dspy_evaluate):\n    assert dspy_evaluate('baseline').score == 0.5")
    result = run(project, REQUIRE)
    assert result.ret == pytest.ExitCode.OK
    assert " declared, " not in result.stdout.str()


def test_without_a_terminal_the_session_fails_all_the_same(project: pytest.Pytester) -> None:
    project_with(project, UNJUDGED["skip"][0])
    assert run(project, "-p", "no:terminal", REQUIRE).ret == pytest.ExitCode.TESTS_FAILED
    assert run(project, "-p", "no:terminal").ret == pytest.ExitCode.OK


def test_a_test_that_is_run_again_counts_once(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pytest
        from parity import make_experiment

        @pytest.fixture(scope="session")
        def dspy_experiment():
            return make_experiment()

        def pytest_runtest_protocol(item, nextitem):
            from _pytest.runner import runtestprotocol
            for _ in range(2):
                item._initrequest()
                runtestprotocol(item, nextitem=nextitem)
            return True
        """
    )
    skips_again = (
        "ran = []\n\n@pytest.fixture\ndef once():\n    if ran:\n        pytest.skip('ran')\n    ran.append(1)\n\n"
    )
    project_with(project, f"{skips_again}{GATE})\ndef test_one(once): ...\n\n{GATE})\ndef test_two(): ...")
    result = run(project, REQUIRE)
    result.stdout.fnmatch_lines(["dspy: 2 gates declared, 1 judged*", "NOT JUDGED *test_one: *: skipped: ran"])


def test_under_xdist(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    project.makepyfile(test_it=LADDER)
    result = run(project, "-n2", REQUIRE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "dspy: 5 gates declared, 1 judged; all are required (--dspy-require)",
            "NOT JUDGED test_it.py::test_finetuned: `bootstrap_rate(finetuned) >= 90%` on dev: skipped: *",
        ]
    )
    assert run(project, "-n1", REQUIRE, "--dspy-stage=finetune").ret == pytest.ExitCode.OK


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_crashed_worker_s_gates_are_named(project: pytest.Pytester, restarts: int) -> None:
    pytest.importorskip("xdist")
    project.makepyfile(
        test_it=f"import os, pytest\n\n{GATE})\ndef test_one(): ...\n\n"
        f"{GATE})\ndef test_crash():\n    os._exit(3)\n\n{GATE})\ndef test_three(): ...\n"
    )
    result = run(project, "-n1", f"--max-worker-restart={restarts}", REQUIRE)
    assert result.ret != 0
    result.stdout.fnmatch_lines(
        [f"dspy: 3 gates declared, {1 + restarts} judged*", "NOT JUDGED *test_crash: *: its worker crashed"]
    )
    if not restarts:
        result.stdout.fnmatch_lines(["NOT JUDGED *test_three: *: its test was not run"])
