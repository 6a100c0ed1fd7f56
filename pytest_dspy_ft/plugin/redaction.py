"""Keys stay out of what pytest prints and writes of a test: tracebacks, their locals, captured output and logs.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import sys

import pytest

KNOWS_KEYS = "pytest_dspy_ft.redaction"
"""Loaded before the first LM is called. A string, so that a session that uses no LM loads nothing for its reports."""


def redact_report(report: pytest.TestReport) -> None:
    """Replace every key that this process knows by ``***``, wherever the report holds one."""
    redaction = sys.modules.get(KNOWS_KEYS)
    if redaction is None:
        return  # nothing here has called an LM
    report.sections = [(name, redaction.redact(text)) for name, text in report.sections]
    if report.longrepr is None:
        return
    if isinstance(report.longrepr, tuple):  # a skip: file, line, reason
        path, line, reason = report.longrepr
        report.longrepr = (path, line, redaction.redact(reason))
        return
    shown = str(report.longrepr)
    if (clean := redaction.redact(shown)) != shown:
        report.longrepr = clean
