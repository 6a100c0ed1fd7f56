"""The last session of each experiment, in ``sessions/EXPERIMENT/last.json``: its verdicts and figures, no examples."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pytest_dspy_ft.errors import RecordError
from pytest_dspy_ft.records.base import first_problem
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.measured import MeasuredStage
from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord
from pytest_dspy_ft.records.usage import Usage
from pytest_dspy_ft.redaction import redact
from pytest_dspy_ft.store.entries import DamagedEntryError, OtherVersionError, is_before, read_entry, write_entry
from pytest_dspy_ft.store.folder import StoreFolder
from pytest_dspy_ft.store.folder_names import folder_for

LAST = "last.json"


@dataclass(frozen=True)
class KeptSession:
    """What is kept of a session for one experiment."""

    run: RunRecord
    """Its record; evaluations are without their examples."""
    measured: tuple[MeasuredStage, ...]
    """The figures of these evaluations."""


def last_session_path(store: StoreFolder, experiment: str) -> Path:
    """Where the last session of an experiment is kept."""
    return folder_for(store.root / "sessions", experiment) / LAST


def measured_stages(results: Iterable[StageResult]) -> tuple[MeasuredStage, ...]:
    """The figures of evaluations, of those that have any example."""
    return tuple(MeasuredStage.of(result) for result in results if result.n)


def keep_session(store: StoreFolder, run: RunRecord) -> None:
    """Keep a session, experiment by experiment, in place of the one before.

    Raises:
        StoreError: The store cannot be written.
    """
    for experiment in run.experiments:
        path = last_session_path(store, experiment.name)
        store.prepared(path.parent.relative_to(store.root))
        alone = run.model_copy(update={"experiments": (_lean(experiment),)})
        content = {
            "record": json.loads(redact(alone.model_dump_json(exclude_defaults=True))),
            "measured": [one.model_dump(mode="json") for one in measured_stages(experiment.results)],
        }
        with store.writing():
            write_entry(path, {"experiment": experiment.name}, content)


def read_last_session(store: StoreFolder, experiment: str) -> KeptSession | None:
    """The last session of an experiment; None where none is kept.

    Raises:
        RecordError: It cannot be read, is not as it was written, or another version wrote it.
    """
    path = last_session_path(store, experiment)
    if not path.is_file():
        return None
    again = "run the stage's tests once: they write it again, and build nothing"
    try:
        content = read_entry(path, {"experiment": experiment})
        if is_before(content):
            raise DamagedEntryError("it has no checksum")
        measured = tuple(map(MeasuredStage.model_validate, content["measured"]))
        return KeptSession(RunRecord.model_validate(content["record"]), measured)
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error}; {again}") from None
    except DamagedEntryError as problem:
        raise RecordError(f"{path} is not as it was written: {problem}; {again}") from None
    except (OtherVersionError, KeyError, TypeError, ValidationError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise RecordError(f"{path} was written by another version of pytest-dspy-ft ({why}); {again}") from None


def _lean(record: ExperimentRecord) -> ExperimentRecord:
    """What says which gates passed: evaluations and builds are in the store."""
    update: dict[str, Any] = {
        "stages": tuple(
            build.model_copy(update={"bootstrap": None, "earlier_bootstraps": (), "training": (), "usage": Usage()})
            for build in record.stages
        ),
        "results": tuple(map(_without_examples, record.results)),
        "verdicts": tuple(verdict.model_copy(update={"message": ""}) for verdict in record.verdicts),
        **dict.fromkeys(("slices", "replies", "details"), ()),
        "examples": {},
        "comparison": None,
    }
    return record.model_copy(update=update)


def _without_examples(result: StageResult) -> StageResult:
    fields = {name: getattr(result, name) for name in type(result).model_fields}  # a copy would keep cached sums
    return StageResult.model_construct(**{**fields, "examples": ()})
