"""Locks between processes, also on file systems that have none."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from pytest_dspy_ft.errors import LockWarning
from pytest_dspy_ft.tracebacks import warn

_LOOK = 0.5
"""Seconds between two tries for a lock that another process holds."""
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
_told: set[Path] = set()

_RUN = "PYTEST_XDIST_TESTRUNUID"
"""The variable in which pytest-xdist tells its workers which session they are of."""


@contextlib.contextmanager
def locked(path: Path, *, timeout: float = -1, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock against other processes; the system releases it if we are killed.

    On a file system without locks a file ``….held`` beside it stands for the lock: whoever makes it has it. One that a
    killed process left is recognized on the machine it was made on; one of another machine has to be deleted by hand.
    That is said once for each folder.

    Args:
        path: The lock's file.
        timeout: Seconds to wait for another holder; negative to wait for ever.
        waiting: Called every half second while another process holds it; only without a timeout.

    Raises:
        Timeout: Another process holds it.
        OSError: Its file cannot be made or opened.
    """
    lock = _acquire(path, timeout, waiting)
    holder = path.with_name(f"{path.name}.holder") if waiting is not None else None
    try:
        if holder is not None:
            with contextlib.suppress(OSError):
                holder.write_text(json.dumps(_me()), encoding="utf-8")
        yield
    finally:
        if holder is not None:
            with contextlib.suppress(OSError):
                holder.unlink(missing_ok=True)
        lock.release()


def describe_holder(path: Path) -> str:
    """Who holds a lock that is waited for, and since when, in words; ``another session`` where that is not known."""
    try:
        found = json.loads(path.with_name(f"{path.name}.holder").read_text(encoding="utf-8"))
        place, worker = f"process {found['process']} on {found['host']}", found.get("worker", "")
        if worker and found.get("run") == os.environ.get(_RUN):
            return f"worker {worker} (since {found['since']})"
        whose = f"worker {worker} of another session" if worker else "another session"
        return f"{whose} ({place}, since {found['since']})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "another session"


def _me() -> dict[str, str | int]:
    me: dict[str, str | int] = {"process": os.getpid(), "host": platform.node()}
    me["since"] = time.strftime("%Y-%m-%d %H:%M:%S")
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        me |= {"worker": worker, "run": os.environ.get(_RUN, "")}
    return me


def _acquire(path: Path, timeout: float, waiting: Callable[[], None] | None) -> BaseFileLock:
    lock: BaseFileLock = FileLock(path)
    soft = False
    while True:
        try:
            lock.acquire(timeout=timeout if waiting is None else _LOOK)
            return lock
        except Timeout:
            if waiting is None:
                raise
            waiting()
        except OSError as problem:
            if problem.errno not in _NO_LOCKS or soft:
                raise
            lock, soft = SoftFileLock(path.with_name(f"{path.name}.held")), True
            if path.parent not in _told:
                _told.add(path.parent)
                warn(
                    f"the file system of {path.parent} has no locks ({problem.strerror}): files ending in .held stand "
                    "for them; one that a session killed on another machine left there has to be deleted by hand",
                    LockWarning,
                )
