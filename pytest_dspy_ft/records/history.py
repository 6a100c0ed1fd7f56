"""What whole sessions measured, session by session: one point for each stage and split."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.records.base import SPLITS, Record, Split
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.gate import VerdictName, VerdictRecord
from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord

Part = Literal["LM", "data", "metric", "program", "settings"]
"""What a score depends on, as far as two points of a history tell it apart."""


class HistoryPoint(Record):
    """One stage on one split, as one session measured or loaded it. Figures only: no example and no answer."""

    created: str
    """ISO 8601, UTC: the session's end."""
    session: str = ""
    """The session that measured it; an earlier one where this one loaded it."""
    commit: str = ""
    """The commit of the project that was checked out; empty where there is none, or git does not say."""
    dirty: bool | None = None
    """Whether tracked files differed from it; None where that is not known."""
    experiment: str
    stage: str
    on: Split
    rung: int = 0
    """Where the stage stands in the ladder, from 0."""
    key: str
    """What the evaluation is filed under in the store."""
    build: str = ""
    """Content hash of the build that was measured."""
    lm: str
    """The LM that answered: for a fine-tuned stage, the model that training gave."""
    base: str = ""
    """The LM that was declared; where training gave another one, that of the experiment."""
    metric: str = ""
    """Fingerprint of the metric."""
    data: str = ""
    """Digest of the ids of the split's examples, whatever their order."""
    n: int
    score: float
    interval: tuple[float, float]
    errors: int = 0
    unparsed: int = 0
    tokens: float | None = None
    """Per call; None where replies did not say how many they took."""
    cost: float | None = None
    """US dollars per call; None where a price is not known."""
    latency: float = 0.0
    """Seconds per call."""
    metrics: dict[str, float] = {}
    """The scores by the experiment's further metrics."""
    gates: dict[VerdictName, int] = {}
    """The verdicts of the gates on this split that name the stage."""
    loaded: bool = False
    """Whether the session took it from the store instead of measuring it."""

    @property
    def series(self) -> tuple[str, str, Split]:
        """Points of one series are held against each other: (experiment, stage, split)."""
        return self.experiment, self.stage, self.on

    @property
    def day(self) -> str:
        """The date alone."""
        return self.created[:10]

    @property
    def place(self) -> str:
        """Date and commit, as people find them again: ``2026-11-30 83f0eb5``, with ``+`` where files differed."""
        commit = self.commit[:7] + ("+" if self.dirty else "")
        return f"{self.day} {commit}".rstrip()


def history_of(run: RunRecord) -> list[HistoryPoint]:
    """The points that a session adds: every stage of a ladder that it has on the whole of a split."""
    return [point for experiment in run.experiments for point in _points(run, experiment)]


def _points(run: RunRecord, record: ExperimentRecord) -> Iterator[HistoryPoint]:
    trained = {build.stage for build in record.stages if build.training}
    rungs = [(rung, record.result(stage, split)) for rung, stage in enumerate(record.order) for split in SPLITS]
    for rung, result in rungs:
        if result is None or not result.n or result.n != record.sizes.get(result.on, result.n):
            continue
        yield HistoryPoint(
            created=run.created,
            session=result.session,
            commit=run.commit,
            dirty=run.dirty,
            experiment=record.name,
            stage=result.stage,
            on=result.on,
            rung=rung,
            key=result.key,
            build=result.build,
            lm=result.lm,
            base=record.lm if result.stage in trained else result.lm,
            metric=record.metric,
            data=digest_json(sorted(result.ids), length=16),
            n=result.n,
            score=result.score,
            interval=result.interval,
            errors=result.errors,
            unparsed=result.unparsed,
            tokens=result.tokens,
            cost=result.cost,
            latency=result.latency,
            metrics=further_scores(result),
            gates=_verdicts(record.verdicts, result),
            loaded=result.loaded,
        )


def further_scores(result: StageResult) -> dict[str, float]:
    """An evaluation's scores by further metrics, where it has such."""
    return {name: result.metric(name).score for name in result.metrics}


def _verdicts(verdicts: Sequence[VerdictRecord], result: StageResult) -> dict[VerdictName, int]:
    names = re.compile(rf"(?<!\w){re.escape(result.stage)}(?!\w)")
    counts: dict[VerdictName, int] = {}
    for verdict in verdicts:
        if verdict.on == result.on and names.search(verdict.expression):
            counts[verdict.verdict] = counts.get(verdict.verdict, 0) + 1
    return counts


def repeats(before: HistoryPoint, after: HistoryPoint) -> bool:
    """True where a point says nothing beyond an earlier one: loaded at the same commit, with the same verdicts."""
    return after.loaded and before.model_copy(update=_WHEN) == after.model_copy(update=_WHEN)


# A working tree that differs in what no stage depends on is no news.
_WHEN = {"created": "", "loaded": True, "dirty": None, "rung": 0}


def changed_parts(before: HistoryPoint, after: HistoryPoint) -> tuple[Part, ...]:
    """What else is another in a later point, so that its score may differ for that reason alone.

    A program counts as changed where its build came out differently and nothing else says why.
    """
    parts: list[Part] = []
    if before.base != after.base:
        parts.append("LM")
    if before.data != after.data:
        parts.append("data")
    if before.metric != after.metric:
        parts.append("metric")
    if before.build != after.build and "LM" not in parts:
        parts.append("program")
    elif before.key != after.key and not parts:
        parts.append("settings")
    return tuple(parts)
