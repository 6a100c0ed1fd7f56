"""Trainings as processes of this machine that go on when the session ends: started once, found again, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.finetune.launched import supervisor
from pytest_dspy_ft.finetune.launched.protocol import LaunchState

LOG_END = 20_000
"""Characters of a log that are looked at."""
SILENCE = 60.0
"""Seconds without a sign of life after which a training on another machine counts as dead."""


def start(folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command in a session of its own, its output in a file of the folder; gives its supervisor's process id.

    Where the folder's training runs already, it goes on and no other is started.

    Raises:
        TrainingError: It cannot be started.
    """
    with (folder / supervisor.LOG).open("ab") as log:
        done = subprocess.run(
            [sys.executable, str(Path(supervisor.__file__)), str(folder), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,  # neither Ctrl-C nor the end of this session reaches it
            check=False,
        )
    if done.returncode not in (0, supervisor.RUNS_ALREADY) or not _noted(folder):
        raise TrainingError(f"it did not start: {log_end(folder / supervisor.LOG)[-2000:]}")
    return int(_noted(folder)["pid"])


def state(folder: Path) -> LaunchState:
    """How the folder's training stands: running, ended well or not, or unknown where none was started."""
    path = folder / supervisor.LOG
    log, place = log_end(path), str(path)
    if is_running(folder):
        return LaunchState("running", f"process {_noted(folder).get('pid', '')}".strip(), log, place)
    try:
        status = int(json.loads((folder / supervisor.ENDED).read_text("utf-8"))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        if not _noted(folder):
            return LaunchState("unknown", log=log, log_place=place)
        return LaunchState("failed", "it was killed", log, place)
    if status == 0:
        return LaunchState("succeeded", log=log, log_place=place)
    if status < 0:
        name = signal.Signals(-status).name if -status in list(signal.Signals) else str(-status)
        return LaunchState("failed", f"it was ended by {name}", log, place)
    return LaunchState("failed", f"it ended with status {status}", log, place)


def is_running(folder: Path) -> bool:
    """True while a supervisor holds the folder's lock, or lives as the process that it wrote down."""
    lock = FileLock(folder / supervisor.LOCK)
    try:
        lock.acquire(timeout=0)
        lock.release()
    except Timeout:
        return True
    except OSError:
        pass
    noted = _noted(folder)
    if not noted or (folder / supervisor.ENDED).exists():
        return False
    if noted.get("host") != socket.gethostname():  # a folder that several machines see
        return _age(folder) < SILENCE
    return bool(noted["started"]) and supervisor.started_at(int(noted["pid"])) == str(noted["started"])


def end(folder: Path, seconds: float = 20.0) -> None:
    """End the folder's training, by force where it does not end by itself."""
    if not is_running(folder):
        return
    pid = int(_noted(folder).get("pid", 0))
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if pid:
                os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not is_running(folder):
                return
            time.sleep(0.1)


def log_end(path: Path) -> str:
    """The end of a log."""
    try:
        with path.open("rb") as log:
            log.seek(max(path.stat().st_size - LOG_END, 0))
            return log.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _noted(folder: Path) -> dict[str, Any]:
    try:
        noted = json.loads((folder / supervisor.PROCESS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) and isinstance(noted.get("pid"), int) else {}


def _age(folder: Path) -> float:
    """Seconds since the last sign of life, by the clock of the file system."""
    mark = folder / ".now"
    mark.touch()
    return mark.stat().st_mtime - (folder / supervisor.PROCESS).stat().st_mtime
