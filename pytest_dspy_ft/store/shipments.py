"""What a build is outside of its session, beside the build in the store: written once, by a session that has it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.store.build import Build
from pytest_dspy_ft.store.entries import DamagedEntryError, OtherVersionError, read_entry, write_entry
from pytest_dspy_ft.store.folder import StoreFolder

SHIPMENT = "shipment.json"


def shipment_path(build: Build) -> Path:
    """Where it lies: beside the build, and so removed with it."""
    return build.folder.parent / SHIPMENT


def keep_shipment(store: StoreFolder, build: Build, make: Callable[[], Mapping[str, Any]]) -> None:
    """Keep what a build is outside of its session, as the last session has it: a class may have moved, a key, too.

    A store that cannot be written is no reason to fail: only exporting needs it.

    Args:
        store: The store that the build lies in.
        build: The build.
        make: Gives the content.
    """
    if store.read_only:
        return
    # As text: the order of attributes and of fields in demos counts, and entries are written with theirs sorted.
    path, content = shipment_path(build), {"shipment": json.dumps(make(), ensure_ascii=True)}
    if os.path.lexists(path) and _is_kept(store, path, _owner(build), content):
        return
    with contextlib.suppress(StoreError), store.writing():
        write_entry(path, _owner(build), content)


def _is_kept(store: StoreFolder, path: Path, owner: Mapping[str, str], content: Mapping[str, str]) -> bool:
    """True where nothing is to be written. What is damaged is set aside and said; another version's file stays."""
    try:
        kept = read_entry(path, None)
        before = dict(kept["owner"])
        if any(before.get(name) != owner[name] for name in owner if name != "build"):
            raise DamagedEntryError(f"{path.name} is that of stage {before.get('stage')!r}")
    except OtherVersionError:
        return True
    except (DamagedEntryError, OSError) as problem:
        what = f"stage {owner['stage']!r} of experiment {owner['experiment']!r}, as it is exported"
        store.set_aside([path], what, problem)
        return False
    return before == owner and all(kept.get(name) == value for name, value in content.items())


def read_shipment(build: Build) -> dict[str, Any] | None:
    """What :func:`keep_shipment` kept; None where no session has kept it yet.

    Raises:
        DamagedEntryError: It is not as it was written, or another build's.
        OtherVersionError: Another version wrote it.
    """
    path = shipment_path(build)
    if not path.is_file():
        return None
    shipment: dict[str, Any] = json.loads(read_entry(path, _owner(build))["shipment"])
    return shipment


def _owner(build: Build) -> dict[str, str]:
    record = build.record
    return {
        "experiment": record.experiment,
        "stage": record.stage,
        "key": str(build.manifest["key"]),
        "build": build.digest,
    }
