"""A record in the format that a file's name asks for.

The options import this as pytest starts, so it imports nothing before a report is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_dspy_ft.records.history import HistoryPoint
    from pytest_dspy_ft.records.run import RunRecord

REPORT_KINDS = (".json", ".md", ".html")


def complete(record: RunRecord) -> RunRecord:
    """The record with the figures of its summary filled in."""
    from pytest_dspy_ft.report.summary import summary_records

    experiments = tuple(e.model_copy(update={"summary": summary_records(e)}) for e in record.experiments)
    return record.model_copy(update={"experiments": experiments})


def rendered(record: RunRecord, path: Path, history: Sequence[HistoryPoint] = ()) -> str:
    """The text of a report of this name: ``.json``, ``.md`` or ``.html``.

    Args:
        record: A session's.
        path: Its suffix says which format.
        history: Of the store, for the page.

    Raises:
        ValueError: For any other suffix.
    """
    match path.suffix.lower():
        case ".json":
            from pytest_dspy_ft.records.run_file import record_json

            return record_json(complete(record))
        case ".md":
            from pytest_dspy_ft.report import markdown

            return markdown.render(record)
        case ".html":
            from pytest_dspy_ft.report import html

            return html.render(record, history)
        case other:
            raise ValueError(f"no report of the kind {other!r}; choices are {', '.join(REPORT_KINDS)}")
