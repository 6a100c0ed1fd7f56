"""Where a session shows how far its work is: past whatever captures output, and not at all where nobody looks.

In the process that the user looks at, that is the terminal, or the log that stands in its place. Workers of
pytest-xdist send theirs there. Without pytest's terminal reporter nothing is shown.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from pytest_dspy_ft.plugin.compat import (
    SharedTerminal,
    asked_on_command_line,
    has_no_terminal,
    is_worker,
    receive_texts,
    text_sender,
    uncaptured,
)

if TYPE_CHECKING:
    from pytest_dspy_ft.progress import Progress, Task
    from pytest_dspy_ft.progress.display import Display

PROGRESS: pytest.StashKey[SessionProgress] = pytest.StashKey()
"""On the config."""

CHANNEL = "dspy_ft_progress"
"""What workers send their progress through."""


class SessionProgress:
    """The progress of one session in one process; what shows it is made when the first work begins.

    Args:
        config: Of the session; it may have been read as far as the command line only.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._stdout: TextIO = sys.stdout
        self._stream = uncaptured(self._stdout)  # now: before anything is captured
        self._display: Display | None = None
        self._shared: SharedTerminal | None = None
        self._shown: Progress | None = None
        self._lock = threading.Lock()

    def task(self, title: str, total: float | None = None, unit: str = "") -> contextlib.AbstractContextManager[Task]:
        """Start a piece of work, see :meth:`pytest_dspy_ft.progress.Progress.task`."""
        return self._ready().task(title, total, unit)

    def passing(self, title: str) -> contextlib.AbstractContextManager[object]:
        """Start a piece of work of which nothing stays, see :func:`pytest_dspy_ft.progress.in_passing`."""
        from pytest_dspy_ft.progress import in_passing

        return in_passing(self._ready(), title)

    def listen_to(self, node: Any, name: str) -> None:
        """Show what a worker of pytest-xdist that is about to start will tell.

        Args:
            node: The worker, as its controller knows it.
            name: Its name.
        """

        def show(text: str) -> None:
            from pytest_dspy_ft.progress.remote import receive

            self._ready()
            if self._display is not None:
                receive(self._display, name, text)

        receive_texts(node, CHANNEL, show)

    def forget(self, name: str) -> None:
        """A worker is gone."""
        if self._display is not None:
            self._display.leave(name)

    def close(self) -> None:
        """Show nothing any more, and let go of the terminal."""
        if self._display is not None:
            self._display.close()
        if self._shared is not None:
            self._shared.release()
        if self._stream is not self._stdout:
            with contextlib.suppress(OSError, ValueError):
                self._stream.close()

    def _ready(self) -> Progress:
        """What shows progress now: before a worker is told that it is one, nothing does."""
        from pytest_dspy_ft.progress import SilentProgress

        with self._lock:
            if self._shown is None:
                self._shown = self._make()
            self._share()
            return self._shown or SilentProgress()

    def _make(self) -> Progress | None:
        config = self._config
        if is_worker(config):
            from pytest_dspy_ft.progress.remote import RemoteProgress

            send = text_sender(config, CHANNEL)
            return None if send is None else RemoteProgress(send)
        if has_no_terminal(config):
            return None
        from pytest_dspy_ft.progress.display import Display
        from pytest_dspy_ft.progress.screen import Screen

        verbosity = asked_on_command_line(config, "verbose", 0)
        screen = Screen(self._stream, live=self._is_live(), line_of_others=self._line_of_pytest)
        self._display = Display(screen, quiet=verbosity <= -2, all_kept=verbosity > 0)
        return self._display

    def _is_live(self) -> bool:
        """True for a terminal that takes back a line, where nobody but pytest and we write."""
        unknown = "" if os.name == "nt" else "dumb"
        if os.environ.get("NO_COLOR") or os.environ.get("TERM", unknown) == "dumb":
            return False
        if asked_on_command_line(self._config, "color", "auto") == "no":
            return False
        if asked_on_command_line(self._config, "capture", "fd") in ("no", "tee-sys"):
            return False  # what programs print comes in between
        try:
            return self._stream.isatty()
        except ValueError:
            return False

    def _share(self) -> None:
        """Take turns with pytest's reporter, once it is there."""
        if self._shared is None and self._display is not None:
            reporter = self._config.pluginmanager.getplugin("terminalreporter")
            if reporter is not None:
                self._shared = SharedTerminal(reporter, self._display.aside)

    def _line_of_pytest(self) -> str:
        return "" if self._shared is None else self._shared.current_line


def progress_of(config: pytest.Config) -> SessionProgress:
    """The session's progress, also before the session is configured."""
    if (found := config.stash.get(PROGRESS, None)) is None:
        found = config.stash[PROGRESS] = SessionProgress(config)
    return found
