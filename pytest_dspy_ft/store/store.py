"""The store: what was built and measured, kept on disk under content keys.

Layout, below one directory (``.dspy_ft`` by default)::

    stages/EXPERIMENT/STAGE/KEY/current.json          which build counts: {"build": DIGEST}
    stages/EXPERIMENT/STAGE/KEY/DIGEST/               one build: manifest.json, program.json, adapters/, logs
    stages/EXPERIMENT/STAGE/KEY/shipment.json         what exporting it takes
    evaluations/EXPERIMENT/STAGE/SPLIT-KEY.json       one evaluation, all its examples
    evaluations/EXPERIMENT/STAGE/SPLIT-KEY.partial.jsonl   examples of an evaluation that was interrupted
    outputs/EXPERIMENT/STAGE/SPLIT-KEY.jsonl(.gz)     what the program gave for each example, with every reply
    outputs/EXPERIMENT/STAGE/SPLIT-KEY.partial.jsonl  the same of an evaluation that goes on or was interrupted
    jobs/EXPERIMENT/STAGE/KEY/                        fine-tuning jobs ordered or launched, also those under way
    endpoints/NAME.json                               what trained models answer from, while it costs by the hour
    traces/EXPERIMENT/STAGE/KEY/                      traces of a build that goes on or failed: they were paid for
    sessions/EXPERIMENT/last.json                     verdicts and scores of the last session
    splits/EXPERIMENT/splits.json                     which examples were in dev and test, which programs were tested
    history.jsonl                                     scores and verdicts of every whole session, a line for each
    served/SESSION.json                               adapters that a session has loaded on servers
    locks/, work/, set_aside/                         builders' locks, builds under way, damaged entries

Everything is JSON or safetensors. A file or folder appears under its final name only when it is complete (written
elsewhere, flushed, renamed), so a kill at any moment leaves either the old state or the new one. Every entry carries a
checksum over its content and over whose it is, journals line by line. What does not match is set aside, said, never
used and never deleted. Entries of other versions are left where they are (`pytest_dspy_ft.store.entries`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_dspy_ft.checksums import Owner, seal
from pytest_dspy_ft.errors import StoreWarning
from pytest_dspy_ft.files import flush
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult, settled_calls
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.store.build import CURRENT, MANIFEST, Build, file_digest
from pytest_dspy_ft.store.entries import (
    REASONS,
    DamagedEntryError,
    Finding,
    Lookup,
    OtherVersionError,
    candidates,
    is_foreign,
    newest_first,
    own_name,
    place_for,
    read_entry,
    read_json,
    write_entry,
)
from pytest_dspy_ft.store.evaluation_file import read_evaluation
from pytest_dspy_ft.store.evaluation_head import EvaluationHead
from pytest_dspy_ft.store.evaluation_journal import EvaluationJournal, keep_only, read_lines, write_line
from pytest_dspy_ft.store.folder_names import folder_for, folder_name
from pytest_dspy_ft.store.outputs import OutputsFolder
from pytest_dspy_ft.store.prompts import PromptsFolder

__all__ = ["MANIFEST", "Build", "Store", "StoreWarning", "read_json"]


class Store(OutputsFolder, PromptsFolder):
    """A directory of builds and evaluations, shared safely by processes on one machine or one shared file system.

    Args:
        root: The directory; created when something is first written.
        read_only: Change nothing in it, not even what is damaged: for plans.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._missed: dict[tuple[str, ...], Finding] = {}

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    # --- stages ------------------------------------------------------------------------------------------------------

    def load_build(self, experiment: str, stage: str, key: str) -> Build | None:
        """The build that counts for a key, verified file by file; None where :meth:`look_up_build` finds none."""
        return self.look_up_build(experiment, stage, key).entry

    def look_up_build(self, experiment: str, stage: str, key: str) -> Lookup[Build]:
        """The build that counts for a key, verified file by file, or why there is none.

        A damaged build is set aside with a :class:`StoreWarning`, one of another version is left alone.
        """
        folder = self._folder("stages", experiment, stage) / key
        owner = {"experiment": experiment, "stage": stage, "key": key}
        what = f"stage {stage!r} of experiment {experiment!r}"
        finding: Finding = "absent"
        with self.reading():
            if os.path.lexists(folder) and not folder.is_dir():
                self.set_aside([folder], what, DamagedEntryError(f"{folder.name} is no folder"))
                finding = "damaged"
            for pointer in candidates(folder / CURRENT):
                try:
                    build = self._read_build(pointer, owner)
                    build.verify()
                except OtherVersionError:
                    finding = "other_version" if finding == "absent" else finding
                except PermissionError:
                    raise
                except (OSError, ValueError) as problem:
                    self.set_aside(_parts_of(folder, pointer), what, problem)
                    finding = "damaged"
                else:
                    return Lookup("before_checksums" if build.is_before else "found", build)
        return Lookup(self._note(("build", experiment, stage, key), finding))

    def _read_build(self, pointer: Path, owner: Owner) -> Build:
        name = read_entry(pointer, owner).get("build")
        if not isinstance(name, str) or name != Path(name).name:
            raise DamagedEntryError(f"{pointer.name} names no build")
        if not os.path.lexists(pointer.parent / name / MANIFEST):
            raise DamagedEntryError(f"{MANIFEST} is missing")
        return Build(pointer.parent / name, owner, pointer, touched=not self.read_only)

    def newest_manifest(self, experiment: str, stage: str) -> dict[str, Any] | None:
        """The manifest of the stage's latest build under any key, to say what changed since; None without one."""
        folder = self._folder("stages", experiment, stage)
        for path in newest_first(folder.glob(f"*/*/{MANIFEST}")):
            owner = {"experiment": experiment, "stage": stage, "key": path.parent.parent.name}
            with contextlib.suppress(OSError, ValueError):
                return Build(path.parent, owner).manifest
        return None

    def workspace(self, experiment: str, stage: str, key: str) -> Path:
        """A new, empty folder to build in. Leftovers of killed builds of the same key are removed; hold the lock."""
        parent = self.prepared("work")
        prefix = f"{folder_name(experiment)}-{folder_name(stage)}-{key[:16]}-"
        for leftover in parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        folder = parent / f"{prefix}{uuid.uuid4().hex[:8]}"
        with self.writing():
            folder.mkdir()
        return folder

    def commit_build(self, experiment: str, stage: str, key: str, workspace: Path, manifest: dict[str, Any]) -> Build:
        """Make a workspace the build that counts for a key.

        Args:
            experiment: Name of the experiment.
            stage: Name of the stage.
            key: The stage's key.
            workspace: A folder from :meth:`workspace` with all files of the build in place.
            manifest: JSON to keep with it; ``key``, ``files`` and ``digest`` are filled in here.

        Returns:
            The build, at its final place.

        Raises:
            StoreError: The store cannot be written.
        """
        owner = {"experiment": experiment, "stage": stage, "key": key}
        folder = self._folder("stages", experiment, stage) / key
        self.prepared(folder.relative_to(self.root))
        with self.writing():
            files = {
                path.relative_to(workspace).as_posix(): file_digest(path)
                for path in sorted(workspace.rglob("*"))
                if path.is_file()
            }
            # Logs hold times of day and durations: they are kept and verified, but are not what was built.
            built = {name: files[name] for name in files if name == "program.json" or name.endswith(".safetensors")}
            digest = digest_json({"key": key, "files": built}, length=16)
            write_entry(workspace / MANIFEST, owner, {**manifest, "key": key, "digest": digest, "files": files})
            for path in workspace.rglob("*"):
                if path.is_file():
                    flush(path)
            final = folder / digest
            if is_foreign(final / MANIFEST):
                final = own_name(final)
            if os.path.lexists(final):  # built before to the very same content, or a damaged rest: this one is whole
                shutil.move(final, self.prepared("work") / f"replaced-{uuid.uuid4().hex}")
            workspace.rename(final)
            pointer = place_for(folder / CURRENT)
            if pointer == folder / CURRENT and _points_to_foreign(pointer):
                pointer = own_name(pointer)
            write_entry(pointer, owner, {"build": final.name})
            for other in folder.iterdir():
                if other != final and other.is_dir() and _is_own(other / MANIFEST):
                    shutil.rmtree(other, ignore_errors=True)
            for replaced in (self.root / "work").glob("replaced-*"):
                shutil.rmtree(replaced, ignore_errors=True)
            return Build(final, owner, pointer)

    # --- evaluations -------------------------------------------------------------------------------------------------

    def load_evaluation(self, experiment: str, stage: str, on: Split, key: str) -> StageResult | None:
        """A finished evaluation; None where :meth:`look_up_evaluation` finds none."""
        return self.look_up_evaluation(experiment, stage, on, key).entry

    def look_up_evaluation(self, experiment: str, stage: str, on: Split, key: str) -> Lookup[StageResult]:
        """A finished evaluation, or why there is none.

        A damaged one is set aside with a :class:`StoreWarning`, one of another version is left alone.
        """
        owner = {"experiment": experiment, "stage": stage, "on": on, "key": key}
        finding: Finding = "absent"
        with self.reading():
            for path in candidates(self._evaluation_path(experiment, stage, on, key)):
                try:
                    result, before = read_evaluation(path, owner)
                except OtherVersionError:
                    finding = "other_version" if finding == "absent" else finding
                except PermissionError:
                    raise
                except (OSError, ValueError) as problem:
                    what = f"evaluation of stage {stage!r} of experiment {experiment!r} on {on}"
                    self.set_aside([path], what, problem)
                    finding = "damaged"
                else:
                    return Lookup("before_checksums" if before else "found", result)
        return Lookup(self._note(("evaluation", experiment, stage, on, key), finding))

    def save_evaluation(self, result: StageResult) -> None:
        """Keep a finished evaluation and drop its journal.

        Raises:
            StoreError: The store cannot be written.
        """
        owner = {"experiment": result.experiment, "stage": result.stage, "on": result.on, "key": result.key}
        path = self._evaluation_path(result.experiment, result.stage, result.on, result.key)
        self.prepared(path.parent.relative_to(self.root))
        assert not result.stopped, "what ended early is under way, and only whole evaluations are filed"
        content = json.loads(result.model_dump_json(exclude={"planned"}))
        if result.footprint is not None:
            content["footprint"] = result.footprint.model_dump(mode="json")
        with self.writing():
            head = seal(owner, EvaluationHead.of(result).model_dump(mode="json"))
            write_entry(place_for(path), owner, {"head": head, "result": content}, plain_json=True)
            del content
            journal = path.with_suffix(".partial.jsonl")
            keep_only(journal, read_lines(journal, owner, kept=False).foreign)

    @contextlib.contextmanager
    def journal(
        self,
        experiment: str,
        stage: str,
        on: Split,
        key: str,
        believed: Callable[[Footprint | None], bool] = lambda rest: True,
    ) -> Iterator[EvaluationJournal]:
        """The journal of an evaluation: what an interrupted session already paid for, and where more is added.

        What a provider failed is not taken from it. A journal from which nothing is taken starts empty.

        Args:
            experiment: Name of the experiment.
            stage: Name of the stage.
            on: The split.
            key: The evaluation's key.
            believed: Says of what the results in it rest on whether that is so still; they count only then.

        Raises:
            StoreError: The store cannot be written.
        """
        owner = {"experiment": experiment, "stage": stage, "on": on, "key": key}
        path = self._evaluation_path(experiment, stage, on, key).with_suffix(".partial.jsonl")
        self.prepared(path.parent.relative_to(self.root))
        what = f"journal of the evaluation of stage {stage!r} of experiment {experiment!r} on {on}"
        with self.writing():
            if os.path.lexists(path) and not path.is_file():
                self.set_aside([path], what, DamagedEntryError(f"{path.name} is no file"))
            lines = read_lines(path, owner)
            done = settled_calls(lines.results)
            if done and not believed(lines.footprint):
                done = {}
            if lines.damaged:
                self.set_aside([path], what, DamagedEntryError("; ".join(lines.damaged[:3])), copied=True)
            if lines.damaged or lines.torn or not done:
                keep_only(path, [*lines.foreign, *(lines.own if done else ())])
            stream = path.open("a", encoding="utf-8")

        def add(entry: ExampleResult | Footprint) -> None:
            with self.writing():
                write_line(stream, owner, entry)

        try:
            yield EvaluationJournal(
                done, lines.footprint if done else None, add, add, lambda: keep_only(path, lines.foreign)
            )
        finally:
            with contextlib.suppress(OSError):  # a full disk: what was added before is there
                stream.close()

    def newest_evaluation(self, experiment: str, stage: str) -> StageResult | None:
        """The stage's latest evaluation under any key and split, to judge by what another would take; None without."""
        for path in newest_first(self._folder("evaluations", experiment, stage).glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                result, _ = read_evaluation(path)
                if (result.experiment, result.stage) == (experiment, stage):
                    return result
        return None

    def evaluations_of(self, experiment: str, stage: str, on: Split) -> Iterator[StageResult]:
        """The stage's evaluations on a split under any key, the latest first; those that are damaged are left out."""
        for path in newest_first(self._folder("evaluations", experiment, stage).glob(f"{on}-*.json")):
            with contextlib.suppress(OSError, ValueError):
                result, _ = read_evaluation(path)
                if (result.experiment, result.stage, result.on) == (experiment, stage, on):
                    yield result

    # --- what belongs to builds under way ----------------------------------------------------------------------------

    def jobs_folder(self, experiment: str, stage: str, key: str) -> Path:
        """Where the hosted jobs of a stage are written down; they are kept, since what they gave was paid for."""
        self.prepared("jobs")
        return self._folder("jobs", experiment, stage) / key

    def collections_folder(self, experiment: str, stage: str, key: str) -> Path:
        """Where the traces of a stage are kept for builds that differ in their training settings only."""
        return self._folder("collections", experiment, stage) / key

    def traces_folder(self, experiment: str, stage: str, key: str) -> Path:
        """Where the traces of a stage lie until it is built; they stay there when that fails."""
        return self._folder("traces", experiment, stage) / key

    def log_file(self, experiment: str, stage: str) -> Path:
        """Where DSPy's own words on a stage are written, whichever build of it they are about; for people only."""
        return self._folder("stages", experiment, stage) / "dspy.log"

    def why_missing(self, kind: str, *place: str) -> str:
        """Why an entry that was looked up and not found does not count, in words; empty where there is none at all.

        Args:
            kind: ``build`` or ``evaluation``.
            place: What it was looked up by.
        """
        finding = self._missed.get((kind, *place), "absent")
        return REASONS.get(finding, "")

    def _folder(self, kind: str, experiment: str, stage: str) -> Path:
        return folder_for(folder_for(self.root / kind, experiment), stage)

    def _evaluation_path(self, experiment: str, stage: str, on: Split, key: str) -> Path:
        return self._folder("evaluations", experiment, stage) / f"{on}-{key}.json"

    def _note(self, place: tuple[str, ...], finding: Finding) -> Finding:
        """Remember why an entry does not count: damage is moved away, and gone at the next look."""
        if finding != "absent":
            self._missed[place] = finding
        return finding


def _parts_of(folder: Path, pointer: Path) -> list[Path]:
    """What to set aside of a damaged build: all that lies under its key, but for what other versions have there."""
    kept = {other for other in folder.glob("current*.json") if other != pointer and is_foreign(other)}
    kept |= {manifest.parent for manifest in folder.glob(f"*/{MANIFEST}") if is_foreign(manifest)}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept.discard(folder / read_json(pointer)["build"])
    if not kept:
        return [folder]
    return [pointer, *(other for other in folder.iterdir() if other.is_dir() and other not in kept)]


def _is_own(manifest: Path) -> bool:
    """True for a manifest that this version wrote."""
    with contextlib.suppress(OSError, ValueError):
        return "checksum" in read_json(manifest) and not is_foreign(manifest)
    return False


def _points_to_foreign(pointer: Path) -> bool:
    """True where the build that a file says counts is another version's."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return is_foreign(pointer.parent / read_json(pointer)["build"] / MANIFEST)
    return False
