"""What was asked of a fine-tuning service, written down before it is asked.

Layout, below ``jobs/EXPERIMENT/STAGE/KEY/`` of the store::

    collection-DIGEST-N.json     the rows that the stage's traces gave, and how they were collected
    job-DIGEST-N.json            one request for a job: its files, its job, how far it is

Each file is replaced as a whole and flushed. ``job-…`` is written *before* each request that changes something at the
service and after each reply, so that whatever is interrupted, by a kill too, the next session knows what may be there.
No entry holds a key. Each has a checksum over its content, its name and the stage's key; entries of before have none
and are believed, for what they tell of was paid. An entry that is not as it was written is said and put aside, and no
job is ordered in its place before the user has said that there is none.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SerializerFunctionWrapHandler, ValidationError, model_serializer

from pytest_dspy_ft.checksums import CHECKSUM, value_checksum
from pytest_dspy_ft.errors import HostedError, StoreError, StoreWarning
from pytest_dspy_ft.files import write_json_atomically
from pytest_dspy_ft.records.base import Record, first_problem
from pytest_dspy_ft.records.build import BootstrapRecord
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.redaction import redact
from pytest_dspy_ft.tracebacks import warn

ApproveSpend = Callable[[float | None, str], None]
"""Called before money is spent: (estimated US dollars or None where no price is known, for what). Raises to refuse."""
FAILED_STATUSES = ("failed", "cancelled")
"""Of jobs that will never give a model."""
_DAMAGED = "damaged-"
R = TypeVar("R", bound=Record)


class JobEntry(Record):
    """One request for a job and what became of it."""

    order: str
    """The request's key."""
    number: int
    """Which collection of rows it belongs to: raised by ``--dspy-rebuild``."""
    generation: int
    """How many jobs were asked for with these rows, this one included: raised by ``--dspy-rebuild``."""
    session: str
    address: str
    model: str
    rows: int
    created: str
    training_file: str | None = None
    validation_file: str | None = None
    withdrawn_files: tuple[str, ...] = ()
    """Training files that were deleted, so that a request still under way cannot start a job from them."""
    requests: int = 0
    """How many requests to start the job were sent; with none, there is no job."""
    unsettled: bool = False
    """A request to start the job was sent whose outcome is not known."""
    asked: float | None = None
    """When the last of these requests was sent, in seconds since the epoch; None once its outcome is known."""
    job: str | None = None
    status: str = ""
    """The service's last word; of a job that is over, ours."""
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    kept: dict[str, Any] | None = None
    """What a job whose loop is driven from here goes on from."""
    resumed: bool = False
    """A session other than the one that asked for it went on with it."""

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what few entries have: earlier versions read the others, too."""
        content: dict[str, Any] = write(self)
        return {name: value for name, value in content.items() if value is not None or name not in ("asked", "kept")}


class CollectionEntry(Record):
    """The rows that a stage's traces gave: an interrupted build goes on with these very rows."""

    number: int
    session: str
    rebuild: bool
    """It was asked for with ``--dspy-rebuild``."""
    created: str
    bootstrap: BootstrapRecord
    rows: tuple[tuple[str, dict[str, Any]], ...]
    """(predictor, row)."""
    footprint: Footprint | None = None
    """The code that collecting them rests on; None where an earlier version kept nothing."""


class Journal:
    """The entries of one stage.

    Args:
        folder: Where they lie; made when the first is written.
        session: The session that writes.
        rebuild: True asks for a new job where one is known.
        spent: Jobs whose models are in a finished build: a rebuild wants others.
        believed: Says of what a collection rests on whether that is so still. Those of earlier versions, which do not
            say it, count: jobs were paid for with their rows.
        resting_on: Says what the collection that is made now rests on.
    """

    def __init__(
        self,
        folder: Path,
        session: str,
        *,
        rebuild: bool = False,
        spent: frozenset[str] = frozenset(),
        believed: Callable[[Footprint], bool] = lambda footprint: True,
        resting_on: Callable[[], Footprint | None] = lambda: None,
    ) -> None:
        self._folder = folder
        self.session = session
        self.rebuild = rebuild
        self._spent = spent
        self._believed, self._resting_on = believed, resting_on

    # --- collections --------------------------------------------------------------------------------------------------

    def collection(self, digest: str) -> CollectionEntry | None:
        """The rows to train on, where an interrupted build collected them; None where they are to be collected."""
        newest = self._newest_collection(digest)
        if newest is not None and newest.footprint is not None and not self._believed(newest.footprint):
            return None  # the same rows, collected anew, are the same job all the same
        if newest is None or not self.rebuild or newest.session == self.session:
            return newest
        jobs = [entry for entry in self.jobs() if entry.number == newest.number]
        used = any(entry.status in FAILED_STATUSES or entry.job in self._spent for entry in jobs)
        return newest if newest.rebuild and not used else None

    def add_collection(
        self, digest: str, bootstrap: BootstrapRecord, rows: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> CollectionEntry:
        """Keep what was collected."""
        newest = self._newest_collection(digest)
        collection = CollectionEntry(
            number=1 if newest is None else newest.number + 1,
            session=self.session,
            rebuild=self.rebuild,
            created=now(),
            bootstrap=bootstrap,
            rows=tuple((name, dict(row)) for name, row in rows),
            footprint=self._resting_on(),
        )
        self._write(f"collection-{digest[:16]}-{collection.number}.json", collection)
        return collection

    def _newest_collection(self, digest: str) -> CollectionEntry | None:
        found = [c for p in self._files(f"collection-{digest[:16]}-*.json") if (c := _read(p, CollectionEntry))]
        return max(found, key=lambda c: c.number, default=None)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def jobs(self) -> list[JobEntry]:
        """All jobs of the stage that are known here."""
        return [entry for path in self._files("job-*.json") if (entry := _read(path, JobEntry))]

    def job(self, request_key: str, collection: int) -> JobEntry | None:
        """The newest entry for a request with the rows of this collection."""
        found = [entry for entry in self.jobs() if entry.order == request_key and entry.number == collection]
        return max(found, key=lambda entry: entry.generation, default=None)

    def damaged(self, request_key: str) -> list[Path]:
        """Entries of a request that were put aside, since they were not as they were written: of jobs, perhaps paid."""
        return self._files(f"{_DAMAGED}*-job-{request_key[:16]}-*.json")

    def save(self, entry: JobEntry, **changes: Any) -> JobEntry:
        """Write an entry down, with changes; it is on the disk when this returns."""
        entry = entry.model_copy(update=changes)
        if not entry.unsettled and entry.asked is not None:
            entry = entry.model_copy(update={"asked": None})
        self._write(f"job-{entry.order[:16]}-{entry.generation}.json", entry)
        return entry

    def _files(self, pattern: str) -> list[Path]:
        return sorted(self._folder.glob(pattern)) if self._folder.is_dir() else []

    def _write(self, name: str, record: Record) -> None:
        path = self._folder / name
        content = json.loads(redact(json.dumps(record.model_dump(mode="json"), ensure_ascii=False)))
        try:
            write_json_atomically(path, {**content, CHECKSUM: value_checksum(_owner(path), content)})
        except OSError as problem:
            raise StoreError(
                f"cannot write to the store {self._folder}: {problem.strerror or problem}; "
                "choose another with --dspy-store=DIR"
            ) from problem


@dataclass(frozen=True)
class TrainingJobContext:
    """The stage that hosted jobs are for, and the terms: given by whoever builds it."""

    experiment: str
    stage: str
    stage_key: str
    journal: Journal
    seed: int = 0
    timeout: float | None = None
    """Seconds to wait for a job; it goes on after that."""
    approve_spend: ApproveSpend | None = None
    training_price: Callable[[str], float | None] | None = None
    """US dollars for a million trained tokens of a model; None where nobody knows."""
    endpoints: Any = None
    """Of class ``Endpoints``: they start what has to be started for a trained model to answer; None: none is asked."""


def now() -> str:
    """The time of day, as records hold it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _read(path: Path, kind: type[R]) -> R | None:
    """An entry; one that is not as it was written is put aside, and the service is asked what it knows.

    Raises:
        HostedError: It cannot be read, or another version wrote it.
    """
    checksum = None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop(CHECKSUM, None)
        if checksum is None or checksum == value_checksum(_owner(path), content):
            return kind.model_validate(content)
        problem = "its checksum does not match its content and its place"
    except PermissionError as error:
        raise HostedError(f"cannot read {path}: {error.strerror}; it may tell of a job that was paid for") from None
    except ValidationError as error:
        problem = first_problem(error)
        if checksum is not None:
            raise HostedError(
                f"another version of pytest-dspy-ft wrote {path} ({problem}); it may tell of a job that was paid for: "
                "go on with that version, or a newer one"
            ) from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        problem = str(error)
    aside = path.with_name(f"{_DAMAGED}{uuid.uuid4().hex[:6]}-{path.name}")
    with contextlib.suppress(OSError):
        path.rename(aside)
        after = "it is collected anew" if kind is CollectionEntry else "the service is asked for the job"
        warn(f"{path} is damaged ({problem}); it was moved to {aside.name}, {after}", StoreWarning)
    return None


def _owner(path: Path) -> dict[str, str]:
    return {"stage_key": path.parent.name, "file": path.name}
