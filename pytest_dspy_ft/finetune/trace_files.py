"""Collections of traces as files: every trace with its replies, the records, and the diagnosis as text.

``traces.jsonl`` holds one trace a line (``traces-2.jsonl`` and so on those of later collections), ``bootstrap.json``
the records of all collections, ``bootstrap.txt`` what they say. They lie in the store from the moment a collection is
done, so a training that fails, or is refused, loses none of what was paid for; a build that succeeds takes them along.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_dspy_ft.checksums import CHECKSUM, seal, seal_problem
from pytest_dspy_ft.errors import StoreError, StoreWarning
from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.records.build import BootstrapRecord
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.report.diagnosis import report
from pytest_dspy_ft.tracebacks import warn

RECORDS = "bootstrap.json"
TEXT = "bootstrap.txt"
REFUSAL = "refused.json"


class TraceFiles:
    """The files of all collections of one build.

    Args:
        folder: Where they lie until the build is done; made when the first collection is written.
        stage: Name of the stage.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder = folder
        self._stage = stage
        self._records: list[BootstrapRecord] = []
        self._lm_failed = False

    def add(self, record: BootstrapRecord, traces: Sequence[str] | None, *, lm_failed: bool = False) -> Path:
        """Write a collection.

        Args:
            record: Its record.
            traces: Its traces, a line of JSON each; None where they are those that an interrupted build wrote.
            lm_failed: An LM failed one of them.

        Returns:
            The file with its traces.
        """
        self._records.append(record)
        (self.folder / REFUSAL).unlink(missing_ok=True)
        path = self.folder / self._names()[-1]
        self._lm_failed = lm_failed
        if traces is not None:
            self._write(path.name, "".join(f"{line}\n" for line in traces))
        content = [one.model_dump(mode="json") for one in self._records]
        self._write(RECORDS, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        self._write(TEXT, report(self._records, self._stage))
        return path

    def _names(self) -> list[str]:
        """Names of the files with the traces, collection by collection."""
        return ["traces.jsonl" if n == 1 else f"traces-{n}.jsonl" for n in range(1, len(self._records) + 1)]

    def refuse(self, upstream: Mapping[str, str], session: str, footprint: Footprint) -> None:
        """Note that the last collection was refused, on which builds and code it stood, and by which session."""
        records = _records_digest(self.folder / RECORDS)
        note = {"upstream": dict(upstream), "session": session, "lm_failed": self._lm_failed, "records": records}
        note["footprint"] = footprint.model_dump(mode="json")
        self._write(REFUSAL, json.dumps(seal(self._owner, note)) + "\n")

    @property
    def _owner(self) -> dict[str, str]:
        return {"stage": self._stage, "key": self.folder.name}

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        try:
            if path.is_dir():  # damage: nothing of ours is a folder here
                path.rename(path.with_name(f"damaged-{uuid.uuid4().hex[:6]}-{name}"))
            write_atomically(path, text)
        except OSError as problem:
            raise StoreError(
                f"cannot write to the store {self.folder}: {problem.strerror or problem}; "
                "choose another with --dspy-store=DIR"
            ) from problem

    def refused(
        self,
        upstream: Mapping[str, str],
        minimum: int,
        session: str,
        believed: Callable[[Footprint | None], bool],
        *,
        own_only: bool = False,
    ) -> tuple[BootstrapRecord, ...]:
        """The collections of an earlier attempt that was refused and is not to be tried again; else none.

        What the program or the metric raised is part of the collection: tried again until enough is kept, it would say
        nothing. Where an LM failed, a later session tries again; this one, in whichever of its processes, does not.

        Args:
            upstream: Digests of the builds that this one stands on, by stage.
            minimum: How many traces must be kept now.
            session: The session that asks.
            believed: Says of what the collections rest on whether that is so still; they count only then.
            own_only: Only a refusal of this session counts: it collects anew what earlier ones refused.
        """
        try:
            note = json.loads((self.folder / REFUSAL).read_text(encoding="utf-8"))
            if CHECKSUM in note:
                problem = seal_problem(self._owner, note)
                if problem or note["records"] != _records_digest(self.folder / RECORDS):
                    raise ValueError(problem or f"{RECORDS} does not match its checksum")
            elif not isinstance(note.get("upstream"), dict):  # an earlier version wrote no more than that
                note = {"upstream": note, "session": ""}
            if note["upstream"] != dict(upstream):
                return ()
            content = json.loads((self.folder / RECORDS).read_text(encoding="utf-8"))
            records = tuple(BootstrapRecord.model_validate(one) for one in content)
            footprint = Footprint.model_validate(note["footprint"]) if "footprint" in note else None
        except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as problem:
            if os.path.lexists(self.folder / REFUSAL):
                self._tell(problem)
            return ()
        if records and note["session"] != session and (own_only or note.get("lm_failed", records[-1].raised > 0)):
            return ()
        if not records or records[-1].kept >= minimum or not believed(footprint):
            return ()
        return (*records[:-1], records[-1].model_copy(update={"minimum": minimum}))

    def _tell(self, problem: Exception) -> None:
        """Say that an earlier refusal is damaged, and put its note aside, so that it is said once."""
        with contextlib.suppress(OSError):
            (self.folder / REFUSAL).rename(self.folder / f"damaged-{uuid.uuid4().hex[:6]}-{REFUSAL}")
        warn(
            f"the note in {self.folder} that stage {self._stage!r} was refused is damaged ({problem}): its traces are "
            "collected anew",
            StoreWarning,
        )

    @property
    def last(self) -> Path:
        """The file with the traces of the last collection that was added or found refused."""
        found = sorted(self.folder.glob("traces*.jsonl"), key=lambda path: (len(path.name), path.name))
        return found[-1] if found else self.folder

    def copy_to(self, build: Path) -> None:
        """Bring the files into the folder of a build; an earlier, failed one may have left more than are its own."""
        for name in (*self._names(), RECORDS, TEXT) if self._records else ():
            if (path := self.folder / name).is_file():
                shutil.copyfile(path, build / name)

    def remove(self) -> None:
        """Forget the files: their build is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _records_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
