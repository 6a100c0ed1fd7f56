"""The history of a store: ``history.jsonl``, to which whole sessions add a line for each stage and split.

A line: ``{"v": 1, "checksum": ..., "point": {...}}``. Lines are only ever added, under a lock. Lines of another version
and damaged ones stay where they are and are left out; half a line at the end, which a killed writer leaves, goes with
the next line that is added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pytest_dspy_ft.checksums import value_checksum
from pytest_dspy_ft.records.history import HistoryPoint, repeats
from pytest_dspy_ft.store.entries import DamagedEntryError, OtherVersionError, json_object
from pytest_dspy_ft.store.folder import StoreFolder

HISTORY_FILE = "history.jsonl"
HISTORY_VERSION = 1
"""The version of the lines that this code writes."""

_OWNER = {"kept": "history"}


@dataclass
class HistoryLines:
    """The lines of a history."""

    points: list[HistoryPoint] = field(default_factory=list)
    """Those that count, the oldest first."""
    foreign: int = 0
    """How many lines another version wrote."""
    damaged: list[int] = field(default_factory=list)
    """The numbers of the lines that are not as they were written."""


class History:
    """The history of one store.

    Args:
        folder: The store.

    Attributes:
        path: Its file.
    """

    def __init__(self, folder: StoreFolder) -> None:
        self._folder = folder
        self.path: Path = folder.root / HISTORY_FILE

    def read(self) -> HistoryLines:
        """All lines; none where there is no file.

        Raises:
            StoreError: It may not be read.
        """
        lines = HistoryLines()
        for number, raw in enumerate(self._lines(), 1):
            try:
                lines.points.append(_read_line(raw))
            except OtherVersionError:
                lines.foreign += 1
            except ValueError:
                lines.damaged.append(number)
        lines.points.sort(key=lambda point: point.created)  # machines that share a store end in any order
        return lines

    def append(self, points: Sequence[HistoryPoint]) -> int:
        """Add points, but for those that only repeat the newest one of their series.

        Returns:
            How many were added.

        Raises:
            StoreError: The store cannot be written.
        """
        if not self._fresh(points):  # then a store that cannot be written is no matter
            return 0
        with self._folder.lock("history"):
            fresh = self._fresh(points)
            self._folder.prepared("")
            with self._folder.writing(), self.path.open("a+b") as stream:
                stream.seek(0)
                whole, end, rest = stream.read().rpartition(b"\n")
                if rest and _is_whole(rest):  # it lacks its end only
                    stream.write(b"\n")
                elif rest:
                    stream.truncate(len(whole) + len(end))
                stream.write(b"".join(map(_line, fresh)))  # at once: a kill leaves few of them torn
                stream.flush()
                os.fsync(stream.fileno())
        return len(fresh)

    def _fresh(self, points: Sequence[HistoryPoint]) -> list[HistoryPoint]:
        newest = self._newest({point.series for point in points})
        return [p for p in points if p.series not in newest or not repeats(newest[p.series], p)]

    def _newest(self, wanted: set[tuple[str, str, Any]]) -> dict[tuple[str, str, Any], HistoryPoint]:
        """The newest point of some series: read from the end, as far as needed."""
        found: dict[tuple[str, str, Any], HistoryPoint] = {}
        for raw in reversed(list(self._lines())):
            if len(found) == len(wanted):
                break
            try:
                point = _read_line(raw)
            except ValueError:
                continue
            if point.series in wanted:
                found.setdefault(point.series, point)
        return found

    def _lines(self) -> Iterator[bytes]:
        with self._folder.reading():
            try:
                content = self.path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return
        *whole, rest = content.split(b"\n")
        if rest and _is_whole(rest):
            whole.append(rest)
        yield from (raw for raw in whole if raw.strip())


def _line(point: HistoryPoint) -> bytes:
    content = json.loads(point.model_dump_json())
    line = {"v": HISTORY_VERSION, "checksum": value_checksum(_OWNER, content), "point": content}
    return json.dumps(line, ensure_ascii=True).encode("ascii") + b"\n"


def _read_line(raw: bytes) -> HistoryPoint:
    line = json_object(raw)
    version = line.get("v")
    if type(version) is int and version != HISTORY_VERSION:
        raise OtherVersionError(f"version {version}")
    if line.get("checksum") != value_checksum(_OWNER, line.get("point")):
        raise DamagedEntryError("its checksum does not match its content")
    try:
        return HistoryPoint.model_validate(line.get("point"))
    except ValidationError:
        raise OtherVersionError("another version's point") from None  # its checksum holds


def _is_whole(raw: bytes) -> bool:
    try:
        _read_line(raw)
    except OtherVersionError:
        return True
    except ValueError:
        return False
    return True
