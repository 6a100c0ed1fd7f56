"""The record of the last session of each experiment: ``sessions/EXPERIMENT/last.json``."""

from __future__ import annotations

from pathlib import Path

from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.records.run import RunRecord
from pytest_dspy_ft.records.run_file import record_json
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
        lean = experiment.model_copy(update={"replies": (), "examples": {}, "details": ()})
        with store.writing():
            write_atomically(path, record_json(run.model_copy(update={"experiments": (lean,)})))
