"""Records on their way from the process that made them to the one that shows them.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.plugin.options import Options

if TYPE_CHECKING:
    from pytest_dspy_ft.ladder.ladder import Ladder
    from pytest_dspy_ft.records.build import BuildRecord
    from pytest_dspy_ft.records.comparison import ComparisonRecord
    from pytest_dspy_ft.records.evaluation import StageResult
    from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord

_IMPORTANCE = ("skipped", "loaded", "failed", "built")


class SessionRecords:
    """The records of a session: packed where they are made, unpacked and merged where they are shown.

    Args:
        options: What the user asked for: it decides how much the records hold.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._started = time.monotonic()
        self._sent: dict[str, set[str]] = {}
        self._comparisons: dict[str, ComparisonRecord] = {}
        self._received: dict[str, ExperimentRecord] = {}
        self._incomplete: list[str] = []

    # --- in the process that made them

    def pack(self, ladders: Iterable[Ladder]) -> str | None:
        """The records of what happened since the last call, as JSON; None when nothing did."""
        packed = [record.model_dump(mode="json") for ladder in ladders if (record := self._unsent(ladder)) is not None]
        return json.dumps(packed) if packed else None

    def _unsent(self, ladder: Ladder) -> ExperimentRecord | None:
        record = ladder.record()
        sent = self._sent.setdefault(record.name, set())
        update: dict[str, Any] = {
            "stages": tuple(s for s in record.stages if _add(sent, s.model_dump_json())),
            "results": tuple(r for r in record.results if _add(sent, f"{r.stage}/{r.on}/{r.key}/{r.n}")),
            "verdicts": tuple(v for v in record.verdicts if _add(sent, f"{v.test}/{v.model_dump_json()}")),
        }
        stopped = bool(record.stopped) and _add(sent, f"stopped/{record.stopped}")
        comparison = self._comparisons.get(record.name)
        compared = comparison is not None and _add(sent, "comparison")
        if not (any(update.values()) or _add(sent, "experiment") or stopped or compared):
            return None
        if compared:
            update["comparison"] = comparison
        if self._options.reports:
            from pytest_dspy_ft.records.run import ExampleReplies, worth_reading

            stages = [s.stage for s in record.stages if s.digest and _add(sent, f"details/{s.stage}/{s.digest}")]
            update["replies"] = tuple(
                ExampleReplies.of(result, identity, replies)
                for result in record.results
                if _add(sent, f"replies/{result.stage}/{result.on}")
                for identity, replies in ladder.replies(result, worth_reading(result)).items()
            )
            update["details"] = tuple(details for stage in stages if (details := ladder.details(stage)))
        if self._options.reports or self._options.compare or self._options.save_baseline:
            update["examples"] = {
                identity: content
                for on in dict.fromkeys(result.on for result in record.results)
                if _add(sent, f"examples/{on}")
                for identity, content in ladder.contents(on).items()
            }
        return record.model_copy(update=update)

    # --- in the process that shows them

    def unpack(self, packed: str) -> None:
        """Add what :meth:`pack` gave, here or in another process."""
        from pytest_dspy_ft.records.run import ExperimentRecord

        for content in json.loads(packed):
            fresh = ExperimentRecord.model_validate(content)
            known = self._received.get(fresh.name)
            self._received[fresh.name] = fresh if known is None else _merged(known, fresh)

    def note_incomplete(self, reason: str) -> None:
        """Note why the records are not all that there should be."""
        self._incomplete.append(reason)

    def keep_comparison(self, experiment: str, comparison: ComparisonRecord) -> None:
        """Note how an experiment stands against the baseline."""
        self._comparisons[experiment] = comparison
        if (known := self._received.get(experiment)) is not None:
            self._received[experiment] = known.model_copy(update={"comparison": comparison})

    @property
    def compared(self) -> frozenset[str]:
        """The experiments that were held against the baseline, as far as is known here."""
        known = (name for name, record in self._received.items() if record.comparison is not None)
        return frozenset([*self._comparisons, *known])

    @property
    def is_empty(self) -> bool:
        """True as long as no record was received."""
        return not self._received

    def experiment(self, name: str) -> ExperimentRecord | None:
        """The record of an experiment, as far as it was received; None without."""
        return self._received.get(name)

    def run(self) -> RunRecord:
        """The record of the whole session, as far as it was received."""
        from importlib.metadata import version

        from pytest_dspy_ft.records.run import RunRecord

        experiments = tuple(self._received.values())
        return RunRecord(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            experiments=experiments,
            incomplete=(*self._incomplete, *dict.fromkeys(e.stopped for e in experiments if e.stopped)),
            seconds=time.monotonic() - self._started,
            versions={name: version(name) for name in ("pytest-dspy-ft", "dspy", "pytest")},
        )


def _add(sent: set[str], mark: str) -> bool:
    """Add a mark; False where it was there before."""
    if mark in sent:
        return False
    sent.add(mark)
    return True


def _merged(known: ExperimentRecord, fresh: ExperimentRecord) -> ExperimentRecord:
    """Two processes' records of one experiment, each stage and evaluation once."""
    stages: dict[str, BuildRecord] = {}
    for stage in (*known.stages, *fresh.stages):
        other = stages.get(stage.stage)
        if other is None or _IMPORTANCE.index(stage.status) > _IMPORTANCE.index(other.status):
            stages[stage.stage] = stage
    results: dict[tuple[str, str], StageResult] = {}
    for result in (*known.results, *fresh.results):
        other_result = results.get((result.stage, result.on))
        if other_result is None or _counts_more(result, other_result):
            results[result.stage, result.on] = result
    return known.model_copy(
        update={
            "stages": tuple(stages[name] for name in known.order if name in stages),
            "results": tuple(results.values()),
            "verdicts": (*known.verdicts, *fresh.verdicts),
            "stopped": fresh.stopped or known.stopped,
            "cautions": tuple(dict.fromkeys((*known.cautions, *fresh.cautions))),
            "examples": known.examples | fresh.examples,
            "comparison": fresh.comparison or known.comparison,
            "replies": tuple({(r.stage, r.on, r.id): r for r in (*known.replies, *fresh.replies)}.values()),
            "details": tuple({d.stage: d for d in (*known.details, *fresh.details)}.values()),
        }
    )


def _counts_more(result: StageResult, other: StageResult) -> bool:
    """True for the evaluation to show of two: that of more examples, else the one that this session measured."""
    return result.n > other.n or (result.n == other.n and other.loaded and not result.loaded)
