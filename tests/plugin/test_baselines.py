"""Baselines: whole sessions are saved, partial ones are not and say why; what got worse fails in an item of its own."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

import pytest_dspy_ft
from tests.conftest import PARITY, REPOSITORY
from tests.plugin.test_gates_in_tests import LADDER, calls

CONFTEST = """
import pytest
from parity import make_experiment

@pytest.fixture(scope="session")
def dspy_experiment():
    return make_experiment()
"""
GATES = LADDER.replace("def test_program", "def not_a_test")
FILE = "baseline.json"
SAVE = f"--dspy-save-baseline={FILE}"
COMPARE = f"--dspy-compare={FILE}"
FULL = "--dspy-stage=finetune"
DEV = ",".join(map(str, range(80, 90)))
ITEM = "test_it.py::dspy_compare[[]parity[]]"


# Sessions in this process forget what they load: what two of them share has to be loaded before.
for _module in pkgutil.walk_packages(pytest_dspy_ft.__path__, "pytest_dspy_ft."):
    if not re.search(r"\.(local|hosted|__main__|cli)\b", _module.name):
        importlib.import_module(_module.name)


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest; in this process, which takes a tenth of the time, where the arguments do not need one of its own."""
    if any(a.startswith(("-n", "-p")) for a in arguments):
        return project.runpytest_subprocess(*arguments)
    return project.runpytest_inprocess("-p", "no:xdist", *arguments)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole ladder was measured and saved, once for all tests."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "parity.py").write_text(PARITY)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(GATES)
    command = [sys.executable, "-m", "pytest", FULL, SAVE, "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert f"baseline saved to {folder / FILE}" in done.stdout
    return folder


@pytest.fixture
def saved(project: pytest.Pytester, measured: Path) -> pytest.Pytester:
    """A project whose baseline holds the whole ladder, measured and saved."""
    shutil.copytree(measured, project.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return project


def text(project: pytest.Pytester) -> str:
    return (project.path / FILE).read_text(encoding="utf-8")


def content(project: pytest.Pytester) -> Any:
    return json.loads(text(project))


def wrong(monkeypatch: pytest.MonkeyPatch, numbers: str) -> str:
    """From now on these numbers get wrong answers; the store to use with it, as nothing else tells the change."""
    monkeypatch.setenv("PARITY_WRONG", numbers)
    return "--dspy-store=worse"


# --- saving ----------------------------------------------------------------------------------------------------------


def test_a_baseline_is_small_and_reads_by_line(saved: pytest.Pytester) -> None:
    [experiment] = content(saved)["experiments"]
    assert [s["name"] for s in experiment["stages"]] == ["baseline", "prompt_optimized", "finetuned"]
    assert [(e["stage"], e["on"], e["n"], e["score"]) for e in experiment["evaluations"]] == [
        ("baseline", "dev", 10, 0.5),
        ("prompt_optimized", "dev", 10, 1),
        ("prompt_optimized", "test", 10, 1),
        ("finetuned", "test", 10, 1),
    ]
    ids = [row["id"] for row in experiment["examples"]["dev"]]
    assert ids == sorted(ids)
    assert sum('"inputs"' in line for line in text(saved).splitlines()) == 20, "one example a line"
    assert "odd" not in text(saved), "no predictions, no labels"
    assert str(saved.path) not in text(saved)


def test_saved_again_with_nothing_changed_the_file_stays_as_it_is(saved: pytest.Pytester) -> None:
    before = text(saved)
    result = run(saved, FULL, SAVE)
    result.stdout.fnmatch_lines([f"baseline *{FILE} says the same: left as it is"])
    assert text(saved) == before
    assert result.ret == pytest.ExitCode.OK


def test_a_failed_gate_is_a_measurement_too(project: pytest.Pytester) -> None:
    project.makepyfile(test_it='import pytest\n\n@pytest.mark.dspy_gate("baseline >= 90%")\ndef test_it(): ...\n')
    result = run(project, SAVE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert content(project)["experiments"][0]["evaluations"][0]["score"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-k", "baseline"], "2 tests that use an experiment were deselected"),
        (["--deselect", "test_it.py::test_finetuned"], "1 test that uses an experiment was deselected"),
        (["test_it.py::test_baseline"], "single tests were chosen (test_it.py::test_baseline)"),
        (["test_it.py"], "experiment 'parity' can be used anywhere in the project, and only test_it.py was run"),
        (["--dspy-limit=60"], "--dspy-limit=60 looks at a part of the examples"),
        (["--lf"], "--lf runs a part of the tests"),
        (["--dspy-stage=prompt"], "stage finetuned of experiment 'parity' is out of this session's reach"),
    ],
    ids=["k", "deselect", "node id", "file", "limit", "lf", "stage"],
)
def test_a_partial_session_saves_nothing_and_says_why(
    saved: pytest.Pytester, arguments: list[str], reason: str
) -> None:
    before = text(saved)
    stage = [] if any(a.startswith("--dspy-stage") for a in arguments) else [FULL]
    result = run(saved, *stage, SAVE, *arguments)
    assert f"baseline NOT saved to {saved.path / FILE}: " in result.stdout.str()
    assert reason in result.stdout.str().split("NOT saved")[1]
    assert text(saved) == before
    assert result.ret == pytest.ExitCode.USAGE_ERROR, "who asked for a baseline must not go on without one"
    (saved.path / FILE).unlink()
    assert run(saved, *stage, SAVE, *arguments).ret == pytest.ExitCode.USAGE_ERROR
    assert not (saved.path / FILE).exists(), "a part is no baseline where there is none yet, either"


def test_deselected_tests_without_an_experiment_do_not_matter(saved: pytest.Pytester) -> None:
    saved.makepyfile(test_other="def test_other(): ...\n")
    assert run(saved, FULL, SAVE, "-k", "not other").ret == pytest.ExitCode.OK


def test_a_folder_that_holds_all_tests_of_the_experiment_is_the_whole(project: pytest.Pytester) -> None:
    folder = project.mkdir("one")
    (project.path / "conftest.py").rename(folder / "conftest.py")
    (folder / "test_it.py").write_text(GATES)
    (project.path / "test_other.py").write_text("def test_other(): ...\n")
    assert project.runpytest_subprocess("one", SAVE, FULL).ret == pytest.ExitCode.OK
    assert (project.path / FILE).exists()


def test_a_failed_stage_is_not_saved_over(saved: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    before = text(saved)
    monkeypatch.setenv("PARITY_TRAINING", "fails")
    result = run(saved, FULL, SAVE, "--dspy-store=other")
    result.stdout.fnmatch_lines(["baseline NOT saved to *: stage finetuned of experiment 'parity' failed*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert text(saved) == before


def test_what_a_skipped_test_would_measure_is_missing(saved: pytest.Pytester) -> None:
    before = text(saved)
    path = saved.path / "test_it.py"
    path.write_text(path.read_text().replace("def test_finetuned", '@pytest.mark.skip("no GPU")\ndef test_finetuned'))
    result = run(saved, FULL, SAVE)
    result.stdout.fnmatch_lines(["baseline NOT saved to *: stage finetuned *was not measured on test*"])
    assert text(saved) == before


def test_what_the_file_holds_and_the_session_does_not_is_not_lost(saved: pytest.Pytester) -> None:
    before = text(saved)
    (saved.path / "test_it.py").write_text(GATES.split('@pytest.mark.dspy_gate("finetuned')[0])
    result = run(saved, FULL, SAVE)
    result.stdout.fnmatch_lines(["baseline NOT saved to *: the file holds stage prompt_optimized*on test*delete the*"])
    conftest = saved.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("make_experiment()", "make_experiment('renamed')"))
    result = run(saved, FULL, SAVE)
    result.stdout.fnmatch_lines(["baseline NOT saved to *the file also holds experiment 'parity'*"])
    assert text(saved) == before


def test_stopping_at_the_first_failure_is_no_whole_session(saved: pytest.Pytester) -> None:
    before = text(saved)
    saved.makepyfile(test_a="def test_fails():\n    assert False\n")
    result = run(saved, FULL, SAVE, "-x")
    result.stdout.fnmatch_lines(["baseline NOT saved to *: the session stopped early (stopping after 1 failures)*"])
    assert text(saved) == before


def test_an_interrupted_session_saves_nothing(saved: pytest.Pytester) -> None:
    before = text(saved)
    command = [sys.executable, "-m", "pytest", FULL, SAVE, "--dspy-store=slow"]
    done = len(calls(saved))
    environment = {**os.environ, "PARITY_SECONDS": "0.2"}
    process = subprocess.Popen(command, cwd=saved.path, env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while len(calls(saved)) < done + 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "baseline NOT saved" in output
    assert "interrupted" in output.split("NOT saved")[1]
    assert text(saved) == before


def test_a_session_with_a_crashed_worker_saves_nothing(saved: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    before = text(saved)
    saved.makepyfile(test_crash="import os\n\ndef test_crash():\n    os._exit(3)\n")
    result = run(saved, FULL, SAVE, "-n2")
    result.stdout.fnmatch_lines(["baseline NOT saved to *: worker * crashed*"])
    assert result.ret != 0
    assert text(saved) == before


def test_a_file_that_cannot_be_collected_makes_a_session_partial(saved: pytest.Pytester) -> None:
    before = text(saved)
    saved.makepyfile(test_broken="import nothing_of_this_name\n")
    result = run(saved, FULL, SAVE, "--continue-on-collection-errors")
    result.stdout.fnmatch_lines(["baseline NOT saved to *: test_broken.py could not be collected*"])
    assert text(saved) == before


@pytest.mark.parametrize("arguments", [(), ("-k", "baseline")], ids=["whole", "partial"])
def test_under_xdist_the_same_is_saved_and_refused(saved: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytest.importorskip("xdist")
    before = text(saved)
    if not arguments:
        (saved.path / FILE).unlink()
    result = run(saved, FULL, SAVE, "-n2", *arguments)
    if arguments:
        result.stdout.fnmatch_lines(["baseline NOT saved to *: 2 tests that use an experiment were deselected*"])
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert text(saved) == before
    else:
        assert result.ret == pytest.ExitCode.OK
        assert content(saved)["experiments"] == json.loads(before)["experiments"]


def test_a_file_of_something_else_is_never_overwritten(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=GATES)
    (project.path / FILE).write_text('[{"text": "a ticket"}]')
    result = run(project, SAVE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--dspy-save-baseline=*{FILE}: *is no baseline*left as it is*"])
    assert text(project) == '[{"text": "a ticket"}]'
    assert not calls(project)


def test_collect_only_measures_nothing(saved: pytest.Pytester) -> None:
    before = text(saved)
    result = run(saved, SAVE, "--collect-only")
    result.stdout.fnmatch_lines(["baseline not saved: --collect-only measures nothing"])
    assert text(saved) == before


# --- comparing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [(), ("-n2",), ("-p", "no:xdist"), ("-p", "xdist")], ids=["plain", "n2", "no", "p"])
def test_the_same_results_pass(saved: pytest.Pytester, how: tuple[str, ...]) -> None:
    if how != ("-p", "no:xdist"):
        pytest.importorskip("xdist")
    before = calls(saved)
    result = run(saved, FULL, COMPARE, "-v", *how)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [f"*{ITEM} PASSED*", f"compared with {FILE} (saved *): 4 level", "finetuned*test*100.0%*100.0%*level"]
    )
    assert calls(saved) == before


@pytest.mark.parametrize("how", [(), ("-n2",)], ids=["plain", "n2"])
def test_what_got_worse_fails_in_an_item_of_its_own(
    saved: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...]
) -> None:
    if how:
        pytest.importorskip("xdist")
    saved.makepyfile(test_it=GATES.replace(">= 40%", ">= 0%").replace(">= 90%", ">= 0%").replace("+ 30%", "- 99%"))
    store = wrong(monkeypatch, DEV)
    result = run(saved, FULL, COMPARE, store, "--junitxml=junit.xml", "-v", *how)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            f"*{ITEM} FAILED*",
            "*compared with baseline.json (saved *): 2 REGRESSED, 2 level",
            "  prompt_optimized on dev: 100.0% then, 0.0% now, of 10 examples (-100.0 pts, 95% interval *); "
            "0 fixed, 10 broke",
            "  broke *: text='8?'",
            "    expected label=*",
            "    now label='neither'",
            "  and 5 more broke",
            "prompt_optimized*dev*10*100.0%*0.0%*-100.0*0*10*REGRESSED",
            "prompt_optimized*test*10*100.0%*100.0%*+0.0*0*0*level",
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
            f"compared with {FILE} (saved *): 1 level, 3 absent",
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
    result.stdout.fnmatch_lines(["*: 3 level, 1 absent", "finetuned on test: absent: needs --dspy-stage=finetune"])
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


def test_new_removed_and_changed_examples_are_listed(saved: pytest.Pytester) -> None:
    conftest = saved.path / "conftest.py"
    conftest.write_text(
        """
import dspy, pytest
from parity import examples, make_experiment
from pytest_dspy_ft import Dataset

@pytest.fixture(scope="session")
def dspy_experiment():
    relabelled = dspy.Example(text="80", label="odd").with_inputs("text")
    dev = [relabelled, *examples(range(82, 90)), *examples([1000, 1001, 90])]
    return make_experiment(dataset=Dataset(train=examples(range(80)), dev=dev, test=examples(range(91, 100))))
"""
    )
    result = run(saved, COMPARE)
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "baseline*dev*8*50.0%*50.0%*level",
            "the splits have other sizes: dev 10 -> 12, test 10 -> 9",
            "examples of dev: 8 as they were, 3 new, 1 removed, 1 changed; only those as they were are compared",
            "new: *, *, *",
            "removed: *",
            "changed: * -> *",
        ]
    )


def test_another_metric_is_refused(saved: pytest.Pytester) -> None:
    conftest = saved.path / "conftest.py"
    conftest.write_text(
        conftest.read_text().replace("make_experiment()", "make_experiment(metric=always)")
        + "\n\ndef always(example, prediction, trace=None):\n    return True\n"
    )
    result = run(saved, FULL, COMPARE, SAVE)
    assert result.parseoutcomes()["failed"] >= 1
    result.stdout.fnmatch_lines(
        [
            "*the metric is not the one that baseline.json was measured with*",
            "REFUSED: the metric is not the one*",
            "baseline NOT saved to *experiment 'parity' did not pass the comparison with this very file",
        ]
    )


def test_another_lm_is_compared_and_said(saved: pytest.Pytester) -> None:
    conftest = saved.path / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        .replace("make_experiment()", "make_experiment(lm=other)")
        .replace(
            "import make_experiment", "import make_experiment, toy_lm\n\nother = toy_lm()\nother.model = 'toy/other'"
        )
    )
    result = run(saved, COMPARE)
    result.stdout.fnmatch_lines(["the LM was toy/parity, now it is toy/other*"])


def test_an_experiment_that_the_file_does_not_hold_is_skipped_aloud(saved: pytest.Pytester) -> None:
    conftest = saved.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("make_experiment()", "make_experiment('newcomer')"))
    result = run(saved, COMPARE, "-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "baseline.json also holds experiment 'parity', which was not compared in this session",
            "SKIPPED*baseline.json holds no experiment 'newcomer' (it holds parity): nothing to compare with",
        ]
    )


def test_a_regression_is_not_saved_over_the_file_it_was_found_with(
    saved: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = text(saved)
    result = run(saved, FULL, COMPARE, SAVE, wrong(monkeypatch, DEV))
    result.stdout.fnmatch_lines(["baseline NOT saved to *did not pass the comparison with this very file"])
    assert text(saved) == before


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (None, "there is no file *make it with --dspy-save-baseline=*"),
        ("<<<<<<< ours\n{}\n", "is no JSON*merge conflict*"),
        ("[]", 'is no baseline: it lacks "format"*'),
        ('{"schema_version": 1, "experiments": []}', 'is no baseline: it lacks "format"*'),
        ("newer", "has schema version 7; this pytest-dspy-ft reads version 1; *upgrade*"),
        ("older", "has schema version 'zero'; *save it anew*"),
        ("lacking", "is damaged: *"),
        ("edited", "is damaged: experiment 'parity': stage 'baseline' on dev says n = 10, score 0.5, but *"),
    ],
)
def test_a_file_that_cannot_be_read_is_said_before_anything_runs(
    saved: pytest.Pytester, written: str | None, message: str
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "newer": {"schema_version": 7},
        "older": {"schema_version": "zero"},
        "lacking": {"experiments": [{"name": "parity"}]},
    }
    path = saved.path / FILE
    if written is None:
        path.unlink()
    elif written == "edited":
        path.write_text(text(saved).replace('"baseline": 0,', '"baseline": 1,', 1))
    elif written in changes:
        path.write_text(json.dumps({**content(saved), **changes[written]}))
    else:
        path.write_text(written)
    before = calls(saved)
    for how in ((), ("-n1",)):
        result = run(saved, COMPARE, "--dspy-store=other", *how)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*--dspy-compare={FILE}: *{message}"])
    assert calls(saved) == before


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
        result.assert_outcomes(passed=6)
        for name in ("small", "large"):
            result.stdout.fnmatch_lines([f"test_it.py::TestAll::dspy_compare[[]{name}[]] PASSED*"])


def test_the_comparison_runs_last_however_tests_are_ordered(saved: pytest.Pytester) -> None:
    (saved.path / "conftest.py").write_text(
        (saved.path / "conftest.py").read_text()
        + "\n\ndef pytest_collection_modifyitems(items):\n    items.reverse()\n"
    )
    result = run(saved, FULL, COMPARE, "-v")
    result.stdout.fnmatch_lines([f"{ITEM} PASSED*100%*"])
    result.stdout.fnmatch_lines(["*: 4 level"])


# --- trajectories ----------------------------------------------------------------------------------------------------


def test_a_forgotten_example_is_shown_on_its_way(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    project.makeconftest(
        """
        import dspy, pytest
        from parity import make_experiment
        from pytest_dspy_ft import Stage

        def forget(program, *, trainset, teacher):
            program.demos = []
            return program

        @pytest.fixture(scope="session")
        def dspy_experiment():
            few = Stage("few", dspy.LabeledFewShot(k=3))
            return make_experiment(stages=[few, Stage("bare", forget, start="few")])
        """
    )
    project.makepyfile(
        """
        import pytest

        @pytest.mark.dspy_gate("few >= baseline")
        def test_few(): ...

        @pytest.mark.dspy_gate("bare >= few")
        def test_bare(): ...
        """
    )
    result = run(project, "--dspy-stage=prompt")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "  0 fixed, 5 broke of 10 examples (few -> bare)",
            "  examples by their way through baseline, few, bare: 5 always right, 5 forgotten",
            "  broke *: text='80'",
            "    expected label='even'",
            "    few label='even'",
            "    bare label='odd'",
            "    baseline wrong, few right, bare wrong: forgotten",
            "examples of dev, lowest to highest stage: 5 always right, 5 forgotten",
        ]
    )


def test_the_script_of_the_docs_runs(saved: pytest.Pytester) -> None:
    docs = (REPOSITORY / "docs" / "baselines.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```python\n(.*?)^```$", docs, flags=re.MULTILINE | re.DOTALL)
    shutil.copy(saved.path / FILE, saved.path / "today.json")
    done = subprocess.run([sys.executable, "-c", script], cwd=saved.path, capture_output=True, text=True, check=True)
    assert done.stdout == "()\n"


def test_frozen_judges_changed_gates_without_a_call(saved: pytest.Pytester) -> None:
    before = calls(saved)
    saved.makepyfile(test_it=GATES.replace("+ 30%", "+ 60%").replace("finetuned >= prompt", "finetuned > prompt"))
    result = run(saved, FULL, COMPARE, "--dspy-frozen")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["lm toy/parity*0 built, 3 loaded * 0 LM calls*", "*: 4 level"])
    assert calls(saved) == before


def test_a_baseline_of_a_frozen_session_is_the_same(saved: pytest.Pytester) -> None:
    before = text(saved)
    Path(saved.path / FILE).unlink()
    assert run(saved, FULL, SAVE, "--dspy-frozen").ret == pytest.ExitCode.OK
    assert content(saved)["experiments"] == json.loads(before)["experiments"]
