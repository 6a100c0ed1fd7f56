"""The page that a report is written on, and lines that know which parts of them mean something good or bad."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from pytest_dspy_ft.text import ascii_only, one_line

Style = Literal["good", "bad", "unsure"]
"""What a part of a line means; whoever shows it picks the colour."""


class Span(NamedTuple):
    """A part of a line that means something."""

    start: int
    stop: int
    style: Style


class Line(str):
    """A line of text that knows which parts of it mean something good or bad; as text it is plain."""

    __slots__ = ("spans",)
    spans: tuple[Span, ...]

    def __new__(cls, text: str, spans: Sequence[Span] = ()) -> Self:
        """A line of this text; the spans must not overlap."""
        line = super().__new__(cls, text)
        line.spans = tuple(spans)
        return line

    def pieces(self) -> list[tuple[str, Style | None]]:
        """The line cut where its meaning changes; the pieces put together are the line."""
        pieces: list[tuple[str, Style | None]] = []
        done = 0
        for span in sorted(self.spans):
            pieces += [(self[done : span.start], None), (self[span.start : span.stop], span.style)]
            done = span.stop
        pieces.append((self[done:], None))
        return [(str(text), style) for text, style in pieces if text]


@dataclass(frozen=True)
class Page:
    """The page that text is written on."""

    width: int = 80
    unicode: bool = True

    def clean(self, text: str) -> str:
        """The text on one line, by :func:`~pytest_dspy_ft.text.one_line`, as far as this page can show it."""
        return self.plain(one_line(text))

    def plain(self, text: str) -> str:
        """The text as far as this page can show it."""
        return text if self.unicode else ascii_only(text)

    def cut(self, text: str, width: int) -> str:
        """The text; an ellipsis stands for its end where it is longer than ``width``."""
        dots = self.plain("…")
        return text if len(text) <= width else text[: max(width - len(dots), 0)].rstrip() + dots

    def joined(self, parts: Iterable[str], separator: str) -> list[str]:
        """The parts on as few lines as they fit on, broken only between parts."""
        separator = self.plain(separator)
        lines: list[str] = []
        for part in parts:
            if lines and len(lines[-1]) + len(separator) + len(part) <= self.width:
                lines[-1] += separator + part
            else:
                lines.append(self.cut(part, self.width))
        return lines

    def wrapped(self, text: str, **options: Any) -> list[str]:
        """The text on as many lines as it takes, by :func:`textwrap.wrap`; no line is kept below 40."""
        return textwrap.wrap(text, max(self.width, 40), **options)

    def overhang(self, lines: Iterable[str]) -> int:
        """By how much the longest line is wider than the page; negative where there is room."""
        return max(map(len, lines)) - self.width
