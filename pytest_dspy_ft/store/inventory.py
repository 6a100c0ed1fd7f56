"""What a store holds, read without the experiments that filled it: nothing is loaded or changed.

Manifests and evaluations count only where they are as they were written (of evaluations, where only heads are asked
for, these); the other files of builds are not looked at.

Whether a build counts for the experiment as it is declared *now* only a session can say. What the store itself knows:
which build of a stage is the newest (``current``), which are older ones under other keys (``older``: they are loaded
again when the declaration goes back), and which can never be loaded again, since what they stand on was built anew and
came out differently (``stale``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.store.build import MANIFEST, Build
from pytest_dspy_ft.store.entries import DamagedEntryError, OtherVersionError, own_name, read_json
from pytest_dspy_ft.store.evaluation_file import read_evaluation
from pytest_dspy_ft.store.evaluation_head import EvaluationHead, read_head
from pytest_dspy_ft.store.outputs import PARTIAL

Standing = Literal["current", "older", "stale"]
LeftoverKind = Literal["work", "set_aside", "journal", "answers"]


@dataclass(frozen=True)
class StoredBuild:
    """One build."""

    build: Build
    record: BuildRecord
    created: str
    """ISO 8601, UTC."""
    used: float
    """When a session last used it: seconds since 1970."""
    size: int
    """Bytes."""
    standing: Standing

    @property
    def name(self) -> tuple[str, str]:
        """(experiment, stage)."""
        return self.record.experiment, self.record.stage

    @property
    def upstream(self) -> dict[str, str]:
        """Digests of the builds that it stands on, by stage."""
        return dict(self.build.manifest["upstream"])


@dataclass(frozen=True)
class StoredEvaluation:
    """One evaluation."""

    path: Path
    head: EvaluationHead
    used: float
    size: int
    orphaned: bool
    """Whether the build that it measured is gone."""
    result: StageResult | None = None
    """The whole of it; None where heads were asked for."""


@dataclass(frozen=True)
class OutputsFile:
    """The outputs of one or more evaluations, whole."""

    path: Path
    key: str
    """What evaluations name them by."""
    used: float
    size: int


@dataclass(frozen=True)
class Leftover:
    """Something that belongs to no finished build or evaluation."""

    path: Path
    kind: LeftoverKind
    used: float
    size: int


@dataclass(frozen=True)
class Inventory:
    """All that a store holds."""

    root: Path
    builds: tuple[StoredBuild, ...] = ()
    """By experiment, stage and age, the newest first."""
    evaluations: tuple[StoredEvaluation, ...] = ()
    outputs: tuple[OutputsFile, ...] = ()
    """They are not looked into."""
    leftovers: tuple[Leftover, ...] = ()
    unreadable: tuple[Path, ...] = field(default=())
    """Entries that are damaged."""
    other_versions: tuple[Path, ...] = field(default=())
    """Builds and evaluations that another version wrote."""

    @property
    def experiments(self) -> list[str]:
        """The names of all experiments."""
        names = [b.record.experiment for b in self.builds] + [e.head.experiment for e in self.evaluations]
        return sorted(set(names))

    def newest(self, experiment: str) -> dict[str, StoredBuild]:
        """The newest build of every stage."""
        return {b.record.stage: b for b in self.builds if b.record.experiment == experiment and b.standing == "current"}


def take_inventory(root: Path, *, heads: bool = False) -> Inventory:
    """Look through a store.

    Args:
        root: The store.
        heads: Of evaluations, read what a list shows: without their examples, and without looking for damage in them.

    Raises:
        StoreError: There is none.
    """
    if not any((root / part).is_dir() for part in ("stages", "evaluations", "work", "locks")):
        there = "is no store of pytest-dspy-ft" if root.exists() else "does not exist"
        raise StoreError(f"{root} {there}; a session makes one, by default .dspy_ft beside the ini file")
    unreadable: list[Path] = []
    other: list[Path] = []
    found = list(_read_builds(root, unreadable, other))
    found.sort(key=lambda b: (b.created, b.used), reverse=True)
    newest: dict[tuple[str, str], str] = {}
    for stored in found:
        newest.setdefault(stored.name, stored.build.digest)
    stale = _stale(found)
    builds = [
        dataclasses.replace(b, standing="stale")
        if b.build.folder in stale
        else dataclasses.replace(b, standing="current" if newest[b.name] == b.build.digest else "older")
        for b in found
    ]
    builds.sort(key=lambda b: b.name)  # stable: the newest of a stage stay first
    digests = {stored.build.digest for stored in found}
    return Inventory(
        root=root,
        builds=tuple(builds),
        evaluations=tuple(_read_evaluations(root, digests, unreadable, other, heads=heads)),
        outputs=tuple(_outputs(root)),
        leftovers=tuple(_leftovers(root)),
        unreadable=tuple(unreadable),
        other_versions=tuple(other),
    )


def _read_builds(root: Path, unreadable: list[Path], other: list[Path]) -> Iterator[StoredBuild]:
    for folder in sorted(p for p in (root / "stages").glob("*/*/*") if p.is_dir()):
        counting = _counting(folder)
        for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
            place = manifest.parent
            try:
                build = Build(place, pointer=counting.get(place.name))
                created = str(build.manifest["created"])
                if folder.name != build.manifest["key"]:
                    raise DamagedEntryError("it lies under another key")
                if place.name not in counting:
                    continue  # replaced; the next build of this key removes it
                record = build.record.model_copy(update={"status": "loaded", "digest": build.digest})
                used = build.pointer.stat().st_mtime
            except OtherVersionError:
                other.append(place)
            except (OSError, ValueError, KeyError):
                unreadable.append(place)
            else:
                yield StoredBuild(build, record, created, used, size_of(place), "older")


def _counting(folder: Path) -> dict[str, Path]:
    """The builds of a key that count, of all versions, by name of folder: the files that say so."""
    counting: dict[str, Path] = {}
    for pointer in sorted(folder.glob("current*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            counting[str(read_json(pointer)["build"])] = pointer
    return counting


def _stale(found: list[StoredBuild]) -> set[Path]:
    """Folders of the builds that stand on one that is gone, or on one that does."""
    stale: set[Path] = set()
    while True:
        there = {(*b.name, b.build.digest) for b in found if b.build.folder not in stale}
        more = {
            b.build.folder
            for b in found
            if any((b.record.experiment, stage, digest) not in there for stage, digest in b.upstream.items())
        }
        if more == stale:
            return stale
        stale = more


def _read_evaluations(
    root: Path, digests: set[str], unreadable: list[Path], other: list[Path], *, heads: bool
) -> Iterator[StoredEvaluation]:
    for path in sorted((root / "evaluations").glob("*/*/*.json")):
        if path.name.startswith("."):
            continue
        try:
            result, head = None, read_head(path) if heads else None
            if head is None:
                result, _ = read_evaluation(path)
                head = EvaluationHead.of(result)
            if path not in (file := path.with_name(f"{head.on}-{head.key}.json"), own_name(file)):
                raise DamagedEntryError("it lies in another's place")
            stat = path.stat()
        except OtherVersionError:
            other.append(path)
        except (OSError, ValueError):
            unreadable.append(path)
        else:
            orphaned = bool(head.build) and head.build not in digests
            whole = None if heads or result is None else result.model_copy(update={"loaded": True})
            yield StoredEvaluation(path, head, stat.st_mtime, stat.st_size, orphaned, whole)


def _outputs(root: Path) -> Iterator[OutputsFile]:
    for path in sorted((root / "outputs").glob("*/*/*.jsonl*")):
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(PARTIAL):
            key = path.name.split(".")[0].partition("-")[2]
            yield OutputsFile(path, key, path.stat().st_mtime, path.stat().st_size)


def _leftovers(root: Path) -> Iterator[Leftover]:
    places: list[tuple[LeftoverKind, str]] = [
        ("work", "work/*"),
        ("set_aside", "set_aside/*"),
        ("journal", "evaluations/*/*/*.partial.jsonl"),
        ("journal", f"outputs/*/*/*{PARTIAL}"),
        ("answers", "responses/*"),
    ]
    for kind, pattern in places:
        for path in sorted(root.glob(pattern)):
            yield Leftover(path, kind, _last_change(path), size_of(path))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def _last_change(path: Path) -> float:
    times = [0.0]
    for part in [path, *(path.rglob("*") if path.is_dir() else ())]:
        with contextlib.suppress(OSError):
            times.append(part.stat().st_mtime)
    return max(times)


def declared(stored: dict[str, StoredBuild]) -> dict[str, Any]:
    """The declaration that the newest of some builds holds of its experiment: order of the stages, sizes, seed, LM."""
    newest = max(stored.values(), key=lambda b: b.created, default=None)
    content: dict[str, Any] = newest.build.manifest.get("declared") or {} if newest else {}
    return content


def when(seconds: float) -> str:
    """A time as it is shown: UTC, to the minute."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M")
