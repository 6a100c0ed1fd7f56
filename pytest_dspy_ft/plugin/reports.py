"""At a session's end: the files that were asked for, and what GitHub Actions shows.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_dspy_ft.records.history import HistoryPoint
    from pytest_dspy_ft.records.run import RunRecord
    from pytest_dspy_ft.report.github import Place


def write_reports(record: RunRecord, paths: Sequence[Path], history: Sequence[HistoryPoint] = ()) -> dict[Path, str]:
    """Write every report; one that cannot be written does not keep the others from it.

    Args:
        record: The session's.
        paths: Of the reports.
        history: What the page shows of earlier sessions.

    Returns:
        For each path why it could not be written; empty where it was.
    """
    from pytest_dspy_ft.files import write_atomically
    from pytest_dspy_ft.report.formats import rendered

    problems = {}
    for path in paths:
        try:
            write_atomically(path, rendered(record, path, history))
            problems[path] = ""
        except OSError as error:
            problems[path] = error.strerror or str(error)
    return problems


def add_step_summary(record: RunRecord) -> str:
    """Put the tables on the page of the workflow's run; gives why it could not, or nothing."""
    from pytest_dspy_ft.report.github import add_to_summary
    from pytest_dspy_ft.report.markdown import render

    return add_to_summary(render(record))


def place_of(config: pytest.Config, location: tuple[str, int | None, str]) -> Place:
    """Where a test stands, as GitHub wants it: seen from the repository's root, lines counted from 1."""
    path = config.rootpath / location[0]
    workspace = Path(os.environ.get("GITHUB_WORKSPACE") or config.rootpath)
    try:
        path = path.resolve().relative_to(workspace.resolve())
    except ValueError:
        path = Path(location[0])
    return path.as_posix(), (location[1] or 0) + 1


def check_writable(reports: Sequence[Path]) -> None:
    """Find out that a report cannot be written before anything is spent on what it is to say.

    Raises:
        pytest.UsageError: If a path is a folder, or its folder can neither be written nor made.
    """
    for path in reports:
        if path.is_dir():
            raise pytest.UsageError(f"--dspy-report={path}: that is a folder; name a file in it")
        folder = next(parent for parent in path.parents if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise pytest.UsageError(f"--dspy-report={path}: cannot write to {folder}: {error.strerror}") from None
