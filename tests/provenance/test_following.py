"""Which functions are seen to run: in whatever thread, event loop or library they are called."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

import pytest_dspy_ft.evaluation.run  # noqa: F401  has threads followed that a program begins
from pytest_dspy_ft.lms.calls import passing
from pytest_dspy_ft.lms.threads import carried_into_threads
from pytest_dspy_ft.provenance.following import follower


def helper() -> int:
    return 1


def raising() -> None:
    raise KeyError(helper())


def generating() -> Iterator[int]:
    yield helper()


async def awaiting() -> int:
    return await asyncio.to_thread(helper)


def in_a_thread() -> None:
    thread = threading.Thread(target=helper)
    thread.start()
    thread.join()


def in_a_pool() -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: helper(), range(4)))


def in_parallel() -> None:
    class Calls(dspy.Module):  # type: ignore[misc]
        def forward(self, text: str) -> int:
            return helper()

    dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Calls(), {"text": "a"}), (Calls(), {"text": "b"})])


def swallowed() -> None:
    with pytest.raises(KeyError):
        raising()


WAYS: dict[str, Callable[[], Any]] = {
    "directly": helper,
    "while an exception rises": swallowed,
    "in a generator": lambda: list(generating()),
    "by a library": lambda: sorted([1, 2], key=lambda _: helper()),
    "in an event loop's thread": lambda: asyncio.run(awaiting()),
    "in a thread": in_a_thread,
    "in a pool": in_a_pool,
    "by dspy.Parallel": in_parallel,
}


def names(codes: Any) -> set[str]:
    return {code.co_qualname for code in codes}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["block", "calls"])
def test_a_function_is_seen_however_it_is_called(way: str, kind: str) -> None:
    followed = follower()
    with passing(), carried_into_threads():  # as around every call of a program
        if kind == "block":
            with followed.block():
                WAYS[way]()
        else:
            with followed.session(), followed.one():
                WAYS[way]()
    assert "helper" in names(followed.codes)
    assert "names" not in names(followed.codes)
    assert followed.share == 1.0
    assert not followed.hindrance
    assert sys.getprofile() is None
    assert getattr(threading, "_profile_hook", None) is None


def test_what_ran_before_is_seen_again() -> None:
    for _ in range(2):
        followed = follower()
        with followed.block():
            helper()
        assert "helper" in names(followed.codes)


def test_only_the_users_code_is_kept() -> None:
    followed = follower()
    with passing(), carried_into_threads(), followed.block():
        dspy.Example(text="a").with_inputs("text").toDict()
        in_a_thread()
    assert names(followed.codes) == {"in_a_thread", "helper"}


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="sys.monitoring has room for several tools")
def test_another_profiler_keeps_its_place_and_it_is_said() -> None:
    seen: list[str] = []
    followed = follower()
    sys.setprofile(lambda frame, event, arg: seen.append(event))
    try:
        with followed.block():
            helper()
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(None)
    assert seen
    assert "profiler" in followed.hindrance


def test_many_threads_begin_and_end_to_be_followed_at_once() -> None:
    """Python 3.11 refuses to install a profiler while another thread does."""
    followed = follower()
    with followed.session(), ThreadPoolExecutor(16) as pool:

        def call(_: int) -> None:
            with followed.one():
                helper()

        list(pool.map(call, range(4000)))
    assert "helper" in names(followed.codes)
    assert not followed.hindrance
