"""Ctrl-C: a session ends within seconds, whatever it waits for, and answers that arrive meanwhile are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lms.silent import QuietServer, quiet

CONFTEST = """
import os, dspy, pytest
from pytest_dspy_ft import Dataset, Experiment, Stage

def right(example, prediction, trace=None):
    return prediction.label == example.label

@pytest.fixture(scope="session")
def dspy_experiment():
    rows = [dspy.Example(text=str(n), label="even" if n % 2 == 0 else "odd").with_inputs("text") for n in range(20)]
    return Experiment(
        "quiet",
        program=dspy.Predict("text -> label"),
        dataset=Dataset(train=rows[:10], dev=rows[10:]),
        metric=right,
        lm=dspy.LM("openai/base", api_base=os.environ["QUIET"], api_key="sk-right"),
        adapter=dspy.ChatAdapter(use_json_adapter_fallback=False),
        stages=[
            Stage("shown", dspy.BootstrapFewShot(metric=right)),
            Stage("searched", dspy.BootstrapRS(metric=right, num_candidate_programs=1, num_threads=4)),
        ],
    )
"""
TEST = """
import pytest

@pytest.mark.dspy_gate("{stage} >= 10%")
def test_it(): ...
"""
PROMISED = 5.0
SLACK = 15.0
"""Machines that run tests are busy; without the promise these take ten minutes."""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    pytester.makeconftest(CONFTEST)
    monkeypatch.setenv("DSPY_CACHEDIR", str(pytester.path / "dspy_cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    started: list[subprocess.Popen[str]] = []

    def start(server: QuietServer, stage: str, *arguments: str) -> subprocess.Popen[str]:
        pytester.makepyfile(TEST.format(stage=stage))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--dspy-stage=all", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(
            subprocess.Popen(
                command, cwd=pytester.path, env={**os.environ, "QUIET": server.address}, text=True, **pipes
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=PROMISED + SLACK)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    return output


@pytest.mark.parametrize(
    ("stage", "arguments"),
    [("searched", []), ("baseline", ["-n1"])],
    ids=["in an optimizer's threads", "xdist"],
)
def test_a_silent_server_holds_nobody(session: Start, stage: str, arguments: list[str]) -> None:
    if arguments:
        pytest.importorskip("xdist")
    first = 12 if stage == "searched" else 0
    with quiet(lambda number: "answers" if number < first else "silent") as server:
        process = session(server, stage, *arguments)
        until(lambda: len(server.requests) > first)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in ended(process)


@pytest.mark.parametrize("stage", ["baseline", "shown"])
def test_what_is_answered_meanwhile_is_kept(session: Start, stage: str) -> None:
    with quiet("in a moment") as server:
        process = session(server, stage)
        until(lambda: len(server.requests) >= 1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        server.may_answer.set()
        ended(process)
        asked = [str(body["messages"]) for body in server.requests]
        assert server.answered == len(asked)
        output, _ = session(server, stage).communicate(timeout=90)
        assert "1 passed" in output, output
        again = [str(body["messages"]) for body in server.requests[len(asked) :]]
        assert not set(asked) & set(again), "it was paid for"


def test_ctrl_c_twice_ends_at_once(session: Start) -> None:
    with quiet("silent") as server:
        process = session(server, "baseline")
        until(lambda: len(server.requests) >= 1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.8)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=PROMISED + SLACK)


def test_waiting_for_another_session_says_for_whom_and_ends_with_ctrl_c(session: Start, tmp_path: Path) -> None:
    with quiet("silent") as server:
        first = session(server, "baseline")
        until(lambda: len(server.requests) >= 1)
        second = session(server, "baseline", "-s")
        assert second.stdout is not None
        late = threading.Timer(90, second.kill)  # ends the reading below
        late.start()
        said = ""
        while "waiting for another session" not in said:
            line = second.stdout.readline()
            assert line, said
            said += line
        late.cancel()
        assert f"process {first.pid} on " in said
        assert "that measures baseline on dev" in said
        for process in (second, first):
            process.send_signal(signal.SIGINT)
            ended(process)
