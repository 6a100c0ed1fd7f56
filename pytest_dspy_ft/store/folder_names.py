"""Names of experiments and stages as names of folders, that no file system takes for one another."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
"""Names that Windows keeps for itself, with whatever ending."""


def folder_name(name: str) -> str:
    """A name as a folder's name: itself where that is safe, else a readable form with a hash of the original.

    Capital letters are not safe: some file systems do not tell ``Tickets`` from ``tickets``.
    """
    safe = _safe(name)
    plain = safe == name and name == name.lower() and name.split(".")[0] not in _DEVICES
    return name if plain else f"{safe or 'x'}-{_hash(name)}"


def folder_for(above: Path, name: str) -> Path:
    """The folder of a name; where an earlier version made one with capital letters, that one."""
    folder = above / folder_name(name)
    safe = _safe(name)
    if safe != name or folder.name == name or folder.exists() or not above.is_dir():
        return folder
    # Not `exists`, which finds `tickets` for `Tickets` where the file system does not tell them apart.
    return above / name if any(other.name == name for other in above.iterdir()) else folder


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-")[:60]


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
