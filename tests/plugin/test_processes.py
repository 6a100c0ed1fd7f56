"""Several processes, killed processes, damaged files: nothing is built twice, nothing half-written is used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plugin.projects import LADDER, calls, run, table

GATES = LADDER.replace("def test_program", "def not_a_test")


def test_xdist_builds_each_stage_once(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xdist")
    monkeypatch.setenv("PARITY_SECONDS", "0.02")
    project.makepyfile(LADDER)
    result = project.runpytest_subprocess("--dspy-stage=finetune", "-n2")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["lm toy/parity*3 built, 0 loaded*", "finetuned >= prompt_optimized*test*PASS"])
    assert len((project.path / "jobs.log").read_text().splitlines()) == 1
    questions = [line.split()[1:] for line in calls(project)]
    evaluated_on_dev = [q for q in questions if q[0] == "toy/parity" and 80 <= int(q[1]) < 90]
    assert len(evaluated_on_dev) == 20, "baseline and prompt_optimized, each once on dev"


def test_without_xdist_plugin(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    project.runpytest_subprocess("-p", "no:xdist").assert_outcomes(passed=1, skipped=3)


def test_without_terminal(project: pytest.Pytester) -> None:
    project.makepyfile(LADDER)
    result = project.runpytest_subprocess("-p", "no:terminal")
    assert result.ret == 0


def test_a_crashed_worker_makes_the_table_incomplete(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    project.makepyfile(
        """
        import os, pytest

        @pytest.mark.dspy_gate("baseline >= 40%")
        def test_baseline(): ...

        def test_crash():
            os._exit(3)
        """
    )
    result = project.runpytest_subprocess("-n1")
    result.stdout.fnmatch_lines(["*dspy: parity - INCOMPLETE*", "INCOMPLETE: worker gw0 crashed*"])
    assert result.ret != 0


def test_wrong_markers_under_xdist_fail_the_tests(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    project.makepyfile('import pytest\n\n@pytest.mark.dspy_gate("finetuend >= 40%")\ndef test_it(): ...\n')
    result = project.runpytest_subprocess("-n1")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*finetuend*finetuned*"])


@pytest.mark.parametrize("after", [0.3, 0.6, 1.0, 1.5, 2.2])
def test_killed_at_any_moment_the_next_run_gives_the_same_table(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, after: float
) -> None:
    project.makepyfile(GATES)
    command = [sys.executable, "-m", "pytest", "--dspy-stage=finetune", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        command,
        cwd=project.path,
        env={**os.environ, "PARITY_SECONDS": "0.03"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not calls(project) and time.monotonic() < deadline:
        time.sleep(0.01)  # the clock starts with the first LM call
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    second = run(project, "--dspy-stage=finetune")
    second.assert_outcomes(passed=3)
    undisturbed = run(project, "--dspy-stage=finetune", "--dspy-store=other")
    assert table(second) == table(undisturbed)
    assert not list((project.path / ".dspy_ft" / "work").glob("*")), "leftovers of the killed build are gone"


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "empty_manifest"])
def test_a_damaged_build_is_set_aside_and_made_again(project: pytest.Pytester, damage: str) -> None:
    project.makepyfile(GATES)
    first = run(project, "--dspy-stage=prompt")
    program = next(
        p for p in (project.path / ".dspy_ft" / "stages").rglob("program.json") if "prompt_optimized" in str(p)
    )
    target = program.with_name("manifest.json") if damage == "empty_manifest" else program
    if damage == "delete":
        target.unlink()
    elif damage == "flip":
        target.write_text(target.read_text().replace("even", "odd", 1))
    else:
        target.write_bytes(target.read_bytes()[: 0 if damage == "empty_manifest" else 40])
    second = run(project, "--dspy-stage=prompt")
    second.assert_outcomes(passed=2, skipped=1, warnings=2)  # the other: ten examples cannot resolve its 30 points
    second.stdout.fnmatch_lines(["*StoreWarning: the store's entry for the stage 'prompt_optimized'*is damaged*"])
    assert table(second)[:5] == table(first)[:5]
    assert list((project.path / ".dspy_ft" / "set_aside").iterdir())


def test_a_damaged_evaluation_is_measured_again(project: pytest.Pytester) -> None:
    project.makepyfile(GATES)
    first = run(project)
    (evaluation,) = (project.path / ".dspy_ft" / "evaluations").rglob("*.json")
    evaluation.write_text(evaluation.read_text().replace('"score": 0.0', '"score": 1.0', 1))
    second = run(project)
    second.stdout.fnmatch_lines(["*StoreWarning: *evaluation of stage 'baseline'*checksum*"])
    assert table(second)[:3] == table(first)[:3]


def test_an_unused_plugin_loads_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            heavy = {"dspy", "torch", "numpy", "pydantic", "tabulate", "openai", "litellm", "jinja2"} & set(sys.modules)
            print("LOADED", sorted(heavy))
        """
    )
    pytester.makepyfile("def test_it(): ...")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*LOADED []"])
    assert "dspy:" not in result.stdout.str()
    assert not (pytester.path / ".dspy_ft").exists()


def test_progress_is_seen_past_capture(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_SECONDS", "0.4")
    project.makepyfile(GATES)
    result = project.runpytest_subprocess("--dspy-num-threads=1")
    result.stdout.fnmatch_lines(["dspy: baseline: evaluating on dev - 10/10 examples * - took * - score 50.0%"])


def test_concurrent_sessions_share_the_work(project: pytest.Pytester) -> None:
    project.makepyfile(GATES)
    command = [sys.executable, "-m", "pytest", "--dspy-stage=finetune", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PARITY_SECONDS": "0.01"}
    running = [
        subprocess.Popen(command, cwd=project.path, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], outputs
    assert len(Path(project.path / "jobs.log").read_text().splitlines()) == 1
