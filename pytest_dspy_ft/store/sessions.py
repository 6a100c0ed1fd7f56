"""The record of the last session of each experiment: ``sessions/EXPERIMENT/last.json``, verdicts and scores only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.records.evaluation import ExampleResult, MetricScore, StageResult
from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord
from pytest_dspy_ft.records.run_file import record_json
from pytest_dspy_ft.records.usage import Usage
from pytest_dspy_ft.store.folder import StoreFolder
from pytest_dspy_ft.store.folder_names import folder_for

LAST = "last.json"


def last_session_path(store: StoreFolder, experiment: str) -> Path:
    """Where the record of an experiment's last session lies."""
    return folder_for(store.root / "sessions", experiment) / LAST


def keep_session(store: StoreFolder, run: RunRecord) -> None:
    """Keep the record of a session, experiment by experiment, in place of that of the session before.

    Raises:
        StoreError: The store cannot be written.
    """
    for experiment in run.experiments:
        path = last_session_path(store, experiment.name)
        store.prepared(path.parent.relative_to(store.root))
        alone = run.model_copy(update={"experiments": (_lean(experiment),)})
        with store.writing():
            write_atomically(path, record_json(alone, brief=True))


def _lean(record: ExperimentRecord) -> ExperimentRecord:
    """What says which gates passed with which scores: evaluations and builds are in the store."""
    update: dict[str, Any] = {
        "stages": tuple(
            build.model_copy(update={"bootstrap": None, "earlier_bootstraps": (), "training": (), "usage": Usage()})
            for build in record.stages
        ),
        "results": tuple(map(_lean_result, record.results)),
        "verdicts": tuple(verdict.model_copy(update={"message": ""}) for verdict in record.verdicts),
        **dict.fromkeys(("slices", "replies", "details"), ()),
        "examples": {},
        "comparison": None,
    }
    return record.model_copy(update=update)


def _lean_result(result: StageResult) -> StageResult:
    fields = {name: getattr(result, name) for name in type(result).model_fields}  # a copy would keep cached sums
    return StageResult.model_construct(**{**fields, "examples": tuple(map(_lean_example, result.examples))})


def _lean_example(example: ExampleResult) -> ExampleResult:
    further = {
        name: MetricScore(score=said.score, error=None if said.error is None else "not kept here")
        for name, said in example.further.items()
    }
    lean = {name: getattr(example, name) for name in ("id", "score", "outcome", "fault", "repeat")}
    return ExampleResult(**lean, further=further, repeats=tuple(map(_lean_example, example.repeats)))
