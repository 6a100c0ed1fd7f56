"""One finished build on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pytest_dspy_ft.checksums import Owner
from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.records.base import first_problem
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.store.entries import DamagedEntryError, OtherVersionError, is_before, read_entry, read_json

MANIFEST = "manifest.json"
CURRENT = "current.json"


class Build:
    """One finished build.

    Args:
        folder: Its folder.
        owner: Whose it has to be; None takes it as the one that it says it is.
        pointer: The file that says that it counts.
        touched: Whether its use is noted, for pruning.

    Raises:
        DamagedEntryError: Its manifest is not as it was written, or another's.
        OtherVersionError: Another version wrote it.
    """

    def __init__(
        self, folder: Path, owner: Owner | None = None, pointer: Path | None = None, *, touched: bool = True
    ) -> None:
        self.folder = folder
        self.pointer = pointer or folder.parent / CURRENT
        self._touched = touched
        self.manifest: dict[str, Any] = read_entry(folder / MANIFEST, owner)
        self._check_manifest(owner)

    def _check_manifest(self, owner: Owner | None) -> None:
        """Check what the code relies on, and of a manifest without a checksum, whose it is."""
        manifest = self.manifest
        for name, kind in (("digest", str), ("files", dict), ("key", str), ("upstream", dict), ("parts", dict)):
            if not isinstance(manifest.get(name), kind):
                raise (DamagedEntryError if self.is_before else OtherVersionError)(f"{MANIFEST} has no {name!r}")
        try:
            record = BuildRecord.model_validate(manifest["record"])
        except (KeyError, ValidationError) as problem:
            what = first_problem(problem) if isinstance(problem, ValidationError) else "it has no record"
            # Its checksum holds, so it is what somebody wrote; without one, nobody can tell.
            raise (DamagedEntryError if self.is_before else OtherVersionError)(f"{MANIFEST}: {what}") from None
        names = {"experiment": record.experiment, "stage": record.stage, "key": manifest["key"]}
        if owner is not None and names != dict(owner):
            raise DamagedEntryError(f"it is that of stage {record.stage!r} of experiment {record.experiment!r}")

    @property
    def is_before(self) -> bool:
        """True for a build of version 1, whose manifest has no checksum."""
        return is_before(self.manifest)

    @property
    def digest(self) -> str:
        """Content hash of what was built."""
        return str(self.manifest["digest"])

    @property
    def record(self) -> BuildRecord:
        """The record of how it was built."""
        return BuildRecord.model_validate(self.manifest["record"])

    def mark_used(self) -> None:
        """Note that a session uses it, so that pruning knows what is in use."""
        if self._touched:
            with contextlib.suppress(OSError):  # a store that is shared read-only
                os.utime(self.pointer)

    def read(self, name: str) -> Any:
        """The JSON in one of the build's files.

        Raises:
            StoreError: It is not as it was written.
        """
        try:
            self.verify_file(name)
            return read_json(self.folder / name)
        except (OSError, ValueError) as problem:
            raise StoreError(f"{self.folder / name} is damaged: {problem}") from None

    def verify(self) -> None:
        """Check every file against its recorded hash.

        Raises:
            DamagedEntryError: If a file is missing or differs.
        """
        for name in self.manifest["files"]:
            self.verify_file(name)

    def verify_file(self, name: str) -> None:
        """Check one file against its recorded hash.

        Raises:
            DamagedEntryError: If it is missing or differs.
        """
        path = self.folder / name
        if not path.is_file():
            raise DamagedEntryError(f"{name} is missing")
        if file_digest(path) != self.manifest["files"].get(name):
            raise DamagedEntryError(f"{name} does not match its checksum")


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
