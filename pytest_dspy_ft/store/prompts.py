"""What a build keeps of its DSPy: the version, and its prompts as digests, beside it where its manifest has none."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pytest_dspy_ft.store.build import MANIFEST, Build
from pytest_dspy_ft.store.entries import read_entry, read_json, write_entry
from pytest_dspy_ft.store.folder import StoreFolder
from pytest_dspy_ft.store.folder_names import folder_for

PROMPTS = "prompts"
"""Of the manifest; and how the file beside a build begins."""


class PromptsFolder(StoreFolder):
    """The part of a store that knows which DSPy its builds are of, and their prompts."""

    def dspy_versions(self, experiment: str, stage: str) -> set[str]:
        """The versions of DSPy that a stage's builds say they were made with, under whatever key."""
        versions = set()
        folder = folder_for(folder_for(self.root / "stages", experiment), stage)
        for path in folder.glob(f"*/*/{MANIFEST}"):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                versions.add(read_json(path).get("dspy"))
        return {version for version in versions if isinstance(version, str)}

    def load_prompts(self, build: Build) -> dict[str, dict[str, str]]:
        """The digests, by predictor and example; empty where none are kept."""
        if isinstance(kept := build.manifest.get(PROMPTS), dict):
            return kept
        with contextlib.suppress(OSError, ValueError):
            return dict(read_entry(_beside(build), _owner(build))[PROMPTS])
        return {}

    def lacks_prompts(self, build: Build) -> bool:
        """True where none are kept, and this store may be written."""
        return not self.read_only and PROMPTS not in build.manifest and not _beside(build).exists()

    def keep_prompts(self, build: Build, prompts: dict[str, dict[str, str]]) -> None:
        """Keep the digests beside a build; a store that is shared read-only stays as it is."""
        with contextlib.suppress(OSError):
            write_entry(_beside(build), _owner(build), {PROMPTS: prompts})


def _beside(build: Build) -> Path:
    return build.folder.parent / f"{PROMPTS}-{build.folder.name}.json"


def _owner(build: Build) -> dict[str, Any]:
    record = build.record
    return {"experiment": record.experiment, "stage": record.stage, "key": build.manifest["key"]}
