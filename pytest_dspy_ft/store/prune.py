"""Taking out of a store what no longer counts, and nothing that somebody may be using."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from pytest_dspy_ft.locks import locked
from pytest_dspy_ft.store.build import MANIFEST
from pytest_dspy_ft.store.inventory import Inventory, Leftover, size_of

IN_USE_SECONDS = 3600.0
"""A build that a session used so recently may still be in use: sessions read its weights when they first need them."""
DAY = 86_400.0


@dataclass(frozen=True)
class Removal:
    """Something to remove, and why."""

    path: Path
    size: int
    reason: str
    lock: str = ""
    """The lock that whoever works on it holds."""
    pointer: Path | None = None
    """The file that says that a build counts, where other versions' builds lie beside it and stay."""


@dataclass(frozen=True)
class Kept:
    """Something that would have been removed, and why it was not."""

    path: Path
    reason: str


def plan_removals(
    inventory: Inventory,
    *,
    keep_last: int | None = None,
    older_than: float | None = None,
    other_versions: bool = False,
    now: float | None = None,
) -> tuple[list[Removal], list[Kept]]:
    """The removals that are due, none of them made.

    Always: work that a killed session left, damaged entries that were set aside, builds that can never be loaded again,
    evaluations of builds that are gone, with their outputs. The newest build of a stage that can be loaded, and all
    that it stands on, are always kept. So are fine-tuning jobs: they were paid for. What another version wrote stays,
    unless asked for.

    Args:
        inventory: The store.
        keep_last: Also builds of a stage beyond so many, the newest first.
        older_than: Also older builds, evaluations, answers and journals that no session used for so many days.
        other_versions: Also what other versions wrote.
        now: Seconds since 1970, for tests.

    Returns:
        (what to remove, what is kept although it would have been due).
    """
    now = time.time() if now is None else now
    due = dict(_due(inventory, keep_last, older_than, now))
    needed = {
        (b.record.experiment, stage, digest)
        for b in inventory.builds
        if b.build.folder not in due
        for stage, digest in b.upstream.items()
    }
    removals, kept = [], []
    gone, stay = set(), set()
    for stored in inventory.builds:
        if (reason := due.get(stored.build.folder)) is None:
            stay.add(stored.build.digest)
            continue
        folder = stored.build.folder.parent
        if (*stored.name, stored.build.digest) in needed:
            kept.append(Kept(folder, "a build that is kept stands on it"))
        elif now - stored.used < IN_USE_SECONDS:
            kept.append(Kept(folder, "a session used it within the last hour"))
        else:
            gone.add(stored.build.digest)
            lock = f"stage-{stored.record.key}"
            if any(p.parent != stored.build.folder for p in folder.glob(f"*/{MANIFEST}")):  # another version's
                removals.append(Removal(stored.build.folder, stored.size, reason, lock, stored.build.pointer))
            else:
                removals.append(Removal(folder, stored.size, reason, lock))
    gone -= stay  # the same build may lie there in two versions
    for evaluation in inventory.evaluations:
        lock = f"evaluation-{evaluation.head.key}"
        if evaluation.orphaned or evaluation.head.build in gone:
            removals.append(Removal(evaluation.path, evaluation.size, "the build it measured is gone", lock))
        elif not evaluation.head.build and (reason := _unused(evaluation.used, older_than, now)):
            removals.append(Removal(evaluation.path, evaluation.size, reason, lock))
    doomed = {removal.path for removal in removals}
    named = {e.head.outputs: False for e in inventory.evaluations}
    named |= {e.head.outputs: True for e in inventory.evaluations if e.path not in doomed}
    for outputs in inventory.outputs:
        lock = f"outputs-{outputs.key}"
        if not named.get(outputs.key, True):
            removals.append(Removal(outputs.path, outputs.size, "the evaluation made from it is gone", lock))
        elif outputs.key not in named and (reason := _unused(outputs.used, older_than, now)):
            removals.append(Removal(outputs.path, outputs.size, reason, lock))
    if other_versions:
        removals += [Removal(p, size_of(p), "another version wrote it") for p in inventory.other_versions]
    for leftover in inventory.leftovers:
        if reason := _leftover_reason(leftover, older_than, now):
            lock = _workspace_lock(inventory.root, leftover.path) if leftover.kind == "work" else ""
            if leftover.kind == "work" and not lock and now - leftover.used < IN_USE_SECONDS:
                kept.append(Kept(leftover.path, "somebody changed it within the last hour"))
            else:
                removals.append(Removal(leftover.path, leftover.size, reason, lock))
    return removals, kept


def remove(root: Path, removals: list[Removal]) -> tuple[list[Removal], list[Kept]]:
    """Remove what was planned; what is locked stays.

    Returns:
        (what was removed, what was not and why).
    """
    removed, kept = [], []
    for removal in removals:
        lock = locked(root / "locks" / f"{removal.lock}.lock", timeout=0) if removal.lock else nullcontext()
        try:
            with lock:
                # Out of the way at once, so that no session finds half of it.
                doomed = root / "work" / f"pruned-{time.time_ns()}"
                doomed.parent.mkdir(exist_ok=True)
                if removal.pointer is not None:
                    removal.pointer.unlink(missing_ok=True)
                removal.path.rename(doomed)
                if doomed.is_dir():
                    shutil.rmtree(doomed)
                else:
                    doomed.unlink()
                removed.append(removal)
        except Timeout:
            kept.append(Kept(removal.path, "it is locked: somebody works on it"))
        except OSError as error:
            kept.append(Kept(removal.path, error.strerror or str(error)))
    return removed, kept


def _due(
    inventory: Inventory, keep_last: int | None, older_than: float | None, now: float
) -> Iterator[tuple[Path, str]]:
    """Builds to remove, by folder, with the reason."""
    rank: dict[tuple[str, str], int] = {}
    for stored in inventory.builds:
        rank[stored.name] = rank.get(stored.name, 0) + 1
        if stored.standing == "stale":
            yield stored.build.folder, "what it stands on was built anew since"
        elif stored.standing == "current":
            continue
        elif keep_last is not None and rank[stored.name] > keep_last:
            yield stored.build.folder, f"{rank[stored.name] - 1} newer builds of this stage"
        elif reason := _unused(stored.used, older_than, now):
            yield stored.build.folder, reason


def _workspace_lock(root: Path, workspace: Path) -> str:
    """The lock that whoever builds in a workspace holds; a workspace's name has the beginning of the stage's key."""
    parts = workspace.name.rsplit("-", 2)
    if len(parts) < 3 or len(parts[1]) != 16:
        return ""
    locks = sorted((root / "locks").glob(f"stage-{parts[1]}*.lock"))
    return locks[0].stem if locks else ""


def _leftover_reason(leftover: Leftover, older_than: float | None, now: float) -> str:
    if leftover.kind == "work":
        return "a session that was killed left it"
    if leftover.kind == "set_aside":
        return "it was damaged, and set aside"
    return _unused(leftover.used, older_than, now)


def _unused(used: float, older_than: float | None, now: float) -> str:
    """Why something goes that was last used so long ago; empty where it stays."""
    return "" if older_than is None or now - used <= older_than * DAY else f"not used for {older_than:g} days"
