"""``--dspy-save-baseline``: whole sessions are saved, partial ones are not and say why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plugin.projects import FILE, FULL, GATES, SAVE, calls, content, run, text


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
    project.syspathinsert()  # the session runs in this process
    folder = project.mkdir("one")
    (project.path / "conftest.py").rename(folder / "conftest.py")
    (folder / "test_it.py").write_text(GATES)
    (project.path / "test_other.py").write_text("def test_other(): ...\n")
    assert run(project, "one", SAVE, FULL).ret == pytest.ExitCode.OK
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


def test_a_baseline_of_a_frozen_session_is_the_same(saved: pytest.Pytester) -> None:
    before = text(saved)
    Path(saved.path / FILE).unlink()
    assert run(saved, FULL, SAVE, "--dspy-frozen").ret == pytest.ExitCode.OK
    assert content(saved)["experiments"] == json.loads(before)["experiments"]
