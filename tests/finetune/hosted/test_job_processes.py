"""Real sessions in real processes: killed, interrupted, several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.finetune.hosted.http_faults import KEY, Call, Fault
from tests.finetune.hosted.server import FineTuningService, serving

CONFTEST = """
import dspy, pytest
from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Stage

@pytest.fixture(scope="session")
def dspy_experiment(dspy_lm):
    examples = [dspy.Example(text=str(n), label=str(n % 2)).with_inputs("text") for n in range(20)]
    return Experiment(
        "numbers",
        program=dspy.Predict("text -> label"),
        dataset=Dataset.from_examples(examples),
        metric=lambda example, prediction, trace=None: prediction.label == example.label,
        lm=dspy_lm,
        stages=[Stage("finetuned", LabeledFinetune(metric=None))],
    )
"""
TESTS = """
def test_it(dspy_finetuned):
    assert dspy_finetuned.lm.model.startswith("openai/ft:gpt-4o-mini:")

def test_again(dspy_finetuned):
    assert dspy_finetuned.lm.model.startswith("openai/ft:gpt-4o-mini:")
"""
LADDER = ["--dspy-stage=finetune", "--dspy-lm=openai/gpt-4o-mini"]
COMMAND = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *LADDER]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a session of a user who wrote nothing but the model's name, against a service on the loopback."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    monkeypatch.setenv("DSPY_CACHEDIR", str(pytester.path / "dspy_cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    started: list[subprocess.Popen[str]] = []

    def start(service: FineTuningService, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "OPENAI_BASE_URL": service.address, "OPENAI_API_KEY": KEY}
        started.append(
            subprocess.Popen(
                [*COMMAND, *arguments],
                cwd=pytester.path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


POINTS = {
    "during_the_upload": lambda call: call.method == "POST" and call.path == "/files",
    "while_the_job_is_asked_for": lambda call: call.starts_a_job,
    "while_it_is_waited_for": lambda call: call.path.startswith("/fine_tuning/jobs/ftjob"),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_session_loses_nothing(session: Start, point: str) -> None:
    met: list[Call] = []

    def faults(call: Call) -> Fault | None:
        if POINTS[point](call) and not met:
            met.append(call)
            return Fault("slow", seconds=3)  # carried out; the reply finds nobody
        return None

    with serving(faults=faults, statuses=("running", "succeeded")) as service:
        process = session(service)
        until(lambda: bool(met))
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        output, _ = session(service).communicate(timeout=120)
        assert "2 passed" in output
        assert len(service.started()) == 1


def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(session: Start) -> None:
    with serving(statuses=("running",)) as service:
        process = session(service)
        until(lambda: bool(service.started()) and any("/events" in call.path for call in service.calls))
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == pytest.ExitCode.INTERRUPTED
        [job] = service.started()
        flat = " ".join(output.split())
        for words in (f"hosted job {job.id} was left", "the same command finds it again", f"jobs/{job.id}/cancel"):
            assert words in flat
        assert KEY not in output
        assert job.shown["status"] == "running"
        job.statuses = ["succeeded"]
        output, _ = session(service).communicate(timeout=60)
        assert "2 passed" in output
        assert len(service.started()) == 1


def test_workers_and_sessions_at_once_pay_for_one_job(session: Start) -> None:
    with serving(statuses=("running", "succeeded")) as service:
        processes = [session(service, "-n2"), session(service)]
        outputs = [process.communicate(timeout=120)[0] for process in processes]
        assert all("2 passed" in output for output in outputs), outputs
        assert len(service.started()) == 1


def test_a_planted_key_is_nowhere(session: Start, pytester: pytest.Pytester) -> None:
    """Not in the store, the reports or what is printed, also where the service refuses the key and echoes it."""
    echo = Fault("status", 401, error={"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"})
    reports = ("--dspy-report=run.json", "--dspy-report=run.md", "--junitxml=junit.xml", "-l", "--log-level=DEBUG")
    with serving(faults=lambda call: echo if call.starts_a_job else None) as service:
        output, _ = session(service, *reports).communicate(timeout=120)
        assert "OPENAI_API_KEY) is not accepted" in " ".join(output.split())
        assert KEY not in output
        service.faults = lambda call: None
        output, _ = session(service, *reports).communicate(timeout=120)
        assert "2 passed" in output
        assert KEY not in output
    written = [path for path in pytester.path.rglob("*") if path.is_file()]
    assert {"run.json", "run.md", "junit.xml"} <= {path.name for path in written}
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
