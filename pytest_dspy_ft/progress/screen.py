"""The stream that progress is written to, shared with others: a line that comes and goes, and lines that stay."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TextIO

from pytest_dspy_ft.progress.work import columns, fitted

WIDTH = 80
"""Columns of a terminal that does not say how many it has."""


class Screen:
    """A stream that others write to as well, pytest for one; not safe for threads by itself.

    Args:
        stream: Where to write. It should bypass whatever captures output.
        live: It is a terminal that can take back a line. Else nothing is written but whole lines of text.
        line_of_others: Gives what others have written on the line that they are at; empty at its beginning.
    """

    def __init__(self, stream: TextIO, *, live: bool, line_of_others: Callable[[], str] = str) -> None:
        self.live = live
        self._stream = stream
        self._line_of_others = line_of_others
        self._shown = ""
        """The line that is shown now and will be taken back."""
        self._left = ""
        """The line of others that was left unfinished."""
        self._is_below = False
        """Nothing that stays was written since."""

    def show(self, text: str) -> None:
        """Show a line in place of the last one that was shown; on a terminal only."""
        text = fitted(text, self._width() - 1)
        if text == self._shown:
            return
        start = "" if self._shown else self._leave()
        blanks = " " * (columns(self._shown) - columns(text))
        self._write(f"{start}\r{text}{blanks}")
        self._shown = text

    def say(self, text: str) -> None:
        """Write a line that stays."""
        erased = self._erase()
        self._write(f"{erased}{self._leave()}{text}\n")
        self._is_below = False

    def clear(self) -> None:
        """Take back the line that is shown."""
        if erased := self._erase():
            self._write(erased)

    def hand_over(self, text: str) -> None:
        """Let others go on where they were, who are about to write a text."""
        erased = self._erase()
        if self._left:
            if self._is_below and self.live:
                width = self._width()
                erased += f"\x1b[A\r\x1b[{(columns(self._left) - 1) % width + 1}C"
            elif not text.startswith(("\n", "\r")):
                erased += _again(self._left)
            self._left = ""
        if erased:
            self._write(erased)

    def _erase(self) -> str:
        """What takes back the line that is shown."""
        blanks = columns(self._shown)
        self._shown = ""
        return f"\r{' ' * blanks}\r" if blanks else ""

    def _leave(self) -> str:
        """What goes to a line of our own, away from one that others have begun."""
        if self._left or not (line := self._line_of_others()):
            return ""
        self._left, self._is_below = line, True
        return "\n"

    def _width(self) -> int:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            return os.get_terminal_size(self._stream.fileno()).columns or WIDTH
        return WIDTH

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone is no reason to fail
            self._stream.write(text)
            self._stream.flush()


def _again(line: str) -> str:
    """An unfinished line once more, on a line of its own: what it is about, and blanks for what followed."""
    return line if line.endswith(" ") else line[: line.find(" ") + 1].ljust(len(line))
