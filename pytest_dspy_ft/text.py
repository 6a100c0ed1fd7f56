"""Words for messages: names in a row, near misses, values cut short and made safe to show, numbers, durations.

Text from a model, a dataset or a user is made safe in one of four ways before it is shown:

=================== =============================================== ===========================================
:func:`visible`     control characters escaped, nothing lost        values inside a message, where each counts
:func:`one_line`    escapes and control characters dropped          names and notes in tables and reports
:func:`short_line`  control characters as spaces, the end cut off   fields, replies and errors in a message
:func:`shown`       line breaks kept, all else written out          whole texts in HTML and Markdown
=================== =============================================== ===========================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

LINE = 100
"""Characters of a line in a notebook: what a ``repr`` takes at most."""


def well_formed(text: str) -> str:
    """The text with U+FFFD for every lone surrogate, for what takes UTF-8 only; two that belong together are joined."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def listed(names: Iterable[object]) -> str:
    """The first dozen names in parentheses."""
    names = list(names)
    shown = [visible(str(name)) for name in names[:12]] + ["..."] * (len(names) > 12)
    return f"({', '.join(shown)})"


def closest(name: str, choices: Iterable[str], most: int = 1) -> list[str]:
    """The choices that a misspelt name may have meant, the likeliest first; empty if none is near."""
    from difflib import get_close_matches

    return get_close_matches(name, list(choices), n=most)


def did_you_mean(name: str, choices: Iterable[str], *, most: int = 1, quoted: Callable[[str], str] = repr) -> str:
    """The end of a sentence about a misspelt name.

    Args:
        name: What was written.
        choices: What could have been.
        most: How many of the nearest choices to offer.
        quoted: How a choice is written.

    Returns:
        ``; did you mean 'dev'?``, or nothing if no choice is near.
    """
    near = closest(name, choices, most)
    return f"; did you mean {' or '.join(map(quoted, near))}?" if near else ""


def shorten(text: str, limit: int, *, mark: str = "…", keep_end: int = 0) -> str:
    """The text, at most so many characters long.

    Args:
        text: The text, as it is to be shown.
        limit: The most characters, the mark included.
        mark: Stands for what was left out.
        keep_end: So many characters of the end are kept, so that the middle is left out.
    """
    if len(text) <= limit:
        return text
    return text[: limit - len(mark) - keep_end] + mark + (text[-keep_end:] if keep_end else "")


def excerpt(value: Any, length: int = 120) -> str:
    """A JSON value on one line, its middle left out when it is long."""
    return shorten(visible(json.dumps(value, ensure_ascii=False)), length, mark=" ... ", keep_end=25)


def visible(text: str) -> str:
    """The text with control characters escaped, so that data cannot drive the terminal it is shown on."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def duration(seconds: float) -> str:
    """A time as people say it: ``0.8 s``, ``41 s``, ``2 min 41 s``, ``1 h 02 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def grouped(number: float | None) -> str:
    """A whole number with its thousands apart: ``1 904``; ``?`` where nobody knows it."""
    return "?" if number is None else f"{number:,.0f}".replace(",", " ")


def counted(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``, ``3 entries``."""
    plural = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{grouped(number)} {noun if number == 1 else plural}"


_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])?")

_ASCII = str.maketrans(
    {"·": "-", "…": "...", "≥": ">=", "≤": "<=", "≠": "!=", "×": "x", "–": "-", "—": "-", "−": "-", "→": "->"}
    | {"‘": "'", "’": "'", "“": '"', "”": '"'}
)


def one_line(text: str) -> str:
    """The text on one line, without anything that drives a terminal: escapes, control and direction characters."""
    text = " ".join(_ANSI.sub("", text).split())
    return "".join(c for c in text if c.isprintable())


def short_line(text: str, length: int = 200) -> str:
    """The text on one line of printable characters, its end cut off where it is longer than ``length`` characters."""
    line = "".join(c if c.isprintable() else " " for c in text[: 4 * length])
    line = " ".join(line.split())
    return line if len(line) <= length and len(text) <= 4 * length else f"{line[: length - 3]}..."


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


def gate_title(expression: str, by: str | None) -> str:
    """A gate as it is named everywhere: its expression, and what it is sliced by."""
    return f"{expression} by {by}" if by else expression


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
