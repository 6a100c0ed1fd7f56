"""Outputs as a file: one call of the program a line, each with a checksum over itself and whose it is.

A line: ``{"checksum": ..., "v": 2, "output": {...}}``. Beside the outputs stands what they rest on (``"footprint"``:
the last one counts) and, in a file that is whole, what is known of them together (``"facts"``). A large file
that is whole is compressed, in blocks that are read one by one: of a damaged block its lines are lost, and no others.
The format is gzip's, so that ``zcat`` shows it.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from pytest_dspy_ft.checksums import Owner, value_checksum
from pytest_dspy_ft.records.base import AS_WRITTEN
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.records.output import Output, OutputsFacts
from pytest_dspy_ft.store.entries import STORE_VERSION, DamagedEntryError, OtherVersionError, json_object

Entry = Output | Footprint | OutputsFacts

_KINDS: dict[str, type[Entry]] = {"output": Output, "footprint": Footprint, "facts": OutputsFacts}

COMPRESSED_FROM = 64_000
"""Bytes of a whole file that are worth compressing."""

_BLOCK = 128
"""Lines that are compressed together."""

_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
"""How every block begins: gzip's header without a time, as Python writes it at level 9."""


@dataclass
class OutputLines:
    """The lines of a file."""

    outputs: dict[str, list[Output]] = field(default_factory=dict)
    """By ``call_id``, in the order of the file: copies of one example have one id."""
    footprint: Footprint | None = None
    """What they rest on; None where nothing says so."""
    facts: OutputsFacts | None = None
    """What is known of all of them; None in a file that is not whole."""
    foreign: list[bytes] = field(default_factory=list)
    """Lines of other versions."""
    damaged: list[str] = field(default_factory=list)
    """What is wrong with each line, or block of lines, that is not as it was written."""


def read_output_lines(path: Path, owner: Owner, *, replies: bool = True, wanted: str = "") -> OutputLines:
    """Look through a file; one that is not there has no lines.

    Args:
        path: The file.
        owner: Whose it has to be.
        replies: False leaves the LM's answers out, which scoring has no use for.
        wanted: Only outputs whose line holds this text.
    """
    lines, mark = OutputLines(), wanted.encode("utf-8")
    if not path.is_file():
        return lines
    number = 0
    for raw in _raw_lines(path, lines.damaged):
        number += 1
        if not raw.strip() or (mark and b'"output":' in raw and mark not in raw):
            continue
        try:
            entry = _entry(raw, owner)
        except OtherVersionError:
            lines.foreign.append(raw)
        except ValueError as problem:  # DamagedEntryError, no UTF-8, no JSON
            lines.damaged.append(f"line {number}: {problem}")
        else:
            if isinstance(entry, Output):
                kept = entry if replies else entry.model_copy(update={"replies": ()})
                lines.outputs.setdefault(entry.call_id, []).append(kept)
            elif isinstance(entry, Footprint):
                lines.footprint = entry
            else:
                lines.facts = entry
    return lines


def lines_that_count(paths: Sequence[Path], owner: Owner) -> Iterator[bytes]:
    """The outputs in some files as lines, and lines of other versions, read one by one.

    An output in an earlier file stands before the same call's in a later one, and one that a provider failed gives way
    to any other.

    Args:
        paths: The files, the one that counts first.
        owner: Whose they are.
    """
    chosen: dict[str, tuple[bool, int]] = {}
    found = [[_standing(raw, owner) for raw in _raw_lines(path, [])] for path in paths]
    for rank, lines in enumerate(found):
        for call_id, failed in filter(None, lines):
            if call_id:
                chosen[call_id] = min((failed, rank), chosen.get(call_id, (failed, rank)))
    for rank, (path, lines) in enumerate(zip(paths, found, strict=True)):
        for raw, standing in zip(_raw_lines(path, []), lines, strict=True):
            if standing is None:
                continue
            call_id, failed = standing
            if not call_id:
                yield raw
            elif chosen.get(call_id) == (failed, rank):
                yield raw
                if failed:
                    del chosen[call_id]  # one failure tells as much as two


def _standing(raw: bytes, owner: Owner) -> tuple[str, bool] | None:
    """Whose output a line is and whether a provider failed it; no name for another version's, None for what is neither.

    What is damaged is neither.
    """
    try:
        entry = _entry(raw, owner, context=AS_WRITTEN)
    except OtherVersionError:
        return "", False
    except ValueError:
        return None
    return (entry.call_id, entry.fault == "provider") if isinstance(entry, Output) else None


def line_of(owner: Owner, entry: Entry) -> bytes:
    """An entry as a line."""
    content = json.loads(entry.model_dump_json(exclude_defaults=isinstance(entry, Output)))
    kind = next(name for name, cls in _KINDS.items() if isinstance(entry, cls))
    line = {"v": STORE_VERSION, kind: content}
    line = {"checksum": value_checksum(owner, line), **line}
    return json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n"


def write_compressed(lines: Iterable[bytes], stream: BinaryIO) -> None:
    """Write lines in blocks that are read one by one."""
    block: list[bytes] = []
    for line in lines:
        block.append(line)
        if len(block) == _BLOCK:
            stream.write(_packed(block))
            block = []
    if block:
        stream.write(_packed(block))


def _packed(block: list[bytes]) -> bytes:
    return _HEADER + gzip.compress(b"".join(block), 9, mtime=0)[len(_HEADER) :]


def _raw_lines(path: Path, damaged: list[str]) -> Iterator[bytes]:
    """The lines of a file, compressed or not. What a killed writer left unfinished at the end is no damage."""
    if path.suffix != ".gz":
        with path.open("rb") as stream:
            yield from (line for line in stream if line.endswith(b"\n"))
        return
    first, *blocks = path.read_bytes().split(_HEADER)
    if first:
        damaged.append("its beginning is no compressed block")
    for number, block in enumerate(blocks, 1):
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            text = inflater.decompress(_HEADER + block)
        except zlib.error as problem:
            damaged.append(f"lines {_BLOCK * (number - 1) + 1} to {_BLOCK * number}: {problem}")
            continue
        if not inflater.eof or inflater.unused_data:
            damaged.append(f"lines {_BLOCK * (number - 1) + 1} and on: the block ends too early, or the next is lost")
            if not inflater.eof:
                continue
        yield from io.BytesIO(text)


def _entry(raw: bytes, owner: Owner, *, context: Mapping[str, str] | None = None) -> Entry:
    line = json_object(raw)
    if type(line.get("v")) is not int:
        raise DamagedEntryError("it names no version")
    written = {name: value for name, value in line.items() if name != "checksum"}
    ours = line.get("checksum") == value_checksum(owner, {**written, "v": STORE_VERSION})
    if line["v"] > STORE_VERSION and not ours:
        raise OtherVersionError(f"version {line['v']}")
    kind = next((name for name in _KINDS if name in line), None)
    if kind is None or not ours or line["v"] != STORE_VERSION:
        raise DamagedEntryError("its checksum does not match its content and its evaluation")
    try:
        return _KINDS[kind].model_validate(line[kind], context=context)
    except ValidationError:
        raise OtherVersionError("another version's output") from None  # its checksum holds
