"""What the user sees in the terminal: progress while it runs, a table for each experiment at the end.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import pytest

from pytest_dspy_ft.plugin import baseline as saving
from pytest_dspy_ft.plugin import compare as comparisons
from pytest_dspy_ft.plugin import reports as reporting
from pytest_dspy_ft.plugin.session import is_worker, session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.progress import Progress
    from pytest_dspy_ft.records.run import RunRecord

NEWS = "dspy_ft_news"
"""Attribute of a test report that carries records, as text, from the process that ran the test."""


_COLOURS = {"good": "green", "bad": "red", "unsure": "yellow"}

LOG_WIDTH = 132
"""Columns that a table may take where output is not a terminal: a log scrolls, and loses nothing."""


class Reporter:
    """Gathers the records of all processes and shows them; registered only in the process the user looks at."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._places: dict[str, Any] = {}
        self._reports: dict[Path, str] = {}
        self._summary_problem = ""
        self._record: RunRecord | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the records that came with a report, from this process or from a worker."""
        if (news := getattr(report, NEWS, None)) is not None:
            session_of(self._config).collect(news)
            if report.failed and reporting.on_github():
                self._places[report.nodeid] = reporting.place_of(self._config, report.location)

    def pytest_keyboard_interrupt(self) -> None:
        """An interrupted session has no complete table."""
        session_of(self._config).incomplete.append("interrupted; what was not reported by then is missing above")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what could not be collected: a session without it is not the whole."""
        if report.failed:
            session_of(self._config).collection_errors.append(f"{report.nodeid} could not be collected")

    def pytest_report_header(self) -> list[str]:
        """Say early what the command line already tells of the end."""
        state = session_of(self._config)
        reasons = saving.foreseen(self._config, state) if state.options.save_baseline else []
        return [f"dspy: this session will not be saved as a baseline: {'; '.join(reasons)}"] if reasons else []

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write baseline and reports, with or without a terminal; where one cannot be written, that is no success."""
        state = session_of(self._config)
        saving.save(self._config, session, state, exitstatus)
        if not state.in_use or state.options.plan:
            return
        self._record = state.record()
        self._reports = reporting.write_reports(self._record, state.options.reports)
        if reporting.on_github():
            self._summary_problem = reporting.add_step_summary(self._record)
        if any(self._reports.values()) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the table of each experiment, also when stages failed or were skipped; or the plans, if asked for."""
        state = session_of(self._config)
        if state.options.plan:
            self._show_plans(terminalreporter)
        else:
            self._show(terminalreporter)
            for line in comparisons.unmet(state):
                terminalreporter.write_line(line, yellow=True)
        if state.saved:
            terminalreporter.write_line(state.saved, **({"red": True} if state.save_refused else {}))

    def _show(self, terminalreporter: Any) -> None:
        if self._record is None:
            if (state := session_of(self._config)).options.reports and state.allowed:
                terminalreporter.write_line("no dspy report was written: nothing was built or measured", yellow=True)
            return
        from pytest_dspy_ft.report.table import render, title

        record = self._record
        writer = terminalreporter._tw
        width = writer.fullwidth if writer.hasmarkup else max(writer.fullwidth, LOG_WIDTH)
        unicode = _speaks_unicode(writer)
        for experiment in record.experiments:
            mark = " - INCOMPLETE" if record.incomplete else ""
            terminalreporter.write_sep("=", title(experiment, unicode=unicode) + mark)
            for line in render(experiment, width=width, unicode=unicode):
                for text, style in line.pieces():
                    terminalreporter.write(text, **{_COLOURS[style]: True} if style else {})
                terminalreporter.write_line("")
        for reason in record.incomplete:
            terminalreporter.write_line(f"INCOMPLETE: {reason}", red=True)
        for path, problem in self._reports.items():
            if problem:
                terminalreporter.write_line(f"dspy report {path} could not be written: {problem}", red=True)
            else:
                terminalreporter.write_line(f"dspy report: {path}")
        if self._summary_problem:
            terminalreporter.write_line(f"no step summary was written: {self._summary_problem}", red=True)
        if reporting.on_github():
            from pytest_dspy_ft.report.github import annotation_lines

            for annotation in annotation_lines(record, self._places):
                terminalreporter.write_line(annotation)

    def _show_plans(self, terminalreporter: Any) -> None:
        from pytest_dspy_ft.report.plan import render_plan

        plans = session_of(self._config).plans
        for plan in plans:
            terminalreporter.write_sep("=", f"dspy plan: {plan.experiment}")
            for line in render_plan(plan, unicode=_speaks_unicode(terminalreporter._tw)):
                terminalreporter.write_line(line)
        terminalreporter.write_line("nothing was run" if plans else "no test uses an experiment: nothing to plan")


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
