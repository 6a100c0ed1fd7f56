"""What is known of OpenAI's and Azure's models: context lengths, and the days from which something is not to be had.

The service is asked for its dates first; the tables here, with the day on which they were right, stand in where it
gives none. A compatible server at an address of its own is bound by none of them but the length of a model's context,
and a model that no table knows is taken as it comes.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_dspy_ft.constants import DOCUMENTATION
from pytest_dspy_ft.finetune.hosted.job_request import MINIMUM_ROWS
from pytest_dspy_ft.finetune.hosted.openai_api.access import Access, bare_model
from pytest_dspy_ft.finetune.hosted.openai_api.replies import read_date
from pytest_dspy_ft.finetune.hosted.port import ServiceLimits

KNOWN_ON = datetime.date(2026, 11, 30)
"""The day on which the tables below were right."""
WARNED_DAYS = 60
"""So many days before a model stops answering it is said."""

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
ELSEWHERE = (
    "train on this machine (--dspy-lm=local) or at a service of another vendor: "
    f"{DOCUMENTATION}how-to/moving-off-openai.html"
)


@dataclass(frozen=True)
class Closing:
    """A day from which something is no longer to be had."""

    families: tuple[str, ...]
    """Models it holds for; empty: all."""
    day: datetime.date
    what: str
    certain: bool = True
    """False where it is the first day on which that may be so: it is warned of, and the service decides."""


_GPT_4O = ("gpt-4o", "gpt-4o-mini")
_GPT_41 = ("gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano")

NO_NEW_JOBS: Mapping[str, tuple[Closing, ...]] = {
    "openai": (Closing((), datetime.date(2027, 1, 6), "OpenAI takes no new fine-tuning jobs from anyone"),),
    "azure": (
        Closing(_GPT_4O, datetime.date(2027, 4, 1), "Azure may end fine-tuning of gpt-4o and gpt-4o-mini", False),
        Closing(_GPT_41, datetime.date(2027, 4, 14), "Azure may end fine-tuning of gpt-4.1", False),
    ),
}
NO_ANSWERS: Mapping[str, tuple[Closing, ...]] = {
    "openai": (
        Closing(
            ("gpt-4.1-nano", "gpt-3.5-turbo", "o4-mini"),
            datetime.date(2026, 10, 23),
            "fine-tunes of gpt-4.1-nano, gpt-3.5-turbo and o4-mini do not answer any more",
        ),
        Closing(
            ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini"),
            datetime.date(2027, 1, 14),
            "fine-tunes of gpt-4o, gpt-4o-mini and gpt-4.1 stop answering",
        ),
    ),
    "azure": (Closing((*_GPT_4O, *_GPT_41), datetime.date(2027, 10, 1), "Azure begins to end deployments", False),),
}
_FAMILIES = frozenset(TRAINING_CONTEXT) | {"o4-mini"}


def family(model: str) -> str | None:
    """The family of a model that the tables know: ``openai/ft:gpt-4o-mini-2024-07-18:org::id`` is of gpt-4o-mini."""
    name = bare_model(model).removeprefix("ft:").partition(":")[0]
    known = [f for f in _FAMILIES if name == f or name.startswith((f + "-", f + "."))]
    return max(known, key=len, default=None)


def known_limits(model: str, access: Access, today: datetime.date) -> ServiceLimits:
    """What the tables say of a model."""
    found = family(model)
    context = TRAINING_CONTEXT.get(found) if found is not None else None
    vendor = "openai" if access.official else access.vendor if access.vendor == "azure" else ""
    closings = [c for table in (NO_NEW_JOBS, NO_ANSWERS) for c in table.get(vendor, ()) if _applies_to(c, found)]
    shut = [closing for closing in closings if closing.certain and today >= closing.day]
    closed = f"since {shut[0].day} {shut[0].what} (as known on {KNOWN_ON}); {ELSEWHERE}" if shut else None
    return ServiceLimits(MINIMUM_ROWS, context, closed, _soonest(closings, vendor, found, today))


def _soonest(closings: list[Closing], vendor: str, found: str | None, today: datetime.date) -> str | None:
    """A word of warning of what a model about to be paid for will not do for long."""
    for closing in closings:
        left = (closing.day - today).days
        of_answers = closing in NO_ANSWERS.get(vendor, ())
        if left <= 0 and not closing.certain:
            return f"since {closing.day} {closing.what} (as known on {KNOWN_ON})"
        if 0 < left <= WARNED_DAYS and (of_answers or not closing.certain):
            return f"on {closing.day}, in {left} days, {closing.what} (as known on {KNOWN_ON})"
    return None


def _applies_to(closing: Closing, found: str | None) -> bool:
    return not closing.families or found in closing.families


def with_dates_of(described: Any, known: ServiceLimits, model: str, today: datetime.date) -> ServiceLimits:
    """Limits with the dates that a service gives for a model, in place of those that are known.

    Args:
        described: The service's description of the model: OpenAI's has ``shutdown_date``, Azure's ``deprecation``.
        known: Limits from the tables.
        model: As the service calls it.
        today: The day it is.
    """
    if not isinstance(described, Mapping):
        return known
    deprecation = described.get("deprecation")
    dates = deprecation if isinstance(deprecation, Mapping) else {}
    trained_until = read_date(dates.get("fine_tune"))
    ends = [day for value in (described.get("shutdown_date"), dates.get("inference")) if (day := read_date(value))]
    answers_until = min(ends, default=None)
    if trained_until is None and answers_until is None:
        return known
    closed = soon = None
    if trained_until is not None and today >= trained_until:
        closed = f"since {trained_until} the service does not train {model} any more, as it says itself; {ELSEWHERE}"
    if answers_until is not None:
        left = (answers_until - today).days
        if left <= 0:
            closed = f"since {answers_until} {model} is shut down, as the service says itself; {ELSEWHERE}"
        elif left <= WARNED_DAYS:
            soon = f"on {answers_until}, in {left} days, {model} is shut down, as the service says itself"
    # That OpenAI takes no new jobs holds whatever date a model has; its other dates are better than ours.
    return replace(known, closed=closed or _of_vendor(known), closing_soon=soon)


def _of_vendor(known: ServiceLimits) -> str | None:
    everyone = [closing.what for closing in NO_NEW_JOBS["openai"]]
    return known.closed if known.closed is not None and any(what in known.closed for what in everyone) else None
