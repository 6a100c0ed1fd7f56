"""Points of histories for tests."""

from __future__ import annotations

from typing import Any

from pytest_dspy_ft.records.history import HistoryPoint


def point(score: float = 0.8, day: int = 1, **changes: Any) -> HistoryPoint:
    """A stage's score on one day of November."""
    values: dict[str, Any] = {
        "created": f"2026-11-{day:02d}T10:00:00+00:00",
        "commit": f"{day:040x}",
        "dirty": False,
        "experiment": "tickets",
        "stage": "finetuned",
        "on": "dev",
        "key": "k",
        "build": "b",
        "lm": "toy/lm",
        "base": "toy/lm",
        "metric": "m",
        "data": "d",
        "n": 100,
        "score": score,
        "interval": (max(score - 0.1, 0.0), min(score + 0.1, 1.0)),
    }
    return HistoryPoint(**{**values, **changes})
