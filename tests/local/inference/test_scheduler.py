"""Requests from many threads become batches that do not depend on timing."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_dspy_ft.local.inference.scheduler import Job, Scheduler


def echo_scheduler(enough: int = 64) -> tuple[Scheduler, list[list[int]]]:
    batches: list[list[int]] = []

    def answer(jobs: Any) -> None:
        batches.append([job.sort_key for job in jobs])
        for job in jobs:
            job.result = job.sort_key

    return Scheduler(answer, enough), batches


def test_expected_workers_are_batched_exactly() -> None:
    scheduler, batches = echo_scheduler()

    def work(worker: int) -> None:
        for turn in range(worker + 1):  # workers end at different times
            time.sleep(random.random() * 0.05)
            assert scheduler.submit(Job(10 * turn + worker)) == 10 * turn + worker
        expected.worker_done()

    with scheduler.expect(4) as expected, ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert batches == [[0, 1, 2, 3], [11, 12, 13], [22, 23], [33]]
    assert scheduler.timeouts == 0


def test_a_worker_that_never_asks_only_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_dspy_ft.local.inference.scheduler.EXPECTED_SECONDS", 0.2)
    scheduler, batches = echo_scheduler()
    with scheduler.expect(2):
        assert scheduler.submit(Job(1)) == 1
    assert batches == [[1]]
    assert scheduler.timeouts == 1


def test_of_one_threads_expectations_the_inner_one_counts() -> None:
    scheduler, batches = echo_scheduler()
    with scheduler.expect(5), scheduler.expect(1):
        scheduler.submit(Job(99))
    assert batches == [[99]]
    assert scheduler.timeouts == 0


def test_without_expectations_callers_run_in_lock_step() -> None:
    scheduler, batches = echo_scheduler()

    def work(worker: int) -> None:
        for turn in range(5):
            scheduler.submit(Job(100 * turn + worker))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert sum(map(len, batches)) == 80
    assert len(batches) < 20


def test_callers_that_came_too_late_for_a_batch_are_waited_for_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where their own batch was the larger one: otherwise small and large batches would alternate for ever."""
    monkeypatch.setattr("pytest_dspy_ft.local.inference.scheduler.QUIET_SECONDS", 0.5)  # on a busy machine
    batches: list[list[int]] = []
    arrived, scheduler = threading.Event(), Scheduler(lambda jobs: answer(jobs), 64)

    def answer(jobs: Any) -> None:
        batches.append([job.sort_key for job in jobs])
        arrived.wait(10)  # while the first batch is answered, all others ask
        for job in jobs:
            job.result = job.sort_key

    with ThreadPoolExecutor(12) as pool:
        first = [pool.submit(scheduler.submit, Job(number)) for number in range(2)]
        while not batches:
            time.sleep(0.001)
        late = [pool.submit(scheduler.submit, Job(number)) for number in range(2, 12)]
        while len(scheduler._pending) < 10:
            time.sleep(0.001)
        arrived.set()
        assert sorted(future.result() for future in (*first, *late)) == list(range(12))
        batches.clear()
        assert sorted(pool.map(lambda number: scheduler.submit(Job(number)), range(12))) == list(range(12))
    assert batches == [list(range(12))]


def test_an_answer_that_raises_reaches_its_callers_and_the_thread_survives() -> None:
    calls = []

    def answer(jobs: Any) -> None:
        calls.append(len(jobs))
        if len(calls) == 1:
            raise KeyError("oops")
        for job in jobs:
            job.result = "fine"

    scheduler = Scheduler(answer, 1)
    with pytest.raises(RuntimeError, match=r"engine failed: KeyError: 'oops'"):
        scheduler.submit(Job(0))
    assert scheduler.submit(Job(0)) == "fine"


def test_an_interrupted_caller_withdraws(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, batches = echo_scheduler()
    job = Job(1)

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job.done, "wait", interrupt)
    with scheduler.expect(2):
        with pytest.raises(KeyboardInterrupt):
            scheduler.submit(job)
        assert scheduler._pending == []
    assert batches == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_gets_a_thread_of_its_own() -> None:
    scheduler, _ = echo_scheduler(1)
    assert scheduler.submit(Job(1)) == 1
    child = os.fork()
    if child == 0:
        answered = threading.Event()
        threading.Thread(target=lambda: scheduler.submit(Job(2)) == 2 and answered.set(), daemon=True).start()
        os._exit(0 if answered.wait(5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
