"""Runs one training, and outlives the session that started it; a program: ``python supervisor.py FOLDER COMMAND...``.

It holds a lock on the folder for as long as it lives, so that there is one training at a time whoever asks, and writes
down who it is and how the training ended. The training ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout

LOCK, PROCESS, ENDED, LOG = "running.lock", "process.json", "ended.json", "log.txt"
RUNS_ALREADY = 75
BEAT = 5.0
"""Seconds between signs of life, for sessions on other machines that see the folder."""


def main(folder: Path, command: list[str]) -> int:
    """Start a supervisor that belongs to nobody; gives 0 once it runs, 75 where the folder's training runs already."""
    answer, told = os.pipe()
    if os.fork():
        os.close(told)
        return 0 if os.read(answer, 1) else RUNS_ALREADY
    os.close(answer)
    return supervise(folder, command, told)


def supervise(folder: Path, command: list[str], told: int) -> int:
    """Run the command to its end, and note how that was.

    Args:
        folder: The training's.
        command: What trains.
        told: A descriptor that is written to once it runs.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return RUNS_ALREADY
    except OSError:  # a file system without locks: the process is known by its number and its start
        pass
    (folder / ENDED).unlink(missing_ok=True)
    child = subprocess.Popen(command, cwd=folder, preexec_fn=_end_with_supervisor)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: child.terminate())
    _write(folder / PROCESS, {"pid": os.getpid(), "started": started_at(os.getpid()), "host": socket.gethostname()})
    os.write(told, b"1")
    os.close(told)
    threading.Thread(target=_show_life, args=(folder,), daemon=True).start()
    status = child.wait()
    _write(folder / ENDED, {"status": status, "time": time.time()})
    return status


def _end_with_supervisor() -> None:
    """In the child: end when the supervisor is killed. Without prctl, its processes see a broken rendezvous."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG


def _show_life(folder: Path) -> None:
    while True:
        time.sleep(BEAT)
        with contextlib.suppress(OSError):
            os.utime(folder / PROCESS)


def started_at(pid: int) -> str:
    """When a process started, in the system's own words; empty where that cannot be told, or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()


def _write(path: Path, value: object) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(value), "utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
