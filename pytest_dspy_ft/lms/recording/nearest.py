"""Where a call differs from the nearest recorded one, in words."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

LINES = 14


def explain_missing(question: Mapping[str, Any], recorded: Sequence[Mapping[str, Any]], where: str) -> str:
    """A message that says which call is missing, and in what the nearest recorded one differs.

    Args:
        question: What was asked.
        recorded: All recorded calls.
        where: The folder.
    """
    last = _text(question["messages"][-1])
    head = f"{question['model']} was asked something that is not recorded in {where}:\n  …{_short(last[-200:])}"
    if not recorded:
        return f"{head}\n  nothing is recorded there at all"
    near = max(recorded, key=lambda other: _likeness(question, other))
    return "\n".join(
        [head, "  the nearest recorded call differs in:", *(f"    {d}" for d in differences(question, near))]
    )


def differences(question: Mapping[str, Any], near: Mapping[str, Any]) -> list[str]:
    """The differences between two calls, a line each."""
    found = []
    for name in ("model", "address", "engine", "rollout"):
        if question.get(name) != near.get(name):
            found.append(f"{name}: {question.get(name)!r}, recorded with {near.get(name)!r}")
    mine, theirs = question.get("settings", {}), near.get("settings", {})
    for name in sorted({*mine, *theirs}):
        if mine.get(name) != theirs.get(name):
            found.append(f"setting {name}: {_short(mine.get(name))}, recorded with {_short(theirs.get(name))}")
    asked, known = question["messages"], near["messages"]
    if len(asked) != len(known):
        found.append(f"{len(asked)} messages, recorded with {len(known)} (demos are messages)")
    for number, (one, other) in enumerate(zip(asked, known, strict=False), 1):
        if one != other:
            found.append(f"message {number} of {len(asked)} ({one.get('role', '?')}):")
            found.extend(f"  {line}" for line in _diff(_text(other), _text(one)))
    return found[:LINES] if len(found) <= LINES else [*found[:LINES], "…"]


def _likeness(question: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, ...]:
    """The same model first, then messages in common, then settings, then how alike the last message is."""
    mine, theirs = question["messages"], other["messages"]
    common = sum(one == another for one, another in zip(mine, theirs, strict=False))
    last, their_last = _text(mine[-1]), _text(theirs[-1])
    # By their common beginning and common words: a full comparison with thousands of recordings would take minutes.
    start = next(
        (i for i, (a, b) in enumerate(zip(last, their_last, strict=False)) if a != b), min(len(last), len(their_last))
    )
    alike = start / max(len(last), len(their_last), 1)
    words = len(set(last.split()) & set(their_last.split())) / max(len(set(last.split()) | set(their_last.split())), 1)
    return (
        question["model"] == other["model"],
        common / max(len(mine), len(theirs)),
        question.get("settings") == other.get("settings"),
        question.get("rollout") == other.get("rollout"),
        words + alike,
    )


def _diff(recorded: str, asked: str) -> list[str]:
    lines = list(difflib.unified_diff(recorded.splitlines(), asked.splitlines(), n=0, lineterm=""))[2:]
    marked = [line for line in lines if not line.startswith("@@")]
    shown = [f"{'recorded' if line[0] == '-' else 'asked   '} {line[0]} {_short(line[1:], 160)}" for line in marked]
    return shown[:6] if len(shown) <= 6 else [*shown[:6], f"… and {len(shown) - 6} more lines"]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content", message.get("parts"))
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, sort_keys=True)


def _short(value: Any, limit: int = 200) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = text.replace("\n", "⏎")
    return text if len(text) <= limit else text[:limit] + "…"
