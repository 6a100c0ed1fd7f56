"""One launched training, written down before it is started, in ``launched.json`` of its folder in the store."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from pytest_dspy_ft.checksums import CHECKSUM, OWNER, seal, seal_problem
from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.files import write_json_atomically
from pytest_dspy_ft.finetune.launched.protocol import TrainingOrder
from pytest_dspy_ft.records.base import Record

ENTRY = "launched.json"
PREFIX = "launched-"


class LaunchedEntry(Record):
    """A training that a launcher was given."""

    job: str
    """Its name, unique: see ``TrainingOrder.name``."""
    digest: str
    """Of all that determines what comes of it."""
    launcher: str
    """What its launcher calls itself."""
    named: str
    """What it was named by: ``--dspy-train``."""
    processes: int | None = None
    model: str
    """The model it starts from, as DSPy names it."""
    place: str
    """Where the base model lies."""
    rows: int
    session: str
    """That ordered it."""
    created: str
    attempt: int = 0
    """How often it was submitted; with 0 nobody was asked to start it yet."""
    reference: str = ""
    """What the launcher gave for the last attempt; empty while that is not known."""
    refused: str = ""
    """Why what came back is not used: the next attempt begins anew."""


def new_name(digest: str) -> str:
    """A name for a training that no other store has given."""
    return f"dspy-ft-{digest[:10]}-{uuid.uuid4().hex[:8]}"


def write_entry(folder: Path, entry: LaunchedEntry) -> None:
    """Replace the entry of a folder."""
    write_json_atomically(folder / ENTRY, seal({"training": folder.name}, entry.model_dump(mode="json")))


def read_entry(folder: Path) -> LaunchedEntry | None:
    """The entry of a folder; None without one.

    Raises:
        TrainingError: It is not as it was written; the training may run all the same.
    """
    path = folder / ENTRY
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise _damaged(path, str(problem)) from None
    if not isinstance(content, dict):
        raise _damaged(path, "it is no object")
    if damage := seal_problem({"training": folder.name}, content):
        raise _damaged(path, damage)
    try:
        return LaunchedEntry.model_validate({k: v for k, v in content.items() if k not in (CHECKSUM, OWNER)})
    except ValidationError as error:
        raise _damaged(path, str(error)) from None


def order_of(folder: Path, entry: LaunchedEntry) -> TrainingOrder:
    """The order that an entry tells of, as a launcher is given it."""
    return TrainingOrder(entry.job, folder, entry.place, entry.processes, entry.reference, max(entry.attempt, 1))


def launched_folders(jobs: Path) -> Iterator[Path]:
    """The folders of launched trainings at any depth below a folder, in order of their names."""
    yield from sorted(path.parent for path in jobs.rglob(f"{PREFIX}*/{ENTRY}"))


def _damaged(path: Path, problem: str) -> TrainingError:
    return TrainingError(
        f"{path} is not as it was written ({problem}): the training it tells of may run all the same; look for it "
        f"where it was launched, end it, and delete {path.parent} to train anew"
    )
