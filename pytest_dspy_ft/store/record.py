"""A record made from what a store holds: the newest build of every stage, and its evaluations."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Sequence

from pytest_dspy_ft.errors import StoreError, StoreWarning
from pytest_dspy_ft.records.base import KINDS, Split
from pytest_dspy_ft.records.build import StageDetails
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord
from pytest_dspy_ft.store.build_details import read_details
from pytest_dspy_ft.store.folder import StoreFolder
from pytest_dspy_ft.store.inventory import Inventory, StoredBuild, StoredEvaluation, declared
from pytest_dspy_ft.store.split_memory import SplitMemory
from pytest_dspy_ft.version import __version__

NO_VERDICTS = "made from the store, which keeps builds and evaluations but no verdicts"


def record_of_store(inventory: Inventory) -> RunRecord:
    """The newest state of every experiment, as a session's record."""
    notes = [NO_VERDICTS]
    experiments = []
    for name in inventory.experiments:
        builds = inventory.newest(name)
        notes += _mixed_ladders(name, builds)
        details = []
        for stage, stored in builds.items():
            try:
                details.append(read_details(stage, stored.build))
            except StoreError as problem:
                notes.append(f"experiment {name}: prompts of {stage} are left out: {problem}")
        memory = SplitMemory(folder := StoreFolder(inventory.root, read_only=True), name)
        with warnings.catch_warnings(record=True) as damage:
            warnings.simplefilter("always", StoreWarning)
            tested = len(memory.read().programs)
        notes += [f"damaged, left out: {memory.path.relative_to(folder.root)}"] * bool(damage)
        record = _experiment(name, builds, inventory.evaluations, details)
        experiments.append(record.model_copy(update={"tested_programs": tested}))
    notes += [f"damaged, left out: {path.relative_to(inventory.root)}" for path in inventory.unreadable]
    notes += [f"of another version, left out: {path.relative_to(inventory.root)}" for path in inventory.other_versions]
    return RunRecord(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        experiments=tuple(experiments),
        incomplete=tuple(notes),
        versions={"pytest-dspy-ft": __version__},
    )


def _mixed_ladders(name: str, builds: dict[str, StoredBuild]) -> list[str]:
    """Where the newest build of a stage does not stand on the newest of another: they are not of one ladder."""
    return [
        f"experiment {name}: the newest build of {stage} stands on an older one of {below}"
        for stage, stored in builds.items()
        for below, digest in stored.upstream.items()
        if below in builds and builds[below].build.digest != digest
    ]


def _experiment(
    name: str,
    builds: dict[str, StoredBuild],
    evaluations: tuple[StoredEvaluation, ...],
    details: Sequence[StageDetails],
) -> ExperimentRecord:
    facts = declared(builds)
    known = [stage for stage in facts.get("order", ()) if stage in builds]
    order = [*known, *sorted(builds.keys() - set(known), key=lambda stage: _rank(stage, builds))]
    newest: dict[tuple[str, Split], StoredEvaluation] = {}
    for evaluation in evaluations:
        head = evaluation.head
        mine = head.stage not in builds or head.build in ("", builds[head.stage].build.digest)
        if head.experiment == name and mine:
            other = newest.get((head.stage, head.on))
            if other is None or evaluation.used > other.used:
                newest[head.stage, head.on] = evaluation
    results = tuple(evaluation.result for evaluation in newest.values() if evaluation.result is not None)
    return ExperimentRecord(
        name=name,
        lm=str(facts.get("lm") or next((builds[s].record.lm for s in order if builds[s].record.lm), "")),
        seed=int(facts.get("seed") or 0),
        sizes=facts.get("sizes") or _sizes(results),
        limit=facts.get("limit"),
        order=tuple(order),
        stages=tuple(builds[stage].record for stage in order),
        results=results,
        details=tuple(sorted(details, key=lambda one: order.index(one.stage))),
    )


def _rank(stage: str, builds: dict[str, StoredBuild]) -> tuple[int, int, str]:
    """Where a stage stands that the newest build does not name: above what it stands on, then by kind and age."""
    return len(_all_upstream(stage, builds)), KINDS.index(builds[stage].record.kind), builds[stage].created


def _all_upstream(stage: str, builds: dict[str, StoredBuild]) -> set[str]:
    """All stages that a stage stands on."""
    found: set[str] = set()
    todo = [stage]
    while todo:
        stored = builds.get(todo.pop())
        fresh = set(stored.upstream) - found if stored else set()
        found |= fresh
        todo += fresh
    return found


def _sizes(results: tuple[StageResult, ...]) -> dict[Split, int]:
    return {result.on: result.n for result in results}
