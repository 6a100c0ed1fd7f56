"""Entries of a store: whose they are, which version wrote them, and whether they are as they were written.

Several versions may share one store. An entry of another version stays where it is, and this version's stands beside
it under a name of its own (``current.v2.json``, ``dev-KEY.v2.json``). Entries of version 1 carry no checksum over all
that they say; they are read, and whoever asks for one decides whether it counts.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pytest_dspy_ft.checksums import Owner, seal, seal_problem
from pytest_dspy_ft.files import write_json_atomically
from pytest_dspy_ft.redaction import redact

STORE_VERSION = 2
"""The version of the store's files that this code writes. 1 had no checksum over manifests and owners."""

Finding = Literal["found", "absent", "other_version", "damaged", "before_checksums"]
"""What a store has for a key. ``found`` and ``before_checksums`` (an entry of version 1) have an entry."""

REASONS: dict[Finding, str] = {
    "other_version": "the store's was made by another version of pytest-dspy-ft",
    "damaged": "the store's was damaged",
}
"""Why a store has nothing that counts, in words."""

T = TypeVar("T")


@dataclass(frozen=True)
class Lookup(Generic[T]):
    """What the store has for a key, and why it has nothing where it has not."""

    finding: Finding
    entry: T | None = None


class DamagedEntryError(ValueError):
    """An entry is not as it was written."""


class OtherVersionError(ValueError):
    """An entry was written by another version."""


def write_entry(path: Path, owner: Owner, content: Mapping[str, Any], *, plain_json: bool = False) -> None:
    """Write an entry whole or not at all, with its version, its owner and a checksum over all of it.

    Args:
        path: Its file.
        owner: Whose it is.
        content: What it says.
        plain_json: It was read from JSON and may hold very many rows: it is not copied, and each row gets one line.
    """
    sealed = seal(owner, {**content, "schema_version": STORE_VERSION}, plain_json=plain_json)
    write_json_atomically(path, sealed, rows=plain_json)


def read_entry(path: Path, owner: Owner | None) -> dict[str, Any]:
    """An entry's content, looked at, and without the keys that are known by now.

    Args:
        path: Its file.
        owner: Whose it has to be; None takes the owner that it names.

    Raises:
        DamagedEntryError: It is not as it was written, or another's.
        OtherVersionError: Another version wrote it.
        OSError: It cannot be read.
    """
    if not path.is_file():
        raise DamagedEntryError(f"{path.name} is {_what_is_there(path)}")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise DamagedEntryError(f"{path.name} is no JSON ({problem})") from None
    if not isinstance(content, dict):
        raise DamagedEntryError(f"{path.name} holds no JSON object")
    version = version_of(content)
    if version is None:
        raise DamagedEntryError(f"{path.name} names no version")
    if version not in (1, STORE_VERSION):
        raise OtherVersionError(f"it has schema version {version}, this is version {STORE_VERSION}")
    if version == STORE_VERSION:
        named = content.get("owner")
        wrong = seal_problem(owner if owner is not None else named if isinstance(named, dict) else {}, content)
        if wrong:
            raise DamagedEntryError(f"{path.name}: {wrong}")
    return content if (plain := redact(text)) == text else _object(plain)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: what is read makes many objects that live for a moment, and no cycles."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _object(text: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(text)
    return content


def version_of(content: Mapping[str, Any]) -> int | None:
    """The version that wrote an entry; None where it does not say so."""
    if "checksum" not in content:
        version = content.get("schema_version", 1)
        return version if type(version) is int and version != STORE_VERSION else None
    version = content.get("schema_version")
    return version if type(version) is int and version >= STORE_VERSION else None


def is_before(content: Mapping[str, Any]) -> bool:
    """True for an entry of version 1, which only its files' checksums guard."""
    return version_of(content) == 1


def own_name(path: Path) -> Path:
    """The name of this version's file where the plain one is another version's."""
    return path.with_name(f"{path.stem}.v{STORE_VERSION}{path.suffix}")


def candidates(path: Path) -> list[Path]:
    """The files that may hold an entry, this version's own name first."""
    return [name for name in (own_name(path), path) if os.path.lexists(name)]


def place_for(path: Path) -> Path:
    """The file to write an entry to: no other version's."""
    own = own_name(path)
    return own if os.path.lexists(own) or (path.is_file() and is_foreign(path)) else path


def is_foreign(path: Path) -> bool:
    """True for a JSON file that another version wrote, also one before."""
    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and version_of(content) not in (None, STORE_VERSION)


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """Files, the one changed last first; hidden and vanished ones left out."""
    times: dict[Path, float] = {}
    for path in paths:
        if not path.name.startswith(".") and path.is_file():
            times[path] = path.stat().st_mtime
    return sorted(times, key=lambda path: times[path], reverse=True)


def read_json(path: Path) -> Any:
    """The JSON in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _what_is_there(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if path.is_symlink():
        return "a link to nowhere"
    return "no file" if path.exists() else "missing"


def json_object(line: str | bytes) -> dict[str, Any]:
    """A line of a file as the JSON object that it is.

    Raises:
        DamagedEntryError: It is none.
    """
    try:
        content: Any = json.loads(line if isinstance(line, str) else line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise DamagedEntryError("it is no JSON") from None
    if not isinstance(content, dict):
        raise DamagedEntryError("it is no JSON object")
    return content
