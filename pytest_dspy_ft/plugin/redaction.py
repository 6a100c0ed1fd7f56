"""Keys stay out of what pytest prints and writes: tracebacks, their locals, captured output, logs and warnings.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import warnings

import pytest

from pytest_dspy_ft.plugin.compat import plain_longrepr

KNOWS_KEYS = "pytest_dspy_ft.redaction"
"""Loaded before the first LM is called. A string, so that a session that uses no LM loads nothing for its reports."""


def redact_report(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Replace every key that this process knows by ``***``, wherever the report holds one."""
    redaction = sys.modules.get(KNOWS_KEYS)
    if redaction is None:
        return  # nothing here has called an LM
    report.sections = [(name, redaction.redact(text)) for name, text in report.sections]
    if isinstance(report, pytest.TestReport):  # what tests note for JUnit
        properties = [(name, redaction.redact(v) if isinstance(v, str) else v) for name, v in report.user_properties]
        report.user_properties = properties
    if report.longrepr is None:
        return
    if isinstance(report.longrepr, tuple):  # a skip: file, line, reason
        path, line, reason = report.longrepr
        report.longrepr = (path, line, redaction.redact(reason))
        return
    shown = str(report.longrepr)
    crash = getattr(report.longrepr, "reprcrash", None)
    headline = redaction.redact(crash.message) if crash is not None else ""
    if (clean := redaction.redact(shown)) != shown:
        report.longrepr = clean if crash is None else plain_longrepr(crash.path, crash.lineno, headline, clean)
    elif crash is not None:
        crash.message = headline


def redact_warning(warning: warnings.WarningMessage) -> None:
    """Replace every key in a warning, and in the line of source that stands below it, for the summary of warnings."""
    redaction = sys.modules.get(KNOWS_KEYS)
    if redaction is None:
        return
    said = str(warning.message)
    if (clean := redaction.redact(said)) != said:
        warning.message = _same_kind(warning.message, clean)
    line = warning.line if warning.line is not None else linecache.getline(warning.filename, warning.lineno)
    if (clean := redaction.redact(line)) != line:
        warning.line = clean


def _same_kind(message: Warning | str, clean: str) -> Warning:
    """A warning of the same class with another text; a plain one where the class says its text in a way of its own."""
    kind = type(message) if isinstance(message, Warning) else UserWarning
    other = kind.__new__(kind, clean)
    with contextlib.suppress(Exception):
        if str(other) == clean:
            return other
    return UserWarning(clean)
