"""How reports write things down: text made harmless, numbers as people read them, lines that know their colours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from pytest_dspy_ft.wording import counted as counted
from pytest_dspy_ft.wording import grouped as grouped

Style = Literal["good", "bad", "unsure"]
"""What a part of a line means; whoever shows it picks the colour."""

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])?")
_ASCII = str.maketrans(
    {"·": "-", "…": "...", "≥": ">=", "≤": "<=", "≠": "!=", "×": "x", "–": "-", "—": "-", "−": "-", "→": "->"}
    | {"‘": "'", "’": "'", "“": '"', "”": '"'}
)


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


def one_line(text: str) -> str:
    """The text on one line, without anything that drives a terminal: escapes, control and direction characters."""
    text = " ".join(_ANSI.sub("", text).split())
    return "".join(c for c in text if c.isprintable())


def first_line(text: str) -> str:
    """The first line that says something, by :func:`one_line`."""
    return next(filter(None, map(one_line, text.splitlines())), "")


def shown(text: str) -> str:
    """The text with its line breaks and tabs, every other character that would not be seen written out.

    What a model wrote may hold characters that turn the reading direction or drive a terminal: ``⟨U+202E⟩``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else f"⟨U+{ord(c):04X}⟩" for c in text.replace("\r\n", "\n"))


def ascii_only(text: str) -> str:
    """The text for a terminal that shows ASCII only."""
    return text.translate(_ASCII).encode("ascii", "replace").decode()


def points(share: float) -> float:
    """The share in percentage points, to the one decimal shown; never a negative zero."""
    return round(100 * share, 1) or 0.0


def percent(share: float) -> str:
    """A score as it is written everywhere: ``88.3%``."""
    return f"{100 * share:.1f}%"


def bracket(interval: tuple[float, float], sign: str = "") -> str:
    """An interval in points: ``[77.8, 94.2]``."""
    low, high = interval
    return f"[{points(low):{sign}.1f}, {points(high):{sign}.1f}]"


def price(cost: float | None, calls: int = 1000) -> str:
    """Dollars for so many calls; what is small but not nothing does not read ``0.00``."""
    if cost is None:
        return "?"
    dollars = calls * cost
    if 0 < dollars < 0.0001:
        return "<0.0001"
    return f"{dollars:,.2f}".replace(",", " ") if dollars == 0 or dollars >= 0.01 else f"{dollars:.4f}"
