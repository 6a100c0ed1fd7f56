"""Launched trainings without a model: orders that a small program carries out, step by step, as it is allowed to."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.finetune.launched.journal import LaunchedEntry, read_entry
from pytest_dspy_ft.finetune.launched.protocol import Launcher, TrainingOrder
from pytest_dspy_ft.finetune.launched.run import Handover, LaunchedRun
from pytest_dspy_ft.finetune.launched.torchrun import Torchrun

STEPS = 4
TRAINER = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
order, output = json.loads((folder / "order.json").read_text()), folder / "output"
output.mkdir(exist_ok=True)
with Path(order["starts"]).open("a") as starts:
    starts.write(f"{os.getpid()}\\n")
at = output / "at"
done = int(at.read_text()) if at.exists() else 0
for step in range(done + 1, order["steps"] + 1):
    while step > int(Path(order["allowed"]).read_text() or 0):
        time.sleep(0.02)
    print("dspy-ft progress " + json.dumps({"step": step, "total": order["steps"], "loss": 1 / step}), flush=True)
    at.write_text(str(step))
    if step == order["fails_at"]:
        sys.exit("CUDA out of memory")
(output / "adapter").mkdir(exist_ok=True)
(output / "adapter" / "adapter_model.safetensors").write_text("weights")
(output / "result.json").write_text(json.dumps({"steps": order["steps"], "resumed_at": done}))
"""


class OneProcess(Torchrun):
    """Runs the trainer of these tests as Torchrun runs TRL."""

    pause = 0.02

    def _command(self, order: TrainingOrder) -> list[str]:
        return [sys.executable, str(order.folder / "train_with_trl.py"), str(order.folder)]


class World:
    """One training in a folder, and sessions that want it."""

    def __init__(self, home: Path) -> None:
        self.home, self.folder = home, home / "launched-d1-1"
        self.allowed, self.starts_file = home / "allowed", home / "starts"
        self.allow(STEPS)
        self.fails_at: int | None = None
        self.refusal = ""
        self.wake = threading.Event()

    def allow(self, steps: int) -> None:
        """Let the trainer do so many steps."""
        part = self.allowed.with_name("allowed.part")
        part.write_text(str(steps))
        part.replace(self.allowed)

    def starts(self) -> int:
        return len(self.starts_file.read_text().splitlines()) if self.starts_file.exists() else 0

    def entry(self) -> LaunchedEntry:
        entry = read_entry(self.folder)
        assert entry is not None
        return entry

    def session(self, launcher: Launcher | None = None, *, earlier: Launcher | None = None) -> LaunchedRun:
        """What a new session makes of it."""
        self.wake = threading.Event()
        entry = read_entry(self.folder) or LaunchedEntry(
            job="dspy-ft-d1-abc",
            digest="d1",
            launcher="torchrun",
            named="torchrun",
            model="local:toy",
            place="toy/base",
            rows=3,
            session="s",
            created="2026-01-01T00:00:00Z",
        )
        handover = Handover(self._prepare, self._receive, how_to_cancel=f"end it {entry.job}")
        return LaunchedRun(launcher or OneProcess(), self.folder, entry, handover, self.wake, earlier=earlier)

    def background(self, run: LaunchedRun) -> Callable[[], Any]:
        """Run it in a thread; gives what waits for its outcome, an exception included."""
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append(run.run())
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()

        def result() -> Any:
            thread.join(30)
            return outcome[0]

        return result

    def _prepare(self, folder: Path, processes: int | None) -> None:
        order = {"steps": STEPS, "fails_at": self.fails_at}
        order |= {"starts": str(self.starts_file), "allowed": str(self.allowed)}
        (folder / "train_with_trl.py").write_text(TRAINER)
        (folder / "order.json").write_text(json.dumps(order))

    def _receive(self, folder: Path) -> dict[str, Any]:
        if self.refusal:
            raise TrainingError(self.refusal)
        assert (folder / "output" / "adapter" / "adapter_model.safetensors").read_text() == "weights"
        result: dict[str, Any] = json.loads((folder / "output" / "result.json").read_text())
        return result


def wait_for(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
