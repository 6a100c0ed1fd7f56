"""A table as HTML for notebooks: nothing is loaded, every text is escaped, and it reads on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_COLOURS = {"good": "#2a9d4a", "bad": "#e5534b", "unsure": "#b98512"}
"""In between: they are read on white as on black."""
_CELL = "padding:3px 10px;border-bottom:1px solid rgba(128,128,128,.35);vertical-align:top"


class Row(NamedTuple):
    """A row of a table."""

    cells: Sequence[str]
    style: str = ""
    """``good``, ``bad`` or ``unsure``: the colour of its last cell; empty for none."""


def html_table(title: str, head: Sequence[str], rows: Sequence[Row]) -> str:
    """A table of texts. It takes colours and fonts from the page.

    Args:
        title: What stands above it.
        head: The columns; those that begin with ``>`` are aligned to the right.
        rows: Their cells.
    """
    right = [name.startswith(">") for name in head]
    lines = [
        '<table style="border-collapse:collapse;color:inherit;background:transparent;margin:4px 0 10px">',
        f'<caption style="text-align:left;font-weight:600;padding:2px 10px;color:inherit">{escape(title)}</caption>',
        f"<thead><tr>{''.join(map(_head, head, right))}</tr></thead>",
        "<tbody>",
        *(f"<tr>{''.join(_cells(row, right))}</tr>" for row in rows),
        "</tbody></table>",
    ]
    return "\n".join(lines)


def _head(name: str, right: bool) -> str:
    return f'<th scope="col" style="{_CELL};text-align:{_side(right)}">{escape(name.removeprefix(">"))}</th>'


def _cells(row: Row, right: Sequence[bool]) -> list[str]:
    last = len(row.cells) - 1
    cells = []
    for place, (cell, to_the_right) in enumerate(zip(row.cells, right, strict=True)):
        colour = f";color:{_COLOURS[row.style]};font-weight:600" if row.style and place == last else ""
        cells.append(f'<td style="{_CELL};text-align:{_side(to_the_right)}{colour}">{escape(cell)}</td>')
    return cells


def _side(right: bool) -> str:
    return "right" if right else "left"
