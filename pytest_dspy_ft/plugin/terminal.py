"""What the user sees in the terminal at the end: a table for each experiment.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dspy_ft.plugin.compare import compared_baseline
from pytest_dspy_ft.plugin.compat import terminal_encoding, terminal_width
from pytest_dspy_ft.plugin.history import known_history
from pytest_dspy_ft.plugin.plan import plans_of
from pytest_dspy_ft.plugin.reports import add_step_summary, place_of, write_reports
from pytest_dspy_ft.plugin.rescore import rescored_of
from pytest_dspy_ft.plugin.session import session_of
from pytest_dspy_ft.report.github import on_github

if TYPE_CHECKING:
    from pytest_dspy_ft.plugin.failures import FailuresOnce
    from pytest_dspy_ft.records.run import RunRecord
    from pytest_dspy_ft.report.github import Place

RECORDS = "dspy_ft_records"
"""Attribute of a test report that carries records, as text, from the process that ran the test."""

_COLOURS = {"good": "green", "bad": "red", "unsure": "yellow"}

LOG_WIDTH = 132
"""Columns that a table may take where output is not a terminal: a log scrolls, and loses nothing."""


_ALSO_CAUTIONS = ("MeasurementWarning", "DatasetWarning", "SplitWarning")
"""Warnings whose text also stands below the figures that it is about."""


class Reporter:
    """Gathers the records of all processes and shows them; registered only in the process the user looks at.

    Args:
        config: Of the session.
        failures: What the failures of tests have said.
    """

    def __init__(self, config: pytest.Config, failures: FailuresOnce) -> None:
        self._config = config
        self._failures = failures
        self._session = session_of(config)
        self._places: dict[str, Place] = {}
        self._reports: dict[Path, str] = {}
        self._summary_problem = ""
        self._record: RunRecord | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the records that came with a report, from this process or from a worker."""
        if (packed := getattr(report, RECORDS, None)) is not None:
            self._session.records.unpack(packed)
            if report.failed and on_github():
                self._places[report.nodeid] = place_of(self._config, report.location)

    def pytest_keyboard_interrupt(self) -> None:
        """An interrupted session has no complete table."""
        self._session.records.note_incomplete("interrupted; what was not reported by then is missing above")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports, with or without a terminal; where one cannot be written, that is no success."""
        if not self._session.in_use or self._session.options.instead:
            return
        options = self._session.options
        with self._session.progress.passing("writing reports"):
            self._record = self._session.records.run()
            self._say_cautions_once(self._record)
            self._reports = write_reports(self._record, options.reports, known_history(options))
            if on_github():
                self._summary_problem = add_step_summary(self._record)
        if any(self._reports.values()) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _say_cautions_once(self, record: RunRecord) -> None:
        """Leave out of the summary of warnings the doubts that stand below the figures that they are about."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None:
            return
        from pytest_dspy_ft.report.summary import cautions

        said = [re.escape(text) for experiment in record.experiments for text in cautions(experiment)]
        if not said:
            return
        repeated = re.compile(rf": (?:{'|'.join(_ALSO_CAUTIONS)}): (?:{'|'.join(said)})")
        shown = terminal.stats.get("warnings", [])
        shown[:] = [warning for warning in shown if not repeated.search(warning.message)]
        if not shown:
            terminal.stats.pop("warnings", None)

    def pytest_report_header(self) -> list[str]:
        """Say which of two options counts."""
        options = self._session.options
        both = options.stop_early is not None and options.compare is not None
        return ["dspy: nothing ends early: --dspy-compare needs every example"] if both else []

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the table of each experiment, also when stages failed or were skipped; or the plans, if asked for."""
        if self._session.options.plan:
            self._show_plans(terminalreporter)
            return
        if self._session.options.rescore:
            self._show_rescored(terminalreporter)
            return
        if self._record is not None:
            self._show(terminalreporter, self._record)
        elif self._session.options.reports and self._session.reach.is_known:
            terminalreporter.write_line("no dspy report was written: nothing was built or measured", yellow=True)
        baseline = compared_baseline(self._config)
        for line in baseline.not_compared() if baseline is not None else ():
            terminalreporter.write_line(line, yellow=True)

    def _show(self, terminalreporter: Any, record: RunRecord) -> None:
        from pytest_dspy_ft.report.table import render, title

        width, is_terminal = terminal_width(terminalreporter)
        width = width if is_terminal else max(width, LOG_WIDTH)
        unicode = _speaks_unicode(terminalreporter)
        for experiment in record.experiments:
            told = self._failures.stages(experiment.name)
            mark = " - INCOMPLETE" if record.incomplete else ""
            terminalreporter.write_sep("=", title(experiment, unicode=unicode) + mark)
            for line in render(experiment, width=width, unicode=unicode, told=told):
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
        if on_github():
            from pytest_dspy_ft.report.github import annotation_lines

            for annotation in annotation_lines(record, self._places):
                terminalreporter.write_line(annotation)

    def _show_plans(self, terminalreporter: Any) -> None:
        from pytest_dspy_ft.report.plan import render_plan

        plans = plans_of(self._config)
        for plan in plans:
            terminalreporter.write_sep("=", f"dspy plan: {plan.experiment}")
            for line in render_plan(plan, unicode=_speaks_unicode(terminalreporter)):
                terminalreporter.write_line(line)
        terminalreporter.write_line("nothing was run" if plans else "no test uses an experiment: nothing to plan")

    def _show_rescored(self, terminalreporter: Any) -> None:
        from pytest_dspy_ft.report.rescored import render_rescored

        found = rescored_of(self._config)
        for experiment, rows in found.items():
            terminalreporter.write_sep("=", f"dspy rescore: {experiment}")
            for line in render_rescored(rows):
                terminalreporter.write_line(line)
        if not found:
            terminalreporter.write_line("no test uses an experiment: nothing to score")


def _speaks_unicode(terminalreporter: Any) -> bool:
    try:
        "·≥✓".encode(terminal_encoding(terminalreporter))
    except (LookupError, UnicodeEncodeError):
        return False
    return True
