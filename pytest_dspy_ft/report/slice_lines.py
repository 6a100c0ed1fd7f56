"""Slices and confusions for the terminal: a table of what was asked for, and a line on each thing that stands out."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_dspy_ft.records.run import ExperimentRecord
from pytest_dspy_ft.report.confusion import confusions
from pytest_dspy_ft.report.slices import LONGEST_NAME, SliceRow, SliceTable, slice_tables, worst_slices
from pytest_dspy_ft.report.styling import Page
from pytest_dspy_ft.report.tables import Column, fitted
from pytest_dspy_ft.text import bracket, grouped, percent

_MOST_ROWS = 12
_MOST_CELLS = 3
"""Cells of a confusion matrix that are named."""


def render_slices(record: ExperimentRecord, *, width: int = 80, unicode: bool = True) -> list[str]:
    """The tables by slice, each as compact as it can be, the worst slice, and what is most often confused.

    Args:
        record: The experiment.
        width: Columns of the terminal.
        unicode: False for a terminal that shows ASCII only.
    """
    page = Page(width, unicode)
    blocks = [_table(table, page) for table in slice_tables(record, most_rows=10_000)]
    notes = [line for text in [*worst_slices(record), *_confused(record)] for line in _wrapped(text, page)]
    return [line for block in [*blocks, notes] if block for line in ("", *block)][1:]


def _table(table: SliceTable, page: Page) -> list[str]:
    """The lowest rows of the last stage, with the scores of all stages as far as there is room."""
    rows = list(table.rows)
    if len(rows) > _MOST_ROWS:
        lowest = sorted(rows, key=_last_score)[:_MOST_ROWS]
        rows = [row for row in rows if row in lowest]
    names = [page.cut(page.clean(row.name), LONGEST_NAME) for row in rows]
    last = len(table.stages) - 1
    columns = [
        Column(page.cut(f"by {page.clean(table.by)} on {table.on}", LONGEST_NAME), names, "left"),
        Column("n", [grouped(row.n) for row in rows]),
    ]
    for place, stage in enumerate(table.stages):
        cells = [percent(cell.score) if (cell := row.cells[place]) else "" for row in rows]
        levels = range(place + 1) if place < last else range(last + 2)
        columns.append(Column(page.clean(stage), cells, levels=levels))
    intervals = [bracket(cell.interval) if (cell := row.cells[last]) else "" for row in rows]
    columns.append(Column("95% CI", intervals, levels=range(last + 1)))
    lines, level = fitted(columns, page.width, last + 1)
    gone = [*table.stages[: min(level, last)], *(["95% CI"] if level > last else [])]
    if gone:
        lines += page.wrapped(f"(no room: {', '.join(map(page.clean, gone))})")
    if len(rows) < len(table.rows):
        lines += page.wrapped(f"(the {len(rows)} lowest of {len(table.rows)} slices; reports hold more)")
    return lines


def _last_score(row: SliceRow) -> float:
    cell = row.cells[-1]
    return 2.0 if cell is None else cell.score


def _confused(record: ExperimentRecord) -> Iterator[str]:
    """The largest cells off the diagonal of each matrix of the latest stage; reports hold those below it as well."""
    latest = {(matrix.by, matrix.on): matrix for matrix in confusions(record)}
    for matrix in latest.values():
        cells = [
            f"{label} → {answer} {matrix.count(label, answer)} of {matrix.total(label)}"
            for label, answer in matrix.confused[:_MOST_CELLS]
        ]
        more = sum(matrix.count(*cell) for cell in matrix.confused[_MOST_CELLS:])
        if cells:
            rest = f", {more} more" if more else ""
            yield f"{matrix.by} of {matrix.on} confused by {matrix.stage}: {', '.join(cells)}{rest}"


def _wrapped(text: str, page: Page) -> list[str]:
    return page.wrapped(page.clean(text), subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
