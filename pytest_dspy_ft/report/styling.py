"""Lines of a report that know which parts of them mean something good or bad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

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
