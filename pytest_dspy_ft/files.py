"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pytest_dspy_ft.redaction import redact

LONE_SURROGATES = "backslashreplace"
"""How halves of characters, which models do answer with, are written into files of text or JSON."""


def write_atomically(path: Path, text: str | Iterable[str], *, flushed: bool = True) -> None:
    r"""Replace a file as a whole: a kill at any moment leaves the old file or the new one.

    Missing folders are made. The text is UTF-8 with the line ends it has, on every platform. What UTF-8 cannot hold, a
    lone surrogate, is written ``\ud83d``: in JSON that is the same text. Keys that this process knows become ``***``.

    Args:
        path: The file.
        text: All that it is to hold; a large one in pieces, so that it need not be in memory as a whole. No key may
            stand in two of them.
        flushed: Have it on the disk before going on, so that a power failure takes nothing back. Not worth its time for
            files that can be made again, of which there are many.

    Raises:
        OSError: It cannot be written; nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("x", encoding="utf-8", errors=LONE_SURROGATES, newline="") as stream:
            for piece in (text,) if isinstance(text, str) else text:
                stream.write(redact(piece))
            if flushed:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if flushed:
        with contextlib.suppress(OSError):  # some file systems do not let a folder be flushed
            flush(path.parent)


_ROWS = 200
"""Rows that are written at once."""


def write_json_atomically(path: Path, value: Any, *, rows: bool = False) -> None:
    """Replace a JSON file by :func:`write_atomically`: indented, keys in order.

    Args:
        path: The file.
        value: What it is to hold.
        rows: It holds lists of very many objects: each gets a line of its own, which takes a tenth of the time.
    """
    if rows:
        write_atomically(path, itertools.chain(_in_rows(value, 2), "\n"))
    else:
        write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def _in_rows(value: Any, depth: int) -> Iterator[str]:
    """JSON in pieces: an object's names in order, each on a line down to a depth, and so the objects in their lists."""
    if isinstance(value, dict) and value and depth:
        for number, name in enumerate(sorted(value)):
            yield f"{',' if number else '{'}\n{_plain(name)}: "
            yield from _in_rows(value[name], depth - 1)
        yield "\n}"
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for start in range(0, len(value), _ROWS):
            yield "," if start else "["
            yield ",".join(f"\n{_plain(row)}" for row in value[start : start + _ROWS])
        yield "\n]"
    else:
        yield _plain(value)


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def flush(path: Path) -> None:
    """Have a file or folder written to the disk before anything else is done."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
