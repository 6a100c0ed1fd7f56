"""Progress on long work: what is being done, how far it is, how long it still takes.

The core reports to a :class:`Progress`; whoever runs it decides where that goes. What lies below the core, the embedded
LM for one, reports to the one that :func:`shown_on` names, by :func:`task`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol


class Task(Protocol):
    """One piece of long work under way."""

    def advance(self, done: float, *, total: float | None = None, note: str = "") -> None:
        """Say how far it is (``done`` of ``total``) and, in a few words, what is going on.

        The note of the last call stays: it says what came out.
        """


class Progress(Protocol):
    """Where progress is shown.

    One that also has a method ``passing(title)`` is told of work of which nothing is to stay.
    """

    def task(self, title: str, total: float | None = None, unit: str = "") -> contextlib.AbstractContextManager[Task]:
        """Start a piece of work; leaving the context ends it.

        Args:
            title: What is being done.
            total: How much there is of it; None where nobody knows.
            unit: What is counted, in the plural; empty where nothing is counted but the time.
        """


class SilentProgress:
    """Progress nobody looks at."""

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """A task that says nothing."""
        yield SilentTask()


class SilentTask:
    """A task that says nothing."""

    def advance(self, done: float, *, total: float | None = None, note: str = "") -> None:
        """Say nothing."""


_shown_on: list[Progress] = [SilentProgress()]
"""Where this process shows its progress; the last one counts."""


@contextlib.contextmanager
def shown_on(progress: Progress) -> Iterator[None]:
    """Inside the block, in every thread, :func:`task` reports to this progress."""
    _shown_on.append(progress)
    try:
        yield
    finally:
        _shown_on.remove(progress)


def task(title: str, total: float | None = None, unit: str = "") -> contextlib.AbstractContextManager[Task]:
    """Start a piece of work, shown wherever this process shows its progress; arguments as of :meth:`Progress.task`."""
    return _shown_on[-1].task(title, total, unit)


def in_passing(progress: Progress, title: str) -> contextlib.AbstractContextManager[object]:
    """A block of work that is to be seen while it lasts, and of which nothing stays; what it consists of says more."""
    passing: Callable[[str], contextlib.AbstractContextManager[object]] | None = getattr(progress, "passing", None)
    return contextlib.nullcontext() if passing is None else passing(title)


@contextlib.contextmanager
def waiting_for(
    show: Callable[[str], contextlib.AbstractContextManager[Task]], what: str
) -> Iterator[Callable[[str], None]]:
    """A block that may have to wait for others, which is shown once it does.

    Args:
        show: Starts a piece of work with a title.
        what: What the others do, after "that".

    Yields:
        To be called with who it is, at the beginning of the wait and as often as is liked after that.
    """
    with contextlib.ExitStack() as shown:
        waits = False

        def waiting(who: str) -> None:
            nonlocal waits
            if not waits:
                waits = True
                shown.enter_context(show(f"waiting for {who} that {what}"))

        yield waiting
