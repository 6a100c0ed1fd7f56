"""``--dspy-train=torchrun:2`` with the real model: two processes, both they and the session killed, and a ladder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.real.test_ticket_slice import CONFTEST, TICKETS

pytestmark = pytest.mark.model

GATES = """
import pytest

@pytest.mark.dspy_gate("finetuned >= baseline", on="test")
@pytest.mark.dspy_gate("unparsed(finetuned) <= 25%", on="test")
@pytest.mark.dspy_gate("unparsed(baseline) >= 75%", on="test")
def test_the_format_is_learned(): ...
"""

STEPS = 6
"""Two epochs of 12 rows, four to a step."""


def wait_for(what: Callable[[], Any], seconds: float = 180.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def steps_of(folder: Path) -> list[int]:
    try:
        lines = (folder / "output" / "progress.jsonl").read_text().splitlines()
    except OSError:
        return []
    return [json.loads(line)["step"] for line in lines]


def test_two_processes_train_a_ladder_that_kills_do_not_stop(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.replace('"epochs": 1', '"epochs": 2'))
    pytester.makepyfile(GATES)
    (pytester.path / "tickets.json").write_text(json.dumps(json.loads(TICKETS.read_text("utf-8"))[:20]))
    session = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--dspy-stage=finetune"]
    with subprocess.Popen(
        [*session, "--dspy-train=torchrun:2"], cwd=pytester.path, stdout=subprocess.DEVNULL, env={**os.environ}
    ) as killed:
        jobs = pytester.path / ".dspy_ft" / "jobs"
        folder = wait_for(lambda: next((p.parent for p in jobs.rglob("process.json")), None))
        killed.send_signal(signal.SIGKILL)
    seen = len(steps_of(folder))
    supervisor = psutil.Process(json.loads((folder / "process.json").read_text())["pid"])

    # The session is dead; the training goes on, in two processes of its own, until one of them is killed.
    wait_for(lambda: len(steps_of(folder)) > max(seen, 2))
    ranks = [p for p in supervisor.children(recursive=True) if "--nproc_per_node" not in p.cmdline()]
    assert len(ranks) == 2
    assert {p.environ()["OMP_NUM_THREADS"] for p in ranks} == {str(max(len(os.sched_getaffinity(0)) // 2, 1))}
    ranks[1].kill()
    wait_for(lambda: (folder / "ended.json").exists())
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in ranks)
    assert 2 < len(steps_of(folder)) <= STEPS, "it was killed on its way"

    result = pytester.runpytest_subprocess("--dspy-stage=finetune", "--dspy-train=torchrun:2", "--dspy-report=r.json")
    result.assert_outcomes(passed=1)
    run = json.loads((folder / "output" / "result.json").read_text())
    order = json.loads((folder / "order.json").read_text())
    assert run["resumed_at"] >= 1
    assert run["steps"] == len(order["batches"]) == STEPS
    assert steps_of(folder) == list(range(STEPS + 1)), "each step once, those before the kill included"
    tokens = [json.loads(line)["tokens"] for line in (folder / "output" / "progress.jsonl").read_text().splitlines()]
    assert tokens == sorted(tokens), "what was computed before the kill counts"
    assert [rank["world"] for rank in run["ranks"]] == [2, 2]
    assert len({rank["process"] for rank in run["ranks"]}) == 2
    assert sum(rank["rows"] for rank in run["ranks"]) == sum(map(len, order["batches"][run["resumed_at"] :]))
    record = json.loads((pytester.path / "r.json").read_text())["experiments"][0]
    [training] = next(stage for stage in record["stages"] if stage["stage"] == "finetuned")["training"]
    assert (training["launcher"], training["processes"], training["steps"]) == ("torchrun", 2, STEPS)
    assert json.loads((folder / "launched.json").read_text())["attempt"] == 2
