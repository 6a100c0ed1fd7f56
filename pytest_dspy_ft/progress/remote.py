"""Progress that another process shows: what is told here travels as text, and no more often than anybody would look."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator

from pytest_dspy_ft.progress import Task
from pytest_dspy_ft.progress.display import Display
from pytest_dspy_ft.progress.work import Ending

SECONDS_BETWEEN = 0.5
"""Between two messages on how far a piece of work is."""


class RemoteProgress:
    """Progress sent to the process that shows it. Safe to use from many threads.

    Args:
        send: Takes a message to there; that it fails is no reason for the work to fail.
    """

    def __init__(self, send: Callable[[str], object]) -> None:
        self._send_text = send
        self._numbers = itertools.count()

    def passing(self, title: str) -> contextlib.AbstractContextManager[Task]:
        """Tell the other process of a piece of work that is shown only while it lasts."""
        return self.task(title, kept=False)

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None, unit: str = "", *, kept: bool = True) -> Iterator[Task]:
        """Tell the other process of a piece of work."""
        task = RemoteTask(next(self._numbers), self.send)
        self.send("begin", task.number, title, total, unit, kept)
        ending: Ending = "failed"
        try:
            yield task
            ending = "done"
        except KeyboardInterrupt:
            ending = "interrupted"
            raise
        finally:
            task.flush()
            self.send("end", task.number, ending)

    def send(self, *message: object) -> None:
        """Send a message, where there is still somebody."""
        with contextlib.suppress(OSError, EOFError, ValueError):
            self._send_text(json.dumps(message))


class RemoteTask:
    """A piece of work that another process shows."""

    def __init__(self, number: int, send: Callable[..., None]) -> None:
        self.number = number
        self._send = send
        self._lock = threading.Lock()
        self._sent = 0.0
        self._latest: tuple[float, float | None, str] | None = None

    def advance(self, done: float, *, total: float | None = None, note: str = "") -> None:
        """Say how far it is; what is said in quick succession is sent as one."""
        with self._lock:
            if total is None and self._latest is not None:
                total = self._latest[1]
            self._latest = done, total, note
            if (now := time.monotonic()) - self._sent < SECONDS_BETWEEN:
                return
            self._sent = now
            self._flush()

    def flush(self) -> None:
        """Send what was not sent yet."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if self._latest is not None:
            self._send("advance", self.number, *self._latest)
            self._latest = None


def receive(display: Display, who: str, text: str) -> None:
    """Show a message of a :class:`RemoteProgress`.

    Args:
        display: Where to show it.
        who: The name of the process that sent it.
        text: The message; one that cannot be read is not shown.
    """
    with contextlib.suppress(ValueError, TypeError, LookupError):
        kind, number, *rest = json.loads(text)
        tell: dict[str, Callable[..., None]] = {
            "begin": display.begin,
            "advance": display.advance,
            "end": display.end,
        }
        tell[kind](who, number, *rest)
