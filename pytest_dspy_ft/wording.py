"""Words for messages: names in a row, near misses, values cut short and made safe to show, counts, durations."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

DEFAULT_STORE = ".dspy_ft"
"""The folder of stages and results, where the user names no other."""


def listed(names: Iterable[object]) -> str:
    """The first dozen names in parentheses."""
    names = list(names)
    shown = [visible(str(name)) for name in names[:12]] + ["..."] * (len(names) > 12)
    return f"({', '.join(shown)})"


def meant(name: str, choices: Iterable[str]) -> str:
    """The end of a sentence that asks whether one of the choices was meant; empty if none is near."""
    near = difflib.get_close_matches(name, list(choices))
    return f"; did you mean {' or '.join(repr(choice) for choice in near)}?" if near else ""


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


def grouped(number: float) -> str:
    """A whole number with its thousands apart: ``1 904``."""
    return f"{number:,.0f}".replace(",", " ")


def counted(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``, ``3 entries``."""
    plural = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{grouped(number)} {noun if number == 1 else plural}"
