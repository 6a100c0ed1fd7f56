"""``python -m pytest_dspy_ft export``, ``verify`` and ``merge``: what was gated is what ships. No dspy, no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import ExportError, RecordError

if TYPE_CHECKING:
    from pytest_dspy_ft.cli_receipt import ExportSession
    from pytest_dspy_ft.records.run import RunRecord
    from pytest_dspy_ft.store.inventory import Inventory, StoredBuild

REFUSED = 1
"""Exit code where a stage may not be exported, or an exported program is not as it was written."""


def add_export_commands(commands: Any) -> None:
    """Add the commands to the command line's."""
    export = commands.add_parser(
        "export",
        help="write a stage whose gates passed as a folder that loads without pytest",
        description="Write a stage as a folder: its program, its LoRA or the name of its model, a receipt with the "
        "hash of every file, and a model card. pytest_dspy_ft.load(DIR) gives the program ready to call. Refused with "
        "exit code 1 unless all gates of the stage passed in a whole session that had this very build: the last one "
        "with this store, or that of --record.",
    )
    export.add_argument("store", type=Path, help="a store, by default .dspy_ft beside the ini file")
    export.add_argument("experiment")
    export.add_argument("stage")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    export.add_argument(
        "--record", type=Path, metavar="FILE.json", help="the session that vouches for it (--dspy-report=FILE.json)"
    )
    export.add_argument(
        "--anyway", action="store_true", help="though its gates do not vouch for it; the receipt says why they do not"
    )
    export.add_argument("--replace", action="store_true", help="put it in the place of an exported program")
    export.set_defaults(run=_export)

    verify = commands.add_parser(
        "verify",
        help="hold an exported program against its receipt, byte by byte",
        description="Hold every file of an exported program against its receipt. Exit code 1 where one was changed, "
        "is missing, or was added.",
    )
    verify.add_argument("folder", type=Path, metavar="DIR")
    verify.set_defaults(run=_verify)

    merge = commands.add_parser(
        "merge",
        help="write a base model with its LoRA merged in, for servers without LoRA",
        description="Write a model as a Hugging Face folder (config, tokenizer with its chat template, safetensors): "
        "an exported program's, its LoRA merged into the base model; or a local model by itself, such as 'local', the "
        "embedded one.",
    )
    merge.add_argument("source", metavar="DIR or MODEL", help="an exported program, or local, local:PATH-or-HF-ID")
    merge.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the folder to write")
    merge.add_argument("--adapter", metavar="NAME", help="which LoRA, where the program has several")
    merge.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the weights (float32, in which nothing is rounded)",
    )
    merge.set_defaults(run=_merge)


def _export(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.cli_receipt import ExportSources, receipt_of
    from pytest_dspy_ft.gates.vouching import objections
    from pytest_dspy_ft.report.model_card import render_card
    from pytest_dspy_ft.store.export_folder import check_target, write_export
    from pytest_dspy_ft.store.inventory import take_inventory

    check_target(options.output, replace=options.replace)
    inventory = take_inventory(options.store)
    session, problem = _vouching_session(options)
    run = None if session is None else session.run
    stored = _find_build(inventory, options, run)
    build = stored.build
    sources = ExportSources(stored, inventory, session)
    against = [problem] if problem else []
    if run is not None:
        against += objections(run, options.experiment, options.stage, (stored.record.key, build.digest))
    if against and not options.anyway:
        listed = "\n".join(f"  {reason}" for reason in against)
        print(
            f"stage {options.stage!r} of experiment {options.experiment!r} is not exported:\n{listed}\n"
            "  run all of its tests, or name a session in which its gates passed with --record=FILE.json; --anyway "
            "exports it all the same, and its receipt says this",
            file=sys.stderr,
        )
        return REFUSED
    shipment = sources.shipment()
    receipt = receipt_of(sources, shipment, tuple(against))
    adapters = {name: inventory.root / path for name, path in shipment["adapters"].items()}
    write_export(options.output, shipment, adapters, receipt, render_card, replace=options.replace)
    print(options.output)
    for reason in against:
        print(f"NOT PROVEN (--anyway): {reason}")
    for need in receipt.needs:
        print(f"NOTE: to load it, give {need}")
    return 0


def _vouching_session(options: argparse.Namespace) -> tuple[ExportSession | None, str]:
    """The session whose verdicts count; where there is none, the reason."""
    from pytest_dspy_ft.cli_receipt import ExportSession
    from pytest_dspy_ft.records.run_file import read_record
    from pytest_dspy_ft.store.build import file_digest
    from pytest_dspy_ft.store.folder import StoreFolder
    from pytest_dspy_ft.store.sessions import last_session_path, measured_stages, read_last_session

    name, record = options.experiment, options.record
    try:
        if record is not None:
            run = read_record(record)
            results = [result for one in run.experiments if one.name == name for result in one.results]
            measured = measured_stages(result for result in results if result.stage == options.stage)
            return ExportSession(run, measured, record.name, file_digest(record)), ""
        store = StoreFolder(options.store, read_only=True)
        if (kept := read_last_session(store, name)) is None:
            reason = "the store keeps no session of this experiment; sessions with --dspy-frozen leave no trace in it"
            return None, reason
        digest = file_digest(last_session_path(store, name))
        return ExportSession(kept.run, kept.measured, "the last session of the store", digest), ""
    except RecordError as problem:
        return None, str(problem)


def _find_build(inventory: Inventory, options: argparse.Namespace, run: RunRecord | None) -> StoredBuild:
    """The build that a session vouches for; where the store has not got that, its newest one of the stage."""
    from pytest_dspy_ft.store.entries import DamagedEntryError
    from pytest_dspy_ft.text import did_you_mean

    name = (options.experiment, options.stage)
    builds = [stored for stored in inventory.builds if stored.name == name]
    if not builds:
        here = [b for b in inventory.builds if b.record.experiment == options.experiment]
        damaged = f"; unreadable are {', '.join(map(str, inventory.unreadable))}" if inventory.unreadable else ""
        if not here:
            near = did_you_mean(options.experiment, inventory.experiments)
            raise ExportError(f"no experiment {options.experiment!r} in {options.store}{near}{damaged}")
        near = did_you_mean(options.stage, [b.record.stage for b in here])
        raise ExportError(f"stage {options.stage!r} of {options.experiment!r} is not built{near}{damaged}")
    judged = next((e for e in run.experiments if e.name == options.experiment), None) if run is not None else None
    wanted = {(b.key, b.digest) for b in judged.stages if b.stage == options.stage} if judged is not None else set()
    stored = next((b for b in builds if (b.record.key, b.build.digest) in wanted), builds[0])
    try:
        stored.build.verify()
    except (DamagedEntryError, OSError) as problem:
        raise ExportError(f"the build in {stored.build.folder} is not as it was filed: {problem}") from None
    return stored


def _verify(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.store.export_folder import check_export

    try:
        receipt = check_export(options.folder)
    except ExportError as error:
        print(error, file=sys.stderr)
        return REFUSED
    files = len(receipt.files) + 1
    what = f"stage {receipt.stage!r} of {receipt.experiment!r}"
    print(f"{options.folder}: {what}, all {files} files as they were written")
    for reason in receipt.unproven:
        print(f"NOT PROVEN (--anyway): {reason}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.constants import MODEL_PREFIX
    from pytest_dspy_ft.local.merged_folder import write_merged
    from pytest_dspy_ft.local.weights import BUNDLED_NAME
    from pytest_dspy_ft.store.export_folder import check_export, exported_model

    folder = Path(options.source)
    if options.source == "local" or options.source.startswith(MODEL_PREFIX):
        base, adapter, weights = options.source.removeprefix("local").removeprefix(":") or BUNDLED_NAME, None, ""
        if options.adapter:
            raise ExportError(f"--adapter={options.adapter}: {options.source} is a base model, and has no LoRA")
    else:
        check_export(folder)
        base, adapter, weights = exported_model(folder, options.adapter)
    write_merged(base, adapter, options.output, dtype=options.dtype, expected=weights)
    print(options.output)
    return 0
