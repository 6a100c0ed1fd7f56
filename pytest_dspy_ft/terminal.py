"""What the user sees in the terminal: progress while it runs, a table for each experiment at the end.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

import pytest

from pytest_dspy_ft.session import session_of
from pytest_dspy_ft.xdist import is_worker

if TYPE_CHECKING:
    from pytest_dspy_ft.progress import Progress

NEWS = "dspy_ft_news"
"""Attribute of a test report that carries records, as text, from the process that ran the test."""


LOG_WIDTH = 132
"""Columns that a table may take where output is not a terminal: a log scrolls, and loses nothing."""


class Reporter:
    """Gathers the records of all processes and shows them; registered only in the process the user looks at."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the records that came with a report, from this process or from a worker."""
        if (news := getattr(report, NEWS, None)) is not None:
            session_of(self._config).collect(news)

    def pytest_keyboard_interrupt(self) -> None:
        """An interrupted session has no complete table."""
        session_of(self._config).incomplete.append("interrupted")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the table of each experiment, also when stages failed or were skipped."""
        session = session_of(self._config)
        if not session.in_use:
            return
        from pytest_dspy_ft.report.table import render, title

        record = session.record()
        writer = terminalreporter._tw
        width = writer.fullwidth if writer.hasmarkup else max(writer.fullwidth, LOG_WIDTH)
        for experiment in record.experiments:
            mark = " - INCOMPLETE" if record.incomplete else ""
            terminalreporter.write_sep("=", title(experiment) + mark)
            for line in render(experiment, width=width, unicode=_speaks_unicode(writer)):
                terminalreporter.write_line(line)
        for reason in record.incomplete:
            terminalreporter.write_line(f"INCOMPLETE: {reason}; what it did not report is missing above", red=True)


class LazyProgress:
    """Progress that loads what it needs when long work first begins."""

    def __init__(self, stream: TextIO | None, prefix: str) -> None:
        self._stream, self._prefix = stream, prefix

    def task(self, title: str, total: float | None = None, unit: str = "it") -> Any:
        """Start a piece of work."""
        from pytest_dspy_ft.progress import LineProgress, SilentProgress

        progress: Progress = SilentProgress() if self._stream is None else LineProgress(self._stream, self._prefix)
        return progress.task(title, total, unit)


def progress(config: pytest.Config) -> Progress:
    """Progress on the real terminal, past pytest's capturing; on stderr from xdist's workers, whose stdout is taken."""
    if is_worker(config):
        return LazyProgress(_past_capture(sys.stderr), f"[{config.workerinput['workerid']}] ")  # type: ignore[attr-defined]
    if not config.pluginmanager.hasplugin("terminalreporter"):
        return LazyProgress(None, "")
    return LazyProgress(_past_capture(sys.stdout), "")


def _past_capture(stream: TextIO) -> TextIO:
    """The stream as it is now: pytest captures by putting another file in its descriptor's place."""
    try:
        descriptor = os.dup(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return stream  # not a real file: nothing that could be captured below it
    return cast(
        "TextIO", os.fdopen(descriptor, "w", encoding=stream.encoding or "utf-8", errors="replace", buffering=1)
    )


def _speaks_unicode(writer: Any) -> bool:
    encoding = getattr(getattr(writer, "_file", None), "encoding", None) or "ascii"
    try:
        "·≥✓".encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True
