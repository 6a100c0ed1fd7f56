"""``python -m pytest_dspy_ft``: what was built and measured, without pytest. Nothing here imports dspy or torch."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dspy_ft.cli_arguments import confidence, count, days
from pytest_dspy_ft.cli_comment import add_comment_command
from pytest_dspy_ft.cli_export import add_export_commands
from pytest_dspy_ft.cli_history import add_history_commands, history_note, read_history, terminal
from pytest_dspy_ft.cli_init import add_init_command
from pytest_dspy_ft.cli_outputs import add_commands
from pytest_dspy_ft.cli_trainings import add_training_commands
from pytest_dspy_ft.errors import DspyFtError, RecordError
from pytest_dspy_ft.report.formats import REPORT_KINDS
from pytest_dspy_ft.store import DEFAULT_STORE
from pytest_dspy_ft.text import ascii_only

if TYPE_CHECKING:
    from pytest_dspy_ft.records.baseline import Baseline, SavedExperiment
    from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord
    from pytest_dspy_ft.store.inventory import Inventory
    from pytest_dspy_ft.store.prune import Kept

FAILED = 1
"""Exit code where something was found wanting: a gate that had failed, a regression, something that was not removed."""
MISUSED = 2
"""Exit code where nothing could be done: a wrong argument, a missing file."""

DESCRIPTION = "A first ladder, and what was built and measured with pytest-dspy-ft, without running anything."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, 1 (:data:`FAILED`) or 2 (:data:`MISUSED`).
    """
    options = make_parser().parse_args(arguments)
    try:
        code = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (DspyFtError, OSError) as error:
        print(f"{make_parser().prog}: {error}", file=sys.stderr)
        return MISUSED
    return code


def make_parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    parser = argparse.ArgumentParser(prog="python -m pytest_dspy_ft", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_init_command(commands)

    report = commands.add_parser(
        "report",
        help="show a saved record, or the newest state of a store",
        description="Show a saved record (.json of --dspy-report), or the newest state of a store, as the table that "
        "pytest shows, or as files. Exit code 1 where a gate in the record had failed.",
    )
    report.add_argument("source", nargs="?", type=Path, default=Path(DEFAULT_STORE), help="a record or a store")
    report.add_argument(
        "-o",
        "--output",
        action="append",
        type=Path,
        default=[],
        metavar="PATH",
        help="write this file instead: .json, .md or .html; repeatable",
    )
    report.add_argument("--experiment", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    report.set_defaults(run=_report)

    compare = commands.add_parser(
        "compare",
        help="hold one saved record or baseline against an earlier one",
        description="Hold one saved record or baseline against an earlier one, example by example. Exit code 1 where "
        "something got worse beyond noise, the metric is another, or less than half of the earlier examples are left. "
        "The confidence is that of all comparisons together.",
    )
    compare.add_argument("before", type=Path, help="a record of --dspy-report=FILE.json or a baseline")
    compare.add_argument("after", type=Path, help="the same of a later session")
    compare.add_argument("--confidence", type=confidence, default=0.95, metavar="P", help="of all comparisons (0.95)")
    compare.set_defaults(run=_compare)

    ls = commands.add_parser(
        "ls",
        help="list what a store holds",
        description="List what a store holds. current: the newest build of a stage. older: an earlier one, loaded "
        "again when the experiment is declared as it was then. stale: never loaded again, since what it stands on was "
        "built anew and came out differently.",
    )
    ls.add_argument("store", nargs="?", type=Path, default=Path(DEFAULT_STORE))
    ls.add_argument("--json", action="store_true", help="as JSON, for programs")
    ls.set_defaults(run=_ls)

    prune = commands.add_parser(
        "prune",
        help="remove from a store what no longer counts",
        description="Remove from a store what no longer counts: work that killed sessions left, damaged entries that "
        "were set aside, builds that can never be loaded again, evaluations of builds that are gone. Without --yes "
        "nothing is removed. What is locked or was used within the last hour stays, and so does the newest build of "
        "every stage with all it stands on, and what another version of pytest-dspy-ft wrote. Fine-tuning jobs "
        "ordered elsewhere and the history are never removed.",
    )
    prune.add_argument("store", nargs="?", type=Path, default=Path(DEFAULT_STORE))
    prune.add_argument("--yes", action="store_true", help="do it")
    prune.add_argument("--keep-last", type=count, metavar="N", help="also builds of a stage beyond the newest N")
    prune.add_argument(
        "--older-than", type=days, metavar="DAYS", help="also what no session used for so many days, the newest aside"
    )
    prune.add_argument("--other-versions", action="store_true", help="also what other versions wrote")
    prune.set_defaults(run=_prune)

    add_comment_command(commands)
    add_history_commands(commands)
    add_training_commands(commands)
    add_commands(commands)
    add_export_commands(commands)

    schema = commands.add_parser("schema", help="print the JSON Schema of a saved record")
    schema.set_defaults(run=_schema)
    return parser


# --- report ----------------------------------------------------------------------------------------------------------


def _report(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.files import write_atomically
    from pytest_dspy_ft.report.formats import rendered

    for path in options.output:
        if path.suffix.lower() not in REPORT_KINDS:
            raise RecordError(f"{path} is no report: choose a name that ends in {', '.join(REPORT_KINDS)}")
    record = _record_from(options.source)
    names = [experiment.name for experiment in record.experiments]
    if unknown := [name for name in options.experiment if name not in names]:
        raise RecordError(f"no experiment {unknown[0]!r} in {options.source}; it has {', '.join(names) or 'none'}")
    if options.experiment:
        chosen = tuple(e for e in record.experiments if e.name in options.experiment)
        record = record.model_copy(update={"experiments": chosen})
    history = read_history(options.source).points if options.output and options.source.is_dir() else ()
    for path in options.output:
        write_atomically(path, rendered(record, path, history))
        print(path)
    if not options.output:
        _print_tables(record)
    failed = any(not verdict.passed for e in record.experiments for verdict in e.verdicts)
    return FAILED if failed else 0


def _print_tables(record: RunRecord) -> None:
    from pytest_dspy_ft.report.table import render, title

    width, unicode = terminal()
    blocks = []
    for experiment in record.experiments:
        heading = f" {title(experiment, unicode=unicode)} ".center(width, "=")
        blocks.append("\n".join([heading, *render(experiment, width=width, unicode=unicode)]))
    print("\n\n".join(blocks) or "no experiments")
    for reason in record.incomplete:
        print(f"\nNOTE: {reason}")


def _record_from(source: Path) -> RunRecord:
    if source.is_dir():
        from pytest_dspy_ft.store.inventory import take_inventory
        from pytest_dspy_ft.store.record import record_of_store

        return record_of_store(take_inventory(source))
    from pytest_dspy_ft.records.run_file import read_record

    return read_record(source)


# --- compare ---------------------------------------------------------------------------------------------------------


def _compare(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.gates.regression import OtherComparisons, comparable, compare
    from pytest_dspy_ft.report.changes import explain_comparison, render_comparison
    from pytest_dspy_ft.report.table import title

    (then, old), (now, new) = _results(options.before), _results(options.after)
    width, unicode = terminal()
    worse = False
    both = [(saved, same) for saved in then.experiments if (same := now.experiment(saved.name)) is not None]
    judged = {saved.name: comparable(saved, same) for saved, same in both}
    for saved in then.experiments:
        if (current := now.experiment(saved.name)) is None:
            print(f"experiment {saved.name} is not in {options.after}")
            continue
        earlier, record = old.get(saved.name), new.get(saved.name)
        found = compare(
            saved,
            current,
            file=str(options.before),
            created=then.created,
            confidence=options.confidence,
            limit=record.limit if record else None,
            others=OtherComparisons([one for name, some in judged.items() if name != saved.name for one in some]),
        )
        shown = (record or _bare(current)).model_copy(update={"comparison": found})
        print(f" {title(shown, unicode=unicode)} ".center(width, "="))
        for line in render_comparison(shown, width=width, unicode=unicode):
            print(line)
        if not found.passed:
            worse = True
            results = {(r.stage, r.on): r for r in earlier.results} if earlier else {}
            text = explain_comparison(shown, results)
            print(f"\n{text if unicode else ascii_only(text)}")
    for current in now.experiments:
        if then.experiment(current.name) is None:
            print(f"experiment {current.name} is not in {options.before}")
    return FAILED if worse else 0


def _results(path: Path) -> tuple[Baseline, dict[str, ExperimentRecord]]:
    """The scores in a baseline or a record; and of a record, its experiments by name."""
    from pytest_dspy_ft.records.baseline import FORMAT, baseline_of, read_baseline
    from pytest_dspy_ft.records.run_file import read_record

    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        content = None  # read_record says what is wrong
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return read_baseline(path), {}
    record = read_record(path)
    return baseline_of(record), {experiment.name: experiment for experiment in record.experiments}


def _bare(saved: SavedExperiment) -> ExperimentRecord:
    """An experiment of a baseline as a record without results."""
    from pytest_dspy_ft.records.run import ExperimentRecord

    order = tuple(stage.name for stage in saved.stages)
    return ExperimentRecord(name=saved.name, lm=saved.lm, seed=saved.seed, sizes=saved.sizes, order=order)


# --- ls --------------------------------------------------------------------------------------------------------------


def _ls(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.store.inventory import take_inventory, when
    from pytest_dspy_ft.text import counted, one_line, percent

    inventory = take_inventory(options.store, heads=True)
    outputs = inventory.outputs
    if options.json:
        print(json.dumps(_as_data(inventory), indent=1))
        return 0
    rows = []
    for b in inventory.builds:
        built = b.created[:16].replace("T", " ")
        rows.append([*map(one_line, b.name), b.record.key[:12], built, when(b.used), human(b.size), b.standing])
    print(_table(["experiment", "stage", "key", "built", "last used", "size", "standing"], rows))
    measured = []
    for e in inventory.evaluations:
        names = one_line(e.head.experiment), one_line(e.head.stage)
        figures = e.head.on, str(e.head.n), percent(e.head.score)
        measured.append([*names, *figures, when(e.used), human(e.size), "orphaned" if e.orphaned else ""])
    print("\n" + _table(["experiment", "stage", "on", "n", "score", "measured", "size", ""], measured))
    kept = [
        f"outputs of {counted(len(outputs), 'evaluation')}, with every reply: {human(sum(o.size for o in outputs))}"
    ]
    notes = [
        *history_note(options.store),
        *(kept if outputs else ()),
        *_leftover_notes(inventory),
        *(f"unreadable: {path}" for path in inventory.unreadable),
    ]
    if notes := [*notes, *(f"of another version: {path}" for path in inventory.other_versions)]:
        print("\n" + "\n".join(notes))
    return 0


_LEFTOVERS = {
    "work": "under way or left by killed sessions",
    "set_aside": "damaged and set aside",
    "journal": "of interrupted evaluations, to be continued",
    "answers": "of kept answers",
}


def _leftover_notes(inventory: Inventory) -> list[str]:
    from pytest_dspy_ft.text import counted

    sizes: dict[str, list[int]] = {}
    for leftover in inventory.leftovers:
        sizes.setdefault(leftover.kind, []).append(leftover.size)
    return [f"{counted(len(one), 'entry')} {_LEFTOVERS[kind]}, {human(sum(one))}" for kind, one in sizes.items()]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from tabulate import tabulate

    text = tabulate(rows, head, "plain", disable_numparse=True)  # a key of digits alone is no number
    return "\n".join(line.rstrip() for line in text.splitlines())


def _as_data(inventory: Inventory) -> dict[str, object]:
    return {
        "builds": [
            {
                "experiment": b.record.experiment,
                "stage": b.record.stage,
                "key": b.record.key,
                "digest": b.build.digest,
                "created": b.created,
                "used": b.used,
                "bytes": b.size,
                "standing": b.standing,
                "upstream": b.upstream,
            }
            for b in inventory.builds
        ],
        "evaluations": [
            {
                "experiment": e.head.experiment,
                "stage": e.head.stage,
                "on": e.head.on,
                "key": e.head.key,
                "n": e.head.n,
                "score": e.head.score,
                "measured": e.used,
                "bytes": e.size,
                "orphaned": e.orphaned,
            }
            for e in inventory.evaluations
        ],
        "outputs": [
            {"path": str(o.path), "key": o.key, "bytes": o.size, "measured": o.used} for o in inventory.outputs
        ],
        "leftovers": [{"path": str(x.path), "kind": x.kind, "bytes": x.size} for x in inventory.leftovers],
        "unreadable": list(map(str, inventory.unreadable)),
        "other_versions": list(map(str, inventory.other_versions)),
    }


def human(size: int) -> str:
    """Bytes as people read them: ``12 kB``, ``9.4 MB``."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB"):
        if value >= 1000:
            value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


# --- prune -----------------------------------------------------------------------------------------------------------


def _prune(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.store.inventory import take_inventory
    from pytest_dspy_ft.store.prune import plan_removals, remove

    inventory = take_inventory(options.store, heads=True)
    removals, kept = plan_removals(
        inventory,
        keep_last=options.keep_last,
        older_than=options.older_than,
        other_versions=options.other_versions,
    )
    failures: list[Kept] = []
    if options.yes:
        removals, failures = remove(inventory.root, removals)
    word = "removed" if options.yes else "would remove"
    for removal in removals:
        print(f"{word} {removal.path.relative_to(inventory.root)} ({human(removal.size)}): {removal.reason}")
    for left in [*kept, *failures]:
        print(f"kept {left.path.relative_to(inventory.root)}: {left.reason}")
    total = human(sum(removal.size for removal in removals))
    if not removals:
        print("nothing to remove")
    elif options.yes:
        print(f"{total} freed")
    else:
        print(f"{total} in all; nothing was removed: add --yes to do it")
    return FAILED if failures else 0


# --- schema -----------------------------------------------------------------------------------------------------------


def _schema(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.records.schema import schema

    print(json.dumps(schema(), indent=1))
    return 0
