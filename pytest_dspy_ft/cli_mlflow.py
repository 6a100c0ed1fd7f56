"""``python -m pytest_dspy_ft export-mlflow``: a saved record logged to MLflow, by MLflow's own client."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import RecordError
from pytest_dspy_ft.redaction import redact
from pytest_dspy_ft.report.formats import REPORT_KINDS

if TYPE_CHECKING:
    from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord

_BATCH = 100
"""How many params, metrics or tags one request may take."""


def add_mlflow_command(commands: Any) -> None:
    """Add the command to the command line's."""
    export = commands.add_parser(
        "export-mlflow",
        help="log a saved record to MLflow",
        description="Log a saved record (.json of --dspy-report) to MLflow, each experiment as a run: its LM, sizes "
        "and stages as params, its scores, intervals, costs and errors as metrics, commit and keys as tags, and the "
        "reports as artifacts. A record that was logged before is not logged twice.",
    )
    export.add_argument("record", type=Path, help="a record of --dspy-report=FILE.json")
    export.add_argument("--tracking-uri", metavar="URI", help="default: MLflow's own, MLFLOW_TRACKING_URI")
    export.add_argument("--experiment", metavar="NAME", help="MLflow's experiment; default: that of the record")
    export.add_argument("--run-name", metavar="NAME", help="default: date and commit")
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.records.run_file import read_record

    run = read_record(options.record)
    if not run.experiments:
        raise RecordError(f"{options.record} holds no experiment: there is nothing to log")
    client, failures = _client(options.tracking_uri)
    digest = hashlib.sha256(options.record.read_bytes()).hexdigest()[:32]
    for record in run.experiments:
        try:
            run_id, fresh = _log(client, run, record, digest, options)
        except failures as problem:
            reason = redact(" ".join(str(problem).split()))
            raise RecordError(f"MLflow did not take experiment {record.name!r} of {options.record}: {reason}") from None
        print(f"{record.name}: {'logged' if fresh else 'was logged before'} as run {run_id}")
    return 0


def _client(uri: str | None) -> tuple[Any, tuple[type[Exception], ...]]:
    """MLflow's client, and what it raises.

    Raises:
        RecordError: MLflow is not installed, or does not take the address.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nobody asked us to tell others of this
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its own 7 take minutes to say "refused"
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as problem:
        raise RecordError(
            f"export-mlflow needs MLflow's client ({problem}): pip install 'pytest-dspy-ft[mlflow]'"
        ) from None
    failures = (MlflowException, OSError)
    try:
        return MlflowClient(tracking_uri=uri), failures
    except failures as problem:
        raise RecordError(redact(f"MLflow cannot track to {uri or 'its default'}: {problem}")) from None


def _log(
    client: Any, run: RunRecord, record: ExperimentRecord, digest: str, options: argparse.Namespace
) -> tuple[str, bool]:
    """Log an experiment; gives the run's id, and whether it was logged just then.

    A run that was begun and not finished is gone on with.
    """
    from mlflow.entities import Metric, Param, RunTag

    from pytest_dspy_ft.report.mlflow_run import RECORD_TAG, mlflow_run

    name = options.experiment or record.name
    known = client.get_experiment_by_name(name)
    place = known.experiment_id if known is not None else client.create_experiment(name)
    content = mlflow_run(run, record)
    mark = f"{digest}-{hashlib.sha256(record.name.encode()).hexdigest()[:8]}"
    begun = client.search_runs([place], filter_string=f"tags.`{RECORD_TAG}` = '{mark}'", max_results=1)
    if begun and begun[0].info.status == "FINISHED":
        return str(begun[0].info.run_id), False
    end = int(datetime.datetime.fromisoformat(run.created).timestamp() * 1000)
    if begun:
        run_id = begun[0].info.run_id
    else:
        start = end - int(run.seconds * 1000)
        title = options.run_name or content.name
        run_id = client.create_run(place, start, tags={RECORD_TAG: mark}, run_name=title).info.run_id
    for tags in _batches(content.tags):
        client.log_batch(run_id, tags=[RunTag(*pair) for pair in tags])
    for params in _batches(content.params):
        client.log_batch(run_id, params=[Param(*pair) for pair in params])
    for metrics in _batches(content.metrics):
        client.log_batch(run_id, metrics=[Metric(key, value, end, 0) for key, value in metrics])
    _log_reports(client, run_id, run.model_copy(update={"experiments": (record,)}))
    client.set_terminated(run_id, "FINISHED", end)
    return str(run_id), True


def _log_reports(client: Any, run_id: str, run: RunRecord) -> None:
    from pytest_dspy_ft.files import write_atomically
    from pytest_dspy_ft.report.formats import rendered

    with tempfile.TemporaryDirectory() as folder:
        for suffix in REPORT_KINDS:
            path = Path(folder) / f"report{suffix}"
            write_atomically(path, rendered(run, path), flushed=False)
        client.log_artifacts(run_id, folder)


def _batches(values: Mapping[str, Any]) -> Iterator[list[tuple[str, Any]]]:
    pairs = iter(values.items())
    while batch := list(islice(pairs, _BATCH)):
        yield batch
