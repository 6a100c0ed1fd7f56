"""A clock that tests turn, a terminal that keeps what it shows, and displays that are looked at by hand."""

from __future__ import annotations

import io
import re
from typing import Any

from pytest_dspy_ft.progress.display import Display
from pytest_dspy_ft.progress.screen import Screen


class Clock:
    """Seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched(Display):
    """A display that is looked at by the test, at each second that its clock is moved by."""

    def __init__(self, *, live: bool = False, line: Any = str, **settings: Any) -> None:
        self.stream, self.clock = io.StringIO(), Clock()
        screen = Screen(self.stream, live=live, line_of_others=line)
        super().__init__(screen, clock=self.clock, beats=False, **settings)

    def pass_seconds(self, seconds: float) -> None:
        for _ in range(round(4 * seconds)):
            self.clock.now += 0.25
            self.beat()

    @property
    def lines(self) -> list[str]:
        """What stands there now."""
        return terminal(self.stream.getvalue())


def terminal(written: str) -> list[str]:
    """The rows of a terminal to which this was written; empty ones at the end left out."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\d*[A-Za-z]|\x1b.|.|\n", written, re.DOTALL):
        if part == "\n":
            row, column = row + 1, 0
            rows += [""] * (row == len(rows))
        elif part == "\r":
            column = 0
        elif part.startswith("\x1b["):
            count = int(part[2:-1] or 1)
            row -= count if part.endswith("A") else 0
            column += count if part.endswith("C") else 0
        else:
            rows[row] = rows[row].ljust(column)[:column] + part + rows[row][column + 1 :]
            column += 1
    rows = [row.rstrip() for row in rows]
    while rows and not rows[-1]:
        rows.pop()
    return rows
