"""The end of an interrupted process: soon, whatever threads are still at work, and with its status."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

THREADS = {
    "a thread pool's": "pool = ThreadPoolExecutor(1); pool.submit(time.sleep, 300)",
    "two pools'": "pools = [ThreadPoolExecutor(2) for _ in '12']; [pool.submit(time.sleep, 300) for pool in pools * 2]",
    "a plain one": "threading.Thread(target=time.sleep, args=(300,)).start()",
}
SCRIPT = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from pytest_dspy_ft.lms.interruption import leave_soon
{threads}
leave_soon(2)
{last}
"""


def end_of(threads: str, last: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(threads=threads, last=last)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("threads", THREADS.values(), ids=THREADS)
def test_threads_that_nobody_can_wake_hold_no_process(threads: str) -> None:
    done = end_of(threads, "print('the last word')")
    assert (done.returncode, done.stdout, done.stderr) == (2, "the last word\n", "")


def test_what_the_main_thread_still_does_is_done() -> None:
    started = time.monotonic()
    done = end_of(THREADS["a thread pool's"], "time.sleep(3); print('written')")
    assert (done.returncode, done.stdout) == (2, "written\n")
    assert time.monotonic() - started >= 3


def test_without_such_threads_it_ends_as_it_would() -> None:
    done = end_of("", "raise SystemExit(5)")
    assert (done.returncode, done.stderr) == (5, "")
