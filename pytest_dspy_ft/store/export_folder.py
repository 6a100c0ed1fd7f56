"""An exported program as a folder: written whole or not at all, and held against its receipt byte by byte."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_dspy_ft.errors import ExportError
from pytest_dspy_ft.files import flush, write_atomically
from pytest_dspy_ft.records.receipt import (
    ADAPTERS,
    CARD,
    PROGRAM_FILE,
    RECEIPT,
    STATE_FILE,
    Receipt,
    parsed_receipt,
    receipt_text,
)
from pytest_dspy_ft.store.build import MANIFEST, Build, file_digest
from pytest_dspy_ft.store.entries import DamagedEntryError, OtherVersionError

LORA_FILES = ("adapter_config.json", "adapter_model.safetensors")
TRAINING_FILE = "training.json"
"""Beside them: how the LoRA was trained, where its trainer says so."""


def check_target(target: Path, *, replace: bool) -> None:
    """Refuse a folder that an export must not take the place of.

    Args:
        target: Where the exported program is to lie.
        replace: Whether an exported program that lies there may go.

    Raises:
        ExportError: If something lies there that must stay.
    """
    if not os.path.lexists(target):
        return
    if not target.is_dir() or target.is_symlink():
        raise ExportError(f"{target} is no folder")
    if not any(target.iterdir()):
        return
    if not (target / RECEIPT).is_file():
        raise ExportError(f"{target} holds other things than an exported program: choose an empty or a new folder")
    if not replace:
        raise ExportError(f"{target} holds an exported program already; --replace puts this one in its place")


def write_export(
    target: Path,
    shipment: Mapping[str, Any],
    adapters: Mapping[str, Path],
    receipt: Receipt,
    card: Callable[[Receipt], str],
    *,
    replace: bool = False,
) -> Receipt:
    """Write an exported program.

    Args:
        target: Its folder.
        shipment: What the program, its LMs and its adapter are.
        adapters: By name, the LoRA folders, each in the build that it belongs to.
        receipt: The receipt, but for the files.
        card: Gives the model card of a receipt.
        replace: Put it in the place of an exported program that lies there.

    Returns:
        The receipt, with the files.

    Raises:
        ExportError: If it must not be written there, or a LoRA is not as its build has it.
        OSError: If it cannot be written; nothing is left then.
    """
    check_target(target, replace=replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        fresh.mkdir()
        for name, source in adapters.items():
            _copy_adapter(source, fresh / ADAPTERS / name)
        state = shipment.get("state")
        content = {name: value for name, value in shipment.items() if name not in ("state", ADAPTERS)}
        write_atomically(fresh / PROGRAM_FILE, json.dumps(content, indent=1, ensure_ascii=True) + "\n")
        if state is not None:
            write_atomically(fresh / STATE_FILE, json.dumps(state, indent=1, ensure_ascii=True) + "\n")
        write_atomically(fresh / CARD, card(receipt))
        files = {path: file_digest(fresh / path) for path in sorted(_files(fresh))}
        receipt = receipt.model_copy(update={"files": files})
        write_atomically(fresh / RECEIPT, receipt_text(receipt))
        for path in files:
            flush(fresh / path)
        _put(fresh, target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return receipt


def _put(fresh: Path, target: Path) -> None:
    """Give a complete folder its name; what lay there goes when the new one has its place."""
    old = target.with_name(f".{target.name}.old-{uuid.uuid4().hex[:8]}")
    if target.is_dir():
        target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        if old.is_dir():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
    flush(target.parent)


def _copy_adapter(source: Path, target: Path) -> None:
    """Copy a LoRA folder of a build; ExportError where its files are not those that the build was filed with."""
    build_folder = source.parent.parent
    try:
        build = Build(build_folder, touched=False)
        target.mkdir(parents=True)
        for name in (*LORA_FILES, *([TRAINING_FILE] if (source / TRAINING_FILE).is_file() else [])):
            inside = (source / name).relative_to(build_folder).as_posix()
            build.verify_file(inside)
            shutil.copyfile(source / name, target / name)
            if file_digest(target / name) != build.manifest["files"][inside]:
                raise DamagedEntryError(f"{inside} changed while it was copied")
    except (DamagedEntryError, OtherVersionError, OSError) as problem:
        where = build_folder / MANIFEST if isinstance(problem, OtherVersionError) else source
        raise ExportError(f"the LoRA {where} is not as it was trained: {problem}") from None


def check_export(folder: Path) -> Receipt:
    """Hold a folder against its receipt: every byte of every file.

    Returns:
        The receipt.

    Raises:
        ExportError: If a file was changed, is missing, or was added; the message names it.
    """
    path = folder / RECEIPT
    try:
        text = path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        there = "is no exported program" if folder.is_dir() else "is no folder"
        raise ExportError(f"{folder} {there}: {RECEIPT} is missing") from None
    except UnicodeDecodeError:
        raise ExportError(f"{path} is not as it was written: it is no text") from None
    receipt = parsed_receipt(text, str(path))
    present = set(_files(folder)) - {RECEIPT}
    for name in sorted(receipt.files.keys() | present):
        if name not in present:
            raise ExportError(f"{folder / name} is missing")
        if name not in receipt.files:
            raise ExportError(f"{folder / name} is no part of what was exported: {RECEIPT} does not name it")
        if file_digest(folder / name) != receipt.files[name]:
            raise ExportError(f"{folder / name} is not as it was written: its hash does not match {RECEIPT}")
    return receipt


def _files(folder: Path) -> Iterator[str]:
    """All files below a folder, by their path in it; a link to a folder counts as a file."""
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        yield from ((Path(place) / name).relative_to(folder).as_posix() for name in (*files, *links))


def exported_model(folder: Path, adapter: str | None) -> tuple[str, Path | None, str]:
    """What merging takes of an exported program that is as it was written.

    Args:
        folder: The program's.
        adapter: Which LoRA; None for the only one.

    Returns:
        (the base model's name, the LoRA's folder or None where it has none, the digest of the base model's weights).

    Raises:
        ExportError: If it runs on no model of this machine, or has several LoRAs and none was chosen.
    """
    entries = json.loads((folder / PROGRAM_FILE).read_text(encoding="utf-8"))["lms"]
    bases = {entry["engine"]["source"]: entry["weights"] for entry in entries if "engine" in entry}
    if not bases:
        raise ExportError(f"{folder} runs on no model of this machine ({entries[0]['model']}): it has no weights")
    loras = sorted(entry["adapter"] for entry in entries if "adapter" in entry)
    if adapter is not None and adapter not in loras:
        raise ExportError(f"{folder} has no LoRA {adapter!r}; it has {', '.join(loras) or 'none'}")
    if adapter is None and len(set(loras)) > 1:
        raise ExportError(f"{folder} has the LoRAs {', '.join(loras)}: choose one with --adapter")
    name = adapter or (loras[0] if loras else None)
    model = next((e for e in entries if e.get("adapter") == name), entries[0])
    if "of" in model:
        model = entries[model["of"]]
    base = model["engine"]["source"] if "engine" in model else next(iter(bases))
    return base, (folder / ADAPTERS / name if name else None), bases[base]
