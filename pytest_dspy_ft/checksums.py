"""Content that carries a checksum over itself and over whose it is, so that damage and a file in another's place show.

The checksum is that of the JSON value, not of its text: spaces and the order of names do not matter to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pytest_dspy_ft.redaction import redact

Owner = Mapping[str, str]
"""Whose content it is: an experiment, a stage, a split, a key; what it is called by in messages."""

CHECKSUM, OWNER = "checksum", "owner"


def seal(owner: Owner, content: Mapping[str, Any], *, plain_json: bool = False) -> dict[str, Any]:
    """The content with its owner and a checksum over both, as a file will hold it: without keys.

    Args:
        owner: Whose it is.
        content: What a file will hold.
        plain_json: It was read from JSON, so that it need not be copied to be what a reader of the file will get.
    """
    plain = _as_written({**content, OWNER: dict(owner)}, plain_json)
    return {**plain, CHECKSUM: _digest(plain)}


def seal_problem(owner: Owner, content: Mapping[str, Any]) -> str:
    """What is wrong with sealed content; empty where it is as it was written, and this owner's."""
    found = content.get(CHECKSUM)
    if found is None:
        return "it has no checksum"
    if found != _digest({name: value for name, value in content.items() if name != CHECKSUM}):
        return "its checksum does not match its content"
    if content.get(OWNER) != _as_written(dict(owner)):
        return f"it is that of {_in_words(content.get(OWNER))}, not of {_in_words(owner)}"
    return ""


def value_checksum(owner: Owner, value: Any) -> str:
    """The checksum of a JSON value that stands beside it, where naming the owner each time would be long."""
    return _digest([dict(owner), value])


def _digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of names."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256()
    for start in range(0, len(text), _AT_ONCE):
        digest.update(text[start : start + _AT_ONCE].encode("ascii"))
    return digest.hexdigest()


_AT_ONCE = 1 << 20


def _as_written(content: dict[str, Any], plain_json: bool = False) -> dict[str, Any]:
    text = json.dumps(content, ensure_ascii=False)
    clean = redact(text)
    if plain_json and clean == text:
        return content
    plain: dict[str, Any] = json.loads(clean)
    return plain


def _in_words(owner: Any) -> str:
    if not isinstance(owner, Mapping):
        return "nobody"
    return ", ".join(f"{name} {value!r}" for name, value in owner.items())
