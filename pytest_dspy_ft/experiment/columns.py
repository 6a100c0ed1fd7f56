"""Columns of tables as they were meant: spaces around names, indexes that pandas wrote, columns and rows of nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.experiment.example_id import is_blank
from pytest_dspy_ft.text import counted, listed

_UNNAMED = re.compile(r"Unnamed: \d+(\.\d+)*|__index_level_\d+__|")
"""How pandas writes and reads the name of a column that has none."""


class Columns:
    """The columns of a table, and what is mended in them.

    Args:
        header: Their names, as the file has them.
        where: The file and the line of the header, for messages.
        unit: What rows are counted in, for messages.

    Raises:
        DatasetError: Two of them have one name.
    """

    def __init__(self, header: Sequence[str], where: str, unit: str = "line") -> None:
        self._header, self._where, self._unit = list(header), where, unit
        self._names = [name.strip() for name in header]
        unnamed = [bool(_UNNAMED.fullmatch(name)) for name in self._names]
        leading = unnamed.index(False) if False in unnamed else 0
        self._index = frozenset(range(leading))
        self._empty = {i for i, none in enumerate(unnamed) if none} - self._index  # until a row fills it in
        self._blank_rows: list[int] = []
        named = [name for i, name in enumerate(self._names) if name and i not in self._index]
        if len(set(named)) < len(named):
            raise DatasetError(f"{where}: column names must be there and differ: {listed(header)}")

    def row(self, cells: Sequence[Any], line: int) -> dict[str, Any] | None:
        """A row by names of columns; None for one in which nothing stands.

        Raises:
            DatasetError: A column has values and no name.
        """
        if all(is_blank(cell) for i, cell in enumerate(cells) if i not in self._index):
            self._blank_rows.append(line)
            return None
        for i in [i for i in self._empty if not is_blank(cells[i])]:
            if not self._names[i]:
                raise DatasetError(
                    f"{self._where}: column names must be there and differ: {listed(self._header)}: column {i + 1} has "
                    f"none, and a value in {self._unit} {line}"
                )
            self._empty.remove(i)
        return {
            name: cell
            for i, (name, cell) in enumerate(zip(self._names, cells, strict=True))
            if name and i not in self._index
        }

    def mended(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """Take what no row fills in off all rows, and say what was mended."""
        said = []
        if self._index:
            said.append(f"left out the index that stands first without a name, {self._listed(self._index)}")
        if self._empty and rows:
            for row in rows:
                for i in self._empty:
                    row.pop(self._names[i], None)
            said.append(f"left out what has neither name nor values, {self._listed(self._empty)}")
        spaces = [
            f"{header!r} as {name!r}"
            for i, (header, name) in enumerate(zip(self._header, self._names, strict=True))
            if header != name and i not in self._index | self._empty
        ]
        if spaces:
            said.append(f"read {', '.join(spaces)}")
        if self._blank_rows:
            lines = ", ".join(map(str, self._blank_rows[:3])) + (", ..." if len(self._blank_rows) > 3 else "")
            said.append(
                f"left out {counted(len(self._blank_rows), 'row')} in which nothing stands ({self._unit} {lines})"
            )
        return said

    def _listed(self, columns: set[int] | frozenset[int]) -> str:
        return ", ".join(
            f"column {i + 1}" + (f" {self._names[i]!r}" if self._names[i] else "") for i in sorted(columns)
        )
