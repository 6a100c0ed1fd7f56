"""The options and ini names, from the plugin's own table."""

from __future__ import annotations

import re

from pytest_dspy_ft.plugin.option_entry import Entry
from pytest_dspy_ft.plugin.options import TABLE

GROUPS = {
    "How far, and with which LM": ("stages", "lm", "teacher_lm", "constrain", "limit", "num_threads", "repeats"),
    "What is kept": ("store", "rebuild", "frozen", "rescore"),
    "What it may cost": ("plan", "max_cost", "prices", "stop_early"),
    "Verdicts and guards": (
        "confidence",
        "correction",
        "require",
        "max_errors",
        "near_duplicates",
        "selection_leak",
    ),
    "Baselines and reports": ("save_baseline", "compare_as", "compare_stored", "reports"),
    "Recordings": ("record", "offline", "recordings", "record_lms"),
    "Training and serving elsewhere": ("train", "serve", "job_timeout"),
    "Providers that are slow or silent": ("lm_timeout", "patience"),
}
"""By heading, the entries of the table by their fields. What is in no group stands under the last heading of all."""

OTHERS = "Others"

MORE = {
    "store": "../explanation/what-is-kept.md",
    "rebuild": "versions.md",
    "rescore": "../explanation/what-is-kept.md#outputs-and-scores",
    "plan": "../how-to/costs.md",
    "max_cost": "../how-to/costs.md",
    "prices": "../how-to/costs.md#prices",
    "stop_early": "../how-to/stop-early.md",
    "repeats": "../how-to/repeats.md",
    "confidence": "../explanation/statistics.md",
    "correction": "../explanation/statistics.md#many-gates",
    "require": "gates.md#required-gates",
    "max_errors": "../explanation/guards.md",
    "near_duplicates": "../explanation/guards.md",
    "selection_leak": "../explanation/guards.md",
    "save_baseline": "../how-to/baselines.md",
    "compare_as": "../how-to/baselines.md",
    "compare_stored": "../how-to/baselines.md#measured-anew",
    "reports": "../how-to/reports.md",
    "record": "../how-to/recordings.md",
    "offline": "../how-to/recordings.md",
    "recordings": "../how-to/recordings.md#the-folder",
    "record_lms": "../how-to/recordings.md#what-goes-through",
    "train": "../how-to/training.md",
    "serve": "../how-to/serving.md",
    "job_timeout": "../how-to/hosted.md#waiting",
    "lm_timeout": "../explanation/failures.md#servers-that-say-nothing",
    "patience": "../explanation/failures.md#servers-that-say-nothing",
    "lm": "../how-to/local-models.md",
    "constrain": "../how-to/local-models.md#replies-in-a-format",
}
"""By field, the page that says more."""


def markdown() -> str:
    """All options in groups, each with its names, its values and what holds without it."""
    by_field = {entry.field: entry for entry in TABLE}
    grouped = {field for fields in GROUPS.values() for field in fields}
    groups = {**GROUPS, OTHERS: tuple(field for field in by_field if field not in grouped)}
    parts = []
    for heading, fields in groups.items():
        entries = [by_field[field] for field in fields if field in by_field]
        if entries:
            parts.append(f"## {heading}\n\n" + "\n\n".join(_entry(entry) for entry in entries))
    return "\n\n".join(parts)


def _entry(entry: Entry) -> str:
    names = []
    if entry.option:
        names.append(f"`{entry.option}={entry.metavar or 'WORD'}`" if not entry.switch else f"`{entry.option}`")
    if entry.ini:
        names.append(f"ini `{entry.ini}`")
    anchor = (entry.option or entry.ini).lstrip("-").replace("_", "-")
    lines = [f"### {names[0]} {{ #{anchor} }}", _text(entry.help[0].upper() + entry.help[1:]) + "."]
    facts = []
    if len(names) > 1:
        facts.append(names[1])
    if entry.choices:
        facts.append("values: " + ", ".join(f"`{choice}`" for choice in entry.choices))
    default = entry.otherwise or entry.default
    if default:
        facts.append(f"default: {_text(default)}")
    if entry.field in MORE:
        facts.append(f"[more]({MORE[entry.field]})")
    return "\n\n".join([*lines, " · ".join(facts)] if facts else lines)


def _text(text: str) -> str:
    """Plain text, of which nothing is taken for Markdown."""
    return re.sub(r"([\[\]*_`])", r"\\\1", text)
