"""Pieces of work as they are told: what is done, how far it is, how long it took and still takes, in one line."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

from pytest_dspy_ft.text import duration, one_line, shorten

ESTIMATED_FROM = 0.05
"""Before this share is done, how long it still takes would be a guess: answers come in batches, models load first."""
NOTE_LENGTH = 200

Ending = Literal["done", "failed", "interrupted"]


@dataclass
class ShownWork:
    """One piece of work: what was told of it last."""

    title: str
    total: float | None
    unit: str
    kept: bool
    """A line stays when it is done."""
    began: float
    """When it began, by the clock of whoever shows it."""
    due: float
    """When the next line about it is due, where lines are written."""
    done: float = 0
    note: str = ""

    def tell(self, done: float, total: float | None, note: str) -> None:
        """Note how far it is."""
        self.done, self.note = done, note
        self.total = total if total is not None else self.total

    def status(self, now: float) -> str:
        """It is under way: how far, what is going on, how long it took and may still take."""
        elapsed = now - self.began
        timing = duration(elapsed)
        if self.total and ESTIMATED_FROM * self.total <= self.done < self.total:
            timing += f", about {duration(elapsed * (self.total - self.done) / self.done)} left"
        return self._line(self._rate(elapsed), timing)

    def outcome(self, now: float, ending: Ending) -> str:
        """It is over: how far it came, what came out, how long it took."""
        elapsed = now - self.began
        words = {"done": "took", "failed": "failed after", "interrupted": "interrupted after"}
        return self._line(self._rate(elapsed) if ending == "done" else "", f"{words[ending]} {duration(elapsed)}")

    def _line(self, rate: str, timing: str) -> str:
        parts = [self.title]
        if self.unit:
            count = f"{self.done:g}/{self.total:g}" if self.total else f"{self.done:g}"
            parts.append(f"{count} {self.unit}{rate}")
        note = shorten(one_line(self.note), NOTE_LENGTH, mark="...")
        return one_line(" - ".join([*parts, timing, *([note] if note else [])]))

    def _rate(self, elapsed: float) -> str:
        """How fast it goes, where that can be told."""
        if not self.total or not self.done or elapsed <= 0 or self.done < ESTIMATED_FROM * self.total:
            return ""
        rate = self.done / elapsed
        return f" ({rate:.1f}/s)" if rate >= 1 else f" ({duration(1 / rate)} each)"


def columns(text: str) -> int:
    """The columns of a terminal that a text takes: East Asian characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def fitted(text: str, width: int) -> str:
    """The text, cut off where it would not fit into so many columns."""
    if columns(text) <= width:
        return text
    while columns(text) > width - 3:
        text = text[:-1]
    return f"{text}..."
