"""Text for messages: near misses, and values on one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable


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


def one_line(text: str, length: int = 200) -> str:
    """The text on one line of printable characters, its end cut off where it is longer than ``length`` characters."""
    line = "".join(c if c.isprintable() else " " for c in text[: 4 * length])
    line = " ".join(line.split())
    return line if len(line) <= length and len(text) <= 4 * length else f"{line[: length - 3]}..."
