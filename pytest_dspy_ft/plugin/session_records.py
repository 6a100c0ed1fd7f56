"""Records on their way from the process that made them to the one that shows them.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.plugin.options import Options
from pytest_dspy_ft.version import __version__

if TYPE_CHECKING:
    from pytest_dspy_ft.ladder.ladder import Ladder
    from pytest_dspy_ft.records.build import BuildRecord
    from pytest_dspy_ft.records.comparison import ComparisonRecord
    from pytest_dspy_ft.records.evaluation import StageResult
    from pytest_dspy_ft.records.gate import UnjudgedGate
    from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord
    from pytest_dspy_ft.records.slices import SlicingRecord

_HERE = "here: "
"""How the word begins that stands for records of this process."""

_IMPORTANCE = ("skipped", "loaded", "failed", "built")


@dataclass
class _Sent:
    """What was sent of an experiment."""

    marks: set[str] = field(default_factory=set)
    stages: dict[str, BuildRecord] = field(default_factory=dict)
    """The last record of each stage that was looked at."""
    verdicts: int = 0
    """How many verdicts were looked at: only later ones may be unsent."""


class SessionRecords:
    """The records of a session: packed where they are made, unpacked and merged where they are shown.

    Args:
        options: What the user asked for: it decides how much the records hold.
        travels: True where another process shows them.
    """

    def __init__(self, options: Options, *, travels: bool = False) -> None:
        self._options = options
        self._travels = travels
        self._process = os.getpid()
        self._handed_over: dict[str, list[ExperimentRecord]] = {}
        self._started = time.monotonic()
        self._sent: dict[str, _Sent] = {}
        self._comparisons: dict[str, ComparisonRecord] = {}
        self._received: dict[str, ExperimentRecord] = {}
        self._incomplete: list[str] = []
        self._commit: tuple[str, bool | None] = "", None
        self._partial: tuple[str, ...] = ()
        self._unjudged: tuple[UnjudgedGate, ...] = ()

    # --- in the process that made them

    def pack(self, ladders: Iterable[Ladder]) -> str | None:
        """The records of what happened since the last call, as text; None when nothing did.

        It is JSON for another process, and a word for this one, which has the records.
        """
        unsent = [record for ladder in ladders if (record := self._unsent(ladder)) is not None]
        if not unsent:
            return None
        if self._travels or os.getpid() != self._process:  # a test may run in a fork
            return json.dumps([record.model_dump(mode="json") for record in unsent])
        word = f"{_HERE}{len(self._handed_over)}"
        self._handed_over[word] = unsent
        return word

    def _unsent(self, ladder: Ladder) -> ExperimentRecord | None:
        known = self._sent.setdefault(ladder.experiment.name, _Sent())
        record, sent = ladder.record(verdicts_from=known.verdicts), known.marks
        known.verdicts += len(record.verdicts)
        changed = [s for s in record.stages if known.stages.get(s.stage) is not s]
        known.stages |= {s.stage: s for s in changed}
        update: dict[str, Any] = {
            "stages": tuple(s for s in changed if _add(sent, s.model_dump_json())),
            "results": tuple(r for r in record.results if _add(sent, f"{r.stage}/{r.on}/{r.key}/{r.n}")),
            "slices": tuple(s for s in record.slices if _add(sent, f"slices/{s.by}/{s.on}/{s.asked}")),
            "verdicts": tuple(v for v in record.verdicts if _add(sent, f"{v.test}/{v.model_dump_json()}")),
        }
        stopped = bool(record.stopped) and _add(sent, f"stopped/{record.stopped}")
        comparison = self._comparisons.get(record.name)
        compared = comparison is not None and _add(sent, "comparison")
        first = _add(sent, "experiment")
        if not (any(update.values()) or first or stopped or compared):
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
        from pytest_dspy_ft.records.base import AS_WRITTEN
        from pytest_dspy_ft.records.run import ExperimentRecord

        if packed.startswith(_HERE):
            records = self._handed_over[packed]
            self._handed_over[packed] = []
        else:
            records = [ExperimentRecord.model_validate(content, context=AS_WRITTEN) for content in json.loads(packed)]
        for fresh in records:
            known = self._received.get(fresh.name)
            self._received[fresh.name] = fresh if known is None else _merged(known, fresh)

    def note_incomplete(self, reason: str) -> None:
        """Note why the records are not all that there should be."""
        self._incomplete.append(reason)

    def note_commit(self, commit: str, dirty: bool | None) -> None:
        """Note the commit that the project stands at, and whether its files differ from it."""
        self._commit = commit, dirty

    def note_left_out(self, partial: Iterable[str], unjudged: Iterable[UnjudgedGate]) -> None:
        """Note what the session left out: of what the tests measure, and of their gates."""
        self._partial, self._unjudged = tuple(dict.fromkeys(partial)), tuple(unjudged)

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
            commit=self._commit[0],
            dirty=self._commit[1],
            experiments=experiments,
            incomplete=(*self._incomplete, *dict.fromkeys(e.stopped for e in experiments if e.stopped)),
            partial=self._partial,
            unjudged=self._unjudged,
            seconds=time.monotonic() - self._started,
            versions={"pytest-dspy-ft": __version__, **{name: version(name) for name in ("dspy", "pytest")}},
            environment=_environment(),
        )


def _environment() -> dict[str, str]:
    """The versions of Python, and of what runs models on this machine as far as it is installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "peft"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return {"python": platform.python_version(), **found}


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
            "slices": _merged_slices(known, fresh),
            "verdicts": (*known.verdicts, *fresh.verdicts),
            "stopped": fresh.stopped or known.stopped,
            "cautions": tuple(dict.fromkeys((*known.cautions, *fresh.cautions))),
            "tested_programs": max(known.tested_programs, fresh.tested_programs),
            "examples": known.examples | fresh.examples,
            "comparison": fresh.comparison or known.comparison,
            "replies": tuple({(r.stage, r.on, r.id): r for r in (*known.replies, *fresh.replies)}.values()),
            "details": tuple({d.stage: d for d in (*known.details, *fresh.details)}.values()),
        }
    )


def _merged_slices(known: ExperimentRecord, fresh: ExperimentRecord) -> tuple[SlicingRecord, ...]:
    """The slicings of both, each once: the one that was asked for."""
    slicings: dict[tuple[str, str], SlicingRecord] = {}
    for slicing in (*known.slices, *fresh.slices):
        other = slicings.get((slicing.by, slicing.on))
        if other is None or slicing.asked:
            slicings[slicing.by, slicing.on] = slicing
    return tuple(slicings.values())


def _counts_more(result: StageResult, other: StageResult) -> bool:
    """True for the evaluation to show of two: that of more examples, else the one that this session measured."""
    return result.n > other.n or (result.n == other.n and other.loaded and not result.loaded)
