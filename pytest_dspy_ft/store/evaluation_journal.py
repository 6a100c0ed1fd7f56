"""The journal of an evaluation under way: one result a line, each with a checksum over itself and its evaluation.

A line: ``{"v": 2, "checksum": ..., "result": {...}}``. Beside the results stands what they rest on, first as it was
declared and again as more of it was seen: ``"footprint"`` in place of ``"result"``; the last one counts. Lines of
version 1 are the bare result. Lines of another version stay where they are. A killed writer leaves half a line at the
end, which is no damage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from pydantic import ValidationError

from pytest_dspy_ft.checksums import Owner, value_checksum
from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.records.base import AS_WRITTEN
from pytest_dspy_ft.records.evaluation import ExampleResult
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.store.entries import STORE_VERSION, DamagedEntryError, OtherVersionError, json_object


@dataclass(frozen=True)
class EvaluationJournal:
    """What an interrupted evaluation left, and where its continuation is written down."""

    done: Mapping[str, ExampleResult]
    """Results that count, by ``call_id``."""
    footprint: Footprint | None
    """What they rest on."""
    add: Callable[[ExampleResult], None]
    """Appends a result."""
    rest_on: Callable[[Footprint], None]
    """Appends what the results rest on."""
    discard: Callable[[], None] = lambda: None
    """Forgets all of it, where it turns out at the end that none of it counts."""


@dataclass
class JournalLines:
    """The lines of a journal."""

    results: list[ExampleResult] = field(default_factory=list)
    footprint: Footprint | None = None
    """What they rest on; None where nothing says so."""
    own: list[str] = field(default_factory=list)
    """Lines that count."""
    foreign: list[str] = field(default_factory=list)
    """Lines of other versions."""
    damaged: list[str] = field(default_factory=list)
    """What is wrong with each line that is not as it was written."""
    torn: bool = False
    """It ends in half a line."""


def read_lines(path: Path, owner: Owner, *, kept: bool = True) -> JournalLines:
    """Look through a journal; one that is not there has no lines.

    Args:
        path: Its file.
        owner: Whose evaluation it is of.
        kept: Give the lines that count and what they say; else only those that do not.
    """
    if not path.is_file():
        return JournalLines()
    with path.open("rb") as stream:
        return _look_through(stream, owner, kept)


def _look_through(stream: BinaryIO, owner: Owner, kept: bool) -> JournalLines:
    lines = JournalLines()
    for number, line in enumerate(stream, 1):
        raw = line.removesuffix(b"\n")
        if raw == line:
            lines.torn = True
            break
        if not raw.strip():
            continue
        try:
            text = raw.decode("utf-8")
            result = _read_line(text, owner, kept)
        except OtherVersionError:
            lines.foreign.append(raw.decode("utf-8", "replace"))
        except ValueError as problem:  # DamagedEntryError, no UTF-8, no JSON
            lines.damaged.append(f"line {number}: {problem}")
        else:
            if not kept:
                continue
            lines.own.append(text)
            if isinstance(result, Footprint):
                lines.footprint = result
            else:
                lines.results.append(result)
    return lines


def keep_only(path: Path, lines: list[str]) -> None:
    """Replace a journal by these lines; without any, it goes."""
    if lines:
        write_atomically(path, "".join(f"{line}\n" for line in lines))
    else:
        path.unlink(missing_ok=True)


def write_line(stream: TextIO, owner: Owner, entry: ExampleResult | Footprint) -> None:
    """Append a result, or what the results rest on, and have it out of this process."""
    content = json.loads(entry.model_dump_json())
    kind = "footprint" if isinstance(entry, Footprint) else "result"
    line = {"v": STORE_VERSION, "checksum": value_checksum(owner, content), kind: content}
    stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    stream.flush()


def _read_line(text: str, owner: Owner, kept: bool) -> ExampleResult | Footprint:
    line = json_object(text)
    if "checksum" not in line:
        try:
            return ExampleResult.model_validate(line)
        except ValidationError:
            raise DamagedEntryError("it is no result") from None
    version = line.get("v")
    if type(version) is int and version > STORE_VERSION:
        raise OtherVersionError(f"version {version}")
    kind = "footprint" if "footprint" in line else "result"
    if line["checksum"] != value_checksum(owner, line.get(kind)):
        raise DamagedEntryError("its checksum does not match its content and its evaluation")
    try:
        context = None if kept else AS_WRITTEN
        return (Footprint if kind == "footprint" else ExampleResult).model_validate(line.get(kind), context=context)
    except ValidationError:
        raise OtherVersionError("another version's result") from None  # its checksum holds
