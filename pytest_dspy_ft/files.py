"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any


def write_text_atomically(path: Path, text: str) -> None:
    """Write a file so that a kill at any moment leaves either the old one or the new one. Missing folders are made.

    Raises:
        OSError: If it cannot be written; nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes files that only the user can read
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in place, indented, keys in order."""
    path.write_text(_json(value), encoding="utf-8")


def write_json_atomically(path: Path, value: Any) -> None:
    """Replace a JSON file as :func:`write_atomically` does."""
    write_atomically(path, _json(value))


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by another as a whole, flushed to the disk: a kill leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_text(text, encoding="utf-8")
    flush(temporary)
    temporary.replace(path)
    with contextlib.suppress(OSError):  # some file systems do not let a folder be flushed
        flush(path.parent)


def flush(path: Path) -> None:
    """Have a file or folder written to the disk before anything else is done."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
