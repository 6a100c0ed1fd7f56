"""What is known of vendors, with the day it was known: context lengths and closing dates.

Nothing here is asked of a server: a compatible server at an address of its own is bound by none of it but the length of
a model's context, and a model that no table knows is taken as it comes.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from pytest_dspy_ft.finetune.hosted.clients import Access, bare_model

KNOWN_ON = datetime.date(2026, 11, 24)
"""The day on which the tables below were right."""

TRAINING_CONTEXT = {
    "gpt-4o": 65_536,
    "gpt-4o-mini": 65_536,
    "gpt-4.1": 65_536,
    "gpt-4.1-mini": 65_536,
    "gpt-4.1-nano": 65_536,
    "gpt-3.5-turbo": 16_385,
    "gpt-35-turbo": 16_385,
}
"""Tokens of one training example, by model family (OpenAI's and Azure's fine-tuning guides); longer ones are cut."""


@dataclass(frozen=True)
class Closing:
    """A day from which something is no longer to be had."""

    families: tuple[str, ...]
    """Models it holds for; empty: all."""
    day: datetime.date
    what: str


NO_NEW_JOBS = (Closing((), datetime.date(2027, 1, 6), "OpenAI takes no new fine-tuning jobs from anyone"),)
NO_ANSWERS = (
    Closing(
        ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano"),
        datetime.date(2027, 1, 14),
        "fine-tunes of gpt-4o, gpt-4o-mini and gpt-4.1 stop answering",
    ),
)


def family(model: str) -> str | None:
    """The family of a model that the tables know: ``openai/ft:gpt-4o-mini-2024-07-18:org::id`` is of gpt-4o-mini."""
    name = bare_model(model).removeprefix("ft:").partition(":")[0]
    known = [f for f in TRAINING_CONTEXT if name == f or name.startswith((f + "-", f + "."))]
    return max(known, key=len, default=None)


def training_context(model: str) -> int | None:
    """How many tokens one training example may have; None where it is not known."""
    found = family(model)
    return None if found is None else TRAINING_CONTEXT[found]


def reason_closed(model: str, access: Access, today: datetime.date) -> str | None:
    """Why no new job can be started, or None."""
    if not access.official:
        return None
    for closing in (*NO_NEW_JOBS, *NO_ANSWERS):
        if _applies_to(closing, model) and today >= closing.day:
            return (
                f"since {closing.day} {closing.what} (as known on {KNOWN_ON}); train on Azure (azure/...), on a "
                "compatible server (OPENAI_BASE_URL), or on this machine (--dspy-lm=local)"
            )
    return None


def closing_soon(model: str, access: Access, today: datetime.date, days: int = 60) -> str | None:
    """A word of warning where a model about to be paid for will not answer for long, or None."""
    if not access.official:
        return None
    for closing in NO_ANSWERS:
        left = (closing.day - today).days
        if _applies_to(closing, model) and 0 < left <= days:
            return f"on {closing.day}, in {left} days, {closing.what} (as known on {KNOWN_ON})"
    return None


def _applies_to(closing: Closing, model: str) -> bool:
    return not closing.families or family(model) in closing.families
