"""Tables as lines of text: columns side by side, given up one after the other where they are too wide."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

from tabulate import tabulate

Align = Literal["left", "right"]


class Column(NamedTuple):
    """A column of a table."""

    header: str
    cells: Sequence[str]
    align: Align = "right"
    levels: range = range(sys.maxsize)
    """At which levels of narrowness it is shown: 0 where there is room for everything."""


def laid_out(columns: Sequence[Column], level: int = 0) -> list[str]:
    """The lines of a table, its header first, with the columns that are shown at a level of narrowness."""
    shown = [column for column in columns if level in column.levels]
    # The headers go in as a row: as headers, tabulate would widen every column by two more spaces.
    text = tabulate(
        list(zip(*([column.header, *column.cells] for column in shown), strict=True)),
        tablefmt="plain",
        disable_numparse=True,
        colalign=[column.align for column in shown],
    )
    return [line.rstrip() for line in text.splitlines()]


def fitted(columns: Sequence[Column], width: int, narrowest: int) -> tuple[list[str], int]:
    """The lines of a table at the first level of narrowness at which they fit, or else at the last.

    Args:
        columns: The columns.
        width: How long a line may be.
        narrowest: The last level.

    Returns:
        (lines, level).
    """
    for level in range(narrowest + 1):
        lines = laid_out(columns, level)
        if max(map(len, lines)) <= width:
            break
    return lines, level
