"""What GitHub Actions understands: annotations at the line of the test whose gate failed, and the page of a run.

The format is that of workflow commands: ``::error file=F,line=L,title=T::MESSAGE``, special characters percent-encoded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dspy_ft.text import shown

if TYPE_CHECKING:
    from pytest_dspy_ft.records.run import RunRecord

LONGEST = 4000

Place = tuple[str, int]
"""A file, as seen from the repository's root, and a line in it, counted from 1."""


def on_github() -> bool:
    """True in GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def add_to_summary(text: str) -> str:
    """Put Markdown on the page of the workflow's run; gives why it could not, or nothing."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return ""
    try:
        with Path(path).open("a", encoding="utf-8") as stream:  # earlier steps' commands may have written to it
            stream.write(text + "\n")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def warning_line(title: str, message: str) -> str:
    """A warning that the page of the workflow's run shows."""
    return _command("warning", title, message)


def annotation_lines(record: RunRecord, places: Mapping[str, Place]) -> list[str]:
    """A line for each failed gate, each stage that could not be built, each regression, each reason for doubt.

    Args:
        record: The session.
        places: Where each test stands, by node id; a gate whose test is not among them gets no place.
    """
    from pytest_dspy_ft.report.changes import explain_comparison, headline
    from pytest_dspy_ft.report.summary import cautions

    lines = []
    for experiment in record.experiments:
        for build in experiment.stages:
            if build.status == "failed":
                lines.append(_command("error", f"{experiment.name}: stage {build.stage} failed", build.reason))
        for verdict in experiment.verdicts:
            if not verdict.passed:
                title = f"{verdict.title} on {verdict.on}: {verdict.observed}"
                lines.append(_command("error", title, verdict.message or title, places.get(verdict.test)))
        if experiment.comparison is not None and not experiment.comparison.passed:
            title = f"{experiment.name}: {headline(experiment.comparison)}"
            lines.append(_command("error", title, explain_comparison(experiment)))
        lines += [warning_line(f"dspy: {experiment.name}", text) for text in cautions(experiment)]
    return lines


def _command(name: str, title: str, message: str, place: Place | None = None) -> str:
    properties = {"file": place[0], "line": str(place[1])} if place else {}
    properties["title"] = shown(title)[:200]
    text = shown(message)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return f"::{name} {','.join(f'{k}={_property(v)}' for k, v in properties.items())}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
