"""The store: what was built and measured, kept on disk under content keys.

Layout, below one directory (``.dspy_ft`` by default)::

    stages/EXPERIMENT/STAGE/KEY/current.json          which build counts: {"build": DIGEST}
    stages/EXPERIMENT/STAGE/KEY/DIGEST/               one build: manifest.json, program.json, adapters/, logs
    evaluations/EXPERIMENT/STAGE/SPLIT-KEY.json       one evaluation, all its examples
    evaluations/EXPERIMENT/STAGE/SPLIT-KEY.partial.jsonl   examples of an evaluation that was interrupted
    jobs/EXPERIMENT/STAGE/KEY/                        fine-tuning jobs ordered elsewhere, also those under way
    traces/EXPERIMENT/STAGE/KEY/                      traces of a build that goes on or failed: they were paid for
    locks/, work/, set_aside/                         builders' locks, builds under way, corrupted entries

Everything is JSON or safetensors. A file or folder appears under its final name only when it is complete (written
elsewhere, flushed, renamed), so a kill at any moment leaves either the old state or the new one. Every entry carries
the SHA-256 of its files; one that does not match is set aside, never used and never deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.files import flush, write_json_atomically
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult, settled_calls
from pytest_dspy_ft.records.run import SCHEMA_VERSION

MANIFEST = "manifest.json"


class StoreWarning(UserWarning):
    """Something in the store was not as it was written; it was set aside and will be made again."""


class Store:
    """A directory of builds and evaluations, shared safely by processes on one machine or one shared file system.

    Args:
        root: The directory; created when something is first written.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    # --- stages ------------------------------------------------------------------------------------------------------

    def load_build(self, experiment: str, stage: str, key: str) -> Build | None:
        """The build that counts for a key, verified file by file; None when there is none.

        A corrupted build is set aside with a :class:`StoreWarning`, and counts as none.
        """
        folder = self._folder("stages", experiment, stage) / key
        pointer = folder / "current.json"
        if not pointer.is_file():
            return None
        try:
            build = Build(folder / read_json(pointer)["build"])
            build.verify()
        except (OSError, ValueError, KeyError, TypeError) as problem:
            self._set_aside(folder, f"stage {stage!r} of experiment {experiment!r}", problem)
            return None
        return build

    def newest_manifest(self, experiment: str, stage: str) -> dict[str, Any] | None:
        """The manifest of the stage's latest build under any key, to say what changed since; None without one."""
        for path in _newest_first(self._folder("stages", experiment, stage).glob(f"*/*/{MANIFEST}")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                manifest: dict[str, Any] = read_json(path)
                manifest["parts"]
                return manifest
        return None

    def workspace(self, experiment: str, stage: str, key: str) -> Path:
        """A new, empty folder to build in. Leftovers of killed builds of the same key are removed; hold the lock."""
        parent = self._prepared("work")
        prefix = f"{_slug(experiment)}-{_slug(stage)}-{key[:16]}-"
        for leftover in parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        folder = parent / f"{prefix}{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        return folder

    def commit_build(self, experiment: str, stage: str, key: str, workspace: Path, manifest: dict[str, Any]) -> Build:
        """Make a workspace the build that counts for a key.

        Args:
            experiment: Name of the experiment.
            stage: Name of the stage.
            key: The stage's key.
            workspace: A folder from :meth:`workspace` with all files of the build in place.
            manifest: JSON to keep with it; ``files`` and ``digest`` are filled in here.

        Returns:
            The build, at its final place.
        """
        files = {
            path.relative_to(workspace).as_posix(): _file_digest(path)
            for path in sorted(workspace.rglob("*"))
            if path.is_file()
        }
        # Logs hold times of day and durations: they are kept and verified, but are not what was built.
        built = {name: files[name] for name in files if name == "program.json" or name.endswith(".safetensors")}
        digest = digest_json({"key": key, "files": built}, length=16)
        written = {**manifest, "schema_version": SCHEMA_VERSION, "digest": digest, "files": files}
        write_json_atomically(workspace / MANIFEST, written)
        for path in workspace.rglob("*"):
            if path.is_file():
                flush(path)
        folder = self._folder("stages", experiment, stage) / key
        self._prepared(folder.relative_to(self.root))
        final = folder / digest
        if final.exists():  # built before to the very same content, or a damaged remainder: this one is whole
            shutil.move(final, self._prepared("work") / f"replaced-{uuid.uuid4().hex}")
        workspace.rename(final)
        write_json_atomically(folder / "current.json", {"build": digest})
        for other in folder.iterdir():
            if other.is_dir() and other != final:
                shutil.rmtree(other, ignore_errors=True)
        for replaced in (self.root / "work").glob("replaced-*"):
            shutil.rmtree(replaced, ignore_errors=True)
        return Build(final)

    # --- evaluations -------------------------------------------------------------------------------------------------

    def load_evaluation(self, experiment: str, stage: str, on: Split, key: str) -> StageResult | None:
        """A finished evaluation, or None. A corrupted one is set aside with a :class:`StoreWarning`."""
        path = self._evaluation_path(experiment, stage, on, key)
        if not path.is_file():
            return None
        try:
            payload = read_json(path)
            if payload["sha256"] != digest_json(payload["result"], length=64):
                raise ValueError("its checksum does not match its content")
            return StageResult.model_validate(payload["result"])
        except (OSError, ValueError, KeyError, TypeError) as problem:
            self._set_aside(path, f"evaluation of stage {stage!r} of experiment {experiment!r} on {on}", problem)
            return None

    def save_evaluation(self, result: StageResult) -> None:
        """Keep a finished evaluation and drop its journal."""
        path = self._evaluation_path(result.experiment, result.stage, result.on, result.key)
        self._prepared(path.parent.relative_to(self.root))
        content = json.loads(result.model_dump_json())
        if result.footprint is not None:
            content["footprint"] = result.footprint.model_dump(mode="json")
        write_json_atomically(path, {"sha256": digest_json(content, length=64), "result": content})
        path.with_suffix(".partial.jsonl").unlink(missing_ok=True)

    @contextlib.contextmanager
    def journal(
        self, experiment: str, stage: str, on: Split, key: str
    ) -> Iterator[tuple[dict[str, ExampleResult], Callable[[ExampleResult], None]]]:
        """The results that an interrupted evaluation already paid for, and a function that adds one.

        What a provider failed is not among them. A journal from which nothing is taken starts empty.

        Yields:
            (done, add): results by `call_id` from an earlier, interrupted session (half-written lines left out), and a
            function that appends one result to the journal.
        """
        path = self._evaluation_path(experiment, stage, on, key).with_suffix(".partial.jsonl")
        written: list[ExampleResult] = []
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                with contextlib.suppress(ValueError):
                    written.append(ExampleResult.model_validate_json(line))
        done = settled_calls(written)
        self._prepared(path.parent.relative_to(self.root))
        with path.open("a" if done else "w", encoding="utf-8") as stream:
            if stream.tell():
                stream.write("\n")  # a killed writer may have left half a line

            def add(example: ExampleResult) -> None:
                stream.write(example.model_dump_json() + "\n")
                stream.flush()

            yield done, add

    def jobs_folder(self, experiment: str, stage: str, key: str) -> Path:
        """Where the hosted jobs of a stage are written down; they are kept, since what they gave was paid for."""
        self._prepared("jobs")
        return self._folder("jobs", experiment, stage) / key

    def newest_evaluation(self, experiment: str, stage: str) -> StageResult | None:
        """The stage's latest evaluation under any key and split, to judge by what another would take; None without."""
        for path in _newest_first(self._folder("evaluations", experiment, stage).glob("*.json")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                return StageResult.model_validate(read_json(path)["result"])
        return None

    def traces_folder(self, experiment: str, stage: str, key: str) -> Path:
        """Where the traces of a stage lie until it is built; they stay there when that fails."""
        return self._folder("traces", experiment, stage) / key

    # --- locks and housekeeping --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lock of this name against other processes; the system releases it if we are killed.

        Args:
            name: What is locked, e.g. a stage's key.
            waiting: Called once a second while another process holds it.
        """
        lock = FileLock(self._prepared("locks") / f"{name}.lock")
        while True:
            try:
                lock.acquire(timeout=1.0)
                break
            except Timeout:
                if waiting is not None:
                    waiting()
        try:
            yield
        finally:
            lock.release()

    def _folder(self, kind: str, experiment: str, stage: str) -> Path:
        return self.root / kind / _slug(experiment) / _slug(stage)

    def _evaluation_path(self, experiment: str, stage: str, on: Split, key: str) -> Path:
        return self._folder("evaluations", experiment, stage) / f"{on}-{key}.json"

    def _prepared(self, below: str | Path) -> Path:
        """A folder of the store, made when first needed, with the marks that keep it out of version control."""
        folder = self.root / below
        try:
            folder.mkdir(parents=True, exist_ok=True)
            ignore = self.root / ".gitignore"
            if not ignore.exists():
                ignore.write_text(
                    "# Made by pytest-dspy-ft. Delete this folder to build and measure everything anew.\n*\n"
                )
        except OSError as problem:
            raise StoreError(
                f"cannot write to the store {self.root}: {problem.strerror or problem}; "
                "choose another with --dspy-store=DIR"
            ) from problem
        return folder

    def _set_aside(self, path: Path, what: str, problem: Exception) -> None:
        target = self._prepared("set_aside") / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}-{path.name}"
        shutil.move(path, target)
        warnings.warn(
            f"the store's entry for the {what} is damaged ({problem}); it was moved to {target} and will be made again",
            StoreWarning,
            stacklevel=4,
        )


class Build:
    """One finished build on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = read_json(folder / MANIFEST)

    @property
    def digest(self) -> str:
        """Content hash of what was built."""
        return str(self.manifest["digest"])

    def mark_used(self) -> None:
        """Note that a session uses it, so that pruning knows what is in use."""
        with contextlib.suppress(OSError):  # a store that is shared read-only
            os.utime(self.folder.parent / "current.json")

    def read(self, name: str) -> Any:
        """The JSON in one of the build's files."""
        return read_json(self.folder / name)

    def verify(self) -> None:
        """Check every file against its recorded hash.

        Raises:
            ValueError: If a file is missing or differs, or another schema version wrote the build.
        """
        version = self.manifest.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"it has schema version {version}, this is version {SCHEMA_VERSION}")
        for name, digest in self.manifest["files"].items():
            path = self.folder / name
            if not path.is_file():
                raise ValueError(f"{name} is missing")
            if _file_digest(path) != digest:
                raise ValueError(f"{name} does not match its checksum")


def _slug(name: str) -> str:
    """A name as a folder's name: itself where that is safe, else a readable form with a hash of the original."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-")[:60]
    return safe if safe == name else f"{safe or 'x'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)


def read_json(path: Path) -> Any:
    """The JSON in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
