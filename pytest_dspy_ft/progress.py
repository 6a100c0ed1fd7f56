"""Progress on long work: what is being done, how far it is, how long it still takes.

The core reports to a :class:`Progress`; whoever runs it decides where that goes. :class:`LineProgress` draws a bar on
a terminal and writes an occasional plain line elsewhere, so that a CI log shows life without drowning in it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol, TextIO

from pytest_dspy_ft.text import duration

QUIET_SECONDS = 1.0
"""Work shorter than this is not worth a word."""
ESTIMATED_FROM = 0.05
"""Before this share is done, how long it still takes would be a guess: answers come in batches, models load first."""
PLAIN_LINE_SECONDS = 15.0
"""On something that is not a terminal: one line per so many seconds."""


class Task(Protocol):
    """One piece of long work under way."""

    def advance(self, done: float, *, total: float | None = None, note: str = "") -> None:
        """Say how far it is (``done`` of ``total``) and, in a few words, what is going on."""


class Progress(Protocol):
    """Where progress is shown."""

    def task(self, title: str, total: float | None = None, unit: str = "it") -> contextlib.AbstractContextManager[Task]:
        """Start a piece of work; leaving the context ends it."""


class SilentProgress:
    """Progress nobody looks at."""

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None, unit: str = "it") -> Iterator[Task]:
        """A task that says nothing."""
        yield _SilentTask()


class LineProgress:
    """Progress written to a stream: a bar where it is a terminal, plain lines where it is not.

    Args:
        stream: Where to write. It should bypass whatever captures output.
        prefix: Put before each plain line, e.g. the name of a pytest-xdist worker.
    """

    def __init__(self, stream: TextIO, prefix: str = "") -> None:
        self._stream = stream
        self._prefix = prefix

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None, unit: str = "it") -> Iterator[Task]:
        """A task shown on the stream."""
        task = (
            _Bar(self._stream, title, total, unit)
            if self._stream.isatty()
            else _Lines(self._stream, self._prefix + title, total, unit)
        )
        try:
            yield task
        finally:
            task.close()


class _SilentTask:
    def advance(self, done: float, *, total: float | None = None, note: str = "") -> None:
        pass


class _Bar:
    """A tqdm bar that appears once the work turns out to be long, and leaves no trace."""

    def __init__(self, stream: TextIO, title: str, total: float | None, unit: str) -> None:
        from tqdm import tqdm

        self._stream = stream
        self._started = time.monotonic()
        self._shown = False
        self._bar = tqdm(
            total=total,
            desc=f"dspy: {title}",
            unit=unit,
            file=stream,
            leave=False,
            dynamic_ncols=True,
            delay=QUIET_SECONDS,
        )

    def advance(self, done: float, *, total: float | None = None, note: str = "") -> None:
        if not self._shown and time.monotonic() - self._started > QUIET_SECONDS:
            self._shown = True
            self._stream.write("\n")  # pytest's own line stays above the bar
        if total is not None:
            self._bar.total = total
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """Plain lines: the first when the work turns out to be long, then one now and then, and one at the end."""

    def __init__(self, stream: TextIO, title: str, total: float | None, unit: str) -> None:
        self._stream, self._title, self._total, self._unit = stream, title, total, unit
        self._started = time.monotonic()
        self._last: float | None = None
        self._done: float = 0
        self._note = ""

    def advance(self, done: float, *, total: float | None = None, note: str = "") -> None:
        self._done, self._note = done, note
        self._total = total if total is not None else self._total
        now = time.monotonic()
        due = self._started + QUIET_SECONDS if self._last is None else self._last + PLAIN_LINE_SECONDS
        if now >= due:
            self._write(self._remaining(now), newline_first=self._last is None)
            self._last = now

    def close(self) -> None:
        if self._last is not None:
            self._write(f"took {duration(time.monotonic() - self._started)}")

    def _remaining(self, now: float) -> str:
        elapsed = now - self._started
        if not self._total or self._done < ESTIMATED_FROM * self._total:
            return f"{duration(elapsed)} so far"
        return f"about {duration(elapsed * (self._total - self._done) / self._done)} left"

    def _write(self, timing: str, *, newline_first: bool = False) -> None:
        count = f"{self._done:g}/{self._total:g}" if self._total else f"{self._done:g}"
        parts = [f"dspy: {self._title}", f"{count} {self._unit}", timing, *([self._note] if self._note else [])]
        self._stream.write(("\n" if newline_first else "") + " - ".join(parts) + "\n")
        self._stream.flush()
