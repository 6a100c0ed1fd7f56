"""The outputs of evaluations in a store: under way as a journal, whole as one file; read only where they are needed.

``outputs/EXPERIMENT/STAGE/SPLIT-KEY.jsonl`` (or ``.jsonl.gz``) is whole, ``SPLIT-KEY.partial.jsonl`` under way. A file
that is whole stays while calls that its provider failed are asked again, and is replaced when these are answered.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pytest_dspy_ft.checksums import Owner
from pytest_dspy_ft.files import flush
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.records.output import Output, OutputsFacts
from pytest_dspy_ft.store.entries import DamagedEntryError
from pytest_dspy_ft.store.folder import StoreFolder
from pytest_dspy_ft.store.folder_names import folder_for
from pytest_dspy_ft.store.output_lines import (
    COMPRESSED_FROM,
    OutputLines,
    line_of,
    lines_that_count,
    read_output_lines,
    write_compressed,
)

PARTIAL = ".partial.jsonl"
WHOLE = (".jsonl.gz", ".jsonl")


@dataclass(frozen=True)
class OutputsPlace:
    """Whose outputs: what they are filed under."""

    experiment: str
    stage: str
    on: Split
    key: str

    @property
    def owner(self) -> Owner:
        """The same as files name it."""
        return {"experiment": self.experiment, "stage": self.stage, "on": self.on, "outputs": self.key}


@dataclass(frozen=True)
class StoredOutputs:
    """The outputs that a store has for a place."""

    calls: dict[str, list[Output]] = field(default_factory=dict)
    """By ``call_id``."""
    footprint: Footprint | None = None
    """What they rest on; None where nothing says so."""
    facts: OutputsFacts | None = None
    """What is known of all of them; None where they are not whole."""
    damaged: tuple[str, ...] = ()
    under_way: bool = False
    """They are those of an evaluation that goes on, or was interrupted."""

    def __bool__(self) -> bool:
        return bool(self.calls)


class OutputsFolder(StoreFolder):
    """The part of a store that keeps outputs."""

    def load_outputs(self, place: OutputsPlace, *, replies: bool = False, wanted: str = "") -> list[StoredOutputs]:
        """The outputs for a place: those of the whole file, then those under way; empty without any.

        Damage is said with a :class:`StoreWarning`; what is whole in the file counts.

        Args:
            place: Whose.
            replies: Read the LM's answers too.
            wanted: Only outputs whose line holds this text.
        """
        found = []
        with self.reading():
            for path in self._output_files(place):
                lines = read_output_lines(path, place.owner, replies=replies, wanted=wanted)
                if lines.facts is None and not path.name.endswith(PARTIAL) and not lines.foreign:
                    lines.damaged.append("its end is missing")
                self._say_damage(path, place, lines)
                if lines.outputs or lines.facts:
                    what = lines.outputs, lines.footprint, lines.facts, tuple(lines.damaged)
                    found.append(StoredOutputs(*what, under_way=path.name.endswith(PARTIAL)))
        return found

    @contextlib.contextmanager
    def outputs_under_way(self, place: OutputsPlace) -> Iterator[OutputsJournal]:
        """Write outputs down as they come; hold the lock.

        What an interrupted session left stays where it is until :meth:`OutputsJournal.finish`, or
        :meth:`OutputsJournal.discard`.

        Raises:
            StoreError: The store cannot be written.
        """
        path = self.prepared(self._outputs_folder(place).relative_to(self.root)) / f"{place.on}-{place.key}{PARTIAL}"
        with self.writing():
            if os.path.lexists(path) and not path.is_file():
                self.set_aside([path], self._called(place), DamagedEntryError(f"{path.name} is no file"))
            _mend_end(path)
            journal = OutputsJournal(self, place, path, path.open("ab"))
        try:
            yield journal
        finally:
            journal.close()

    def _output_files(self, place: OutputsPlace) -> list[Path]:
        stem = self._outputs_folder(place) / f"{place.on}-{place.key}"
        paths = [stem.with_name(stem.name + ending) for ending in (*WHOLE, PARTIAL)]
        for path in paths:
            if os.path.lexists(path) and not path.is_file():
                self.set_aside([path], self._called(place), DamagedEntryError(f"{path.name} is no file"))
        return [path for path in paths if path.is_file()]

    def _outputs_folder(self, place: OutputsPlace) -> Path:
        return folder_for(folder_for(self.root / "outputs", place.experiment), place.stage)

    def _say_damage(self, path: Path, place: OutputsPlace, lines: OutputLines) -> None:
        if lines.damaged:
            problem = DamagedEntryError("; ".join(lines.damaged[:3]))
            self.set_aside([path], self._called(place), problem, copied=True)

    @staticmethod
    def _called(place: OutputsPlace) -> str:
        return f"outputs of stage {place.stage!r} of experiment {place.experiment!r} on {place.on}"


class OutputsJournal:
    """Outputs under way; from :meth:`OutputsFolder.outputs_under_way`."""

    def __init__(self, folder: OutputsFolder, place: OutputsPlace, path: Path, stream: BinaryIO) -> None:
        self._folder, self._place, self._path, self._stream = folder, place, path, stream

    def add(self, entry: Output | Footprint | OutputsFacts) -> None:
        """Append an output, what outputs rest on, or that an evaluation ended here; have it out of this process."""
        with self._folder.writing():
            self._stream.write(line_of(self._place.owner, entry))
            self._stream.flush()

    def discard(self) -> None:
        """Begin anew: what an interrupted session left does not count."""
        with self._folder.writing():
            foreign = read_output_lines(self._path, self._place.owner).foreign
            self._stream.truncate(0)
            self._stream.writelines(foreign)
            self._stream.flush()

    def finish(self, facts: OutputsFacts, footprint: Footprint, *, with_earlier: bool) -> None:
        """Make what was added the outputs that count.

        Args:
            facts: What is known of all of them.
            footprint: What they rest on.
            with_earlier: Whether those in the whole file count too, where their calls were not made again.
        """
        owner, folder = self._place.owner, self._folder
        with folder.writing():
            self._stream.flush()
            stem = self._path.name.removesuffix(PARTIAL)
            names = [self._path.with_name(stem + ending) for ending in WHOLE]
            sources = [self._path, *(path for path in names if with_earlier and path.is_file())]
            compressed = sum(path.stat().st_size for path in sources) >= COMPRESSED_FROM
            final, other = names if compressed else names[::-1]
            rest = line_of(owner, footprint)  # twice: without one, damage to it would make all outputs doubtful
            lines = itertools.chain([rest], lines_that_count(sources, owner), [rest, line_of(owner, facts)])
            temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
            try:
                with temporary.open("xb") as stream:
                    if compressed:
                        write_compressed(lines, stream)
                    else:
                        stream.writelines(lines)
                    stream.flush()
                    os.fsync(stream.fileno())
                temporary.replace(final)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            with contextlib.suppress(OSError):  # some file systems do not let a folder be flushed
                flush(final.parent)
            other.unlink(missing_ok=True)
            self.close()
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Write no more."""
        with contextlib.suppress(OSError):  # a full disk: what was added before is there
            self._stream.close()


def _mend_end(path: Path) -> None:
    """Cut off half a line that a killed writer left: the next would be glued to it."""
    if path.is_file():
        content = path.read_bytes()
        if not content.endswith(b"\n") and content:
            os.truncate(path, content.rfind(b"\n") + 1)
