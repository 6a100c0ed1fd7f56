"""An experiment's record as a run of MLflow: its params, metrics and tags. MLflow itself is not needed for that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pytest_dspy_ft.records.history import further_scores
from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord, SummaryRecord
from pytest_dspy_ft.report.summary import cost_of, summary_records
from pytest_dspy_ft.text import one_line

LONGEST_PARAM = 500
"""Characters: what every MLflow since 1.28 takes."""
LONGEST_TAG = 5000

RECORD_TAG = "dspy_ft.record"
"""The tag that tells the runs of one saved record from others."""


class MlflowRun(NamedTuple):
    """All that is logged of one experiment, its reports aside."""

    name: str
    params: dict[str, str]
    metrics: dict[str, float]
    """What was measured: ``score.finetuned.dev``."""
    tags: dict[str, str]


def mlflow_run(run: RunRecord, record: ExperimentRecord) -> MlflowRun:
    """One experiment of a session as a run of MLflow."""
    commit = run.commit[:7]
    params = {name: one_line(value)[:LONGEST_PARAM] for name, value in _params(run, record) if value}
    tags = {name: one_line(value)[:LONGEST_TAG] for name, value in _tags(run, record) if value}
    return MlflowRun(f"{run.created[:19]} {commit}".rstrip(), params, dict(_metrics(record)), tags)


def _params(run: RunRecord, record: ExperimentRecord) -> Iterator[tuple[str, str]]:
    yield "lm", record.lm
    yield "seed", str(record.seed)
    yield from ((f"size.{split}", str(size)) for split, size in record.sizes.items())
    yield "limit", "" if record.limit is None else str(record.limit)
    yield "stages", ", ".join(record.order)
    yield "metric", record.metric
    for build in record.stages:
        yield f"kind.{build.stage}", build.kind
        yield f"lm.{build.stage}", build.lm
        for training in build.training[-1:]:
            yield f"training_rows.{build.stage}", str(training.rows)
            yield f"training_steps.{build.stage}", "" if training.steps is None else str(training.steps)
            yield f"training_job.{build.stage}", training.job or ""
    yield from ((f"version.{name}", version) for name, version in run.versions.items())


def _metrics(record: ExperimentRecord) -> Iterator[tuple[str, float]]:
    for row in summary_records(record):
        yield from ((f"{name}.{row.stage}.{row.on}", value) for name, value in _figures(row) if value is not None)
    for result in record.results:
        yield from ((f"{name}.{result.stage}.{result.on}", score) for name, score in further_scores(result).items())
    for build in record.stages:
        if (cost := cost_of(build)) is not None:
            yield f"build_cost.{build.stage}", cost
        yield f"build_seconds.{build.stage}", build.seconds
        if build.bootstrap is not None and build.bootstrap.attempted:
            yield f"bootstrap_rate.{build.stage}", build.bootstrap.rate
        for training in build.training[-1:]:
            if training.train_loss is not None:
                yield f"train_loss.{build.stage}", training.train_loss
    for verdict in ("PASS", "FAIL", "UNDECIDED"):
        yield f"gates.{verdict}", float(sum(one.verdict == verdict for one in record.verdicts))


def _figures(row: SummaryRecord) -> list[tuple[str, float | None]]:
    return [
        ("score", row.score),
        ("score_low", row.interval[0]),
        ("score_high", row.interval[1]),
        ("difference", row.difference),
        ("n", float(row.n)),
        ("errors", float(row.errors)),
        ("unparsed", float(row.unparsed)),
        ("cut_off", float(row.cut_off)),
        ("tokens_per_call", row.tokens_per_call),
        ("cost_per_call", row.cost_per_call),
        ("seconds_per_call", row.seconds_per_call),
    ]


def _tags(run: RunRecord, record: ExperimentRecord) -> Iterator[tuple[str, str]]:
    yield "mlflow.source.git.commit", run.commit
    yield "dspy_ft.dirty", "" if run.dirty is None else str(run.dirty).lower()
    yield "dspy_ft.experiment", record.name
    yield "dspy_ft.created", run.created
    yield "dspy_ft.incomplete", "; ".join(run.incomplete)
    yield from ((f"dspy_ft.key.{build.stage}", build.key) for build in record.stages)
    yield from ((f"dspy_ft.build.{build.stage}", build.digest) for build in record.stages)
    yield from ((f"dspy_ft.evaluation.{r.stage}.{r.on}", r.key) for r in record.results)
