"""``python -m pytest_dspy_ft trainings``: what ``--dspy-train`` has under way, and ending it. No dspy, no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.store import DEFAULT_STORE

if TYPE_CHECKING:
    from pytest_dspy_ft.finetune.launched.journal import LaunchedEntry


def add_training_commands(commands: Any) -> None:
    """Add the command to the command line's."""
    trainings = commands.add_parser(
        "trainings",
        help="list the trainings that --dspy-train launched, or end one",
        description="List the trainings that sessions with --dspy-train launched, and how each stands; or end one. "
        "A training goes on when its session ends, and the next session takes what came of it.",
    )
    trainings.add_argument("store", nargs="?", type=Path, default=Path(DEFAULT_STORE))
    trainings.add_argument("--cancel", metavar="NAME", help="end this one")
    trainings.add_argument(
        "--dspy-train", metavar="LAUNCHER", help="the launcher as sessions name it, where that is not its own name"
    )
    trainings.set_defaults(run=_trainings)


def _trainings(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.finetune.launched.journal import launched_folders, read_entry

    found = [(folder, entry) for folder in launched_folders(options.store / "jobs") if (entry := read_entry(folder))]
    if options.cancel:
        for folder, entry in found:
            if entry.job == options.cancel:
                return _cancel(folder, entry, options.dspy_train)
        print(f"no training is named {options.cancel} in {options.store}", file=sys.stderr)
        return 2
    for folder, entry in found:
        print(f"{entry.job}  {entry.launcher:<10}  {_standing(folder, entry, options.dspy_train)}")
        print(f"    {entry.model} on {entry.rows} rows, ordered {entry.created}, attempt {entry.attempt}; {folder}")
    if not found:
        print(f"no training was launched from {options.store}")
    return 0


def _standing(folder: Path, entry: LaunchedEntry, named: str | None) -> str:
    from pytest_dspy_ft.finetune.launched.journal import order_of
    from pytest_dspy_ft.finetune.launched.log import read_progress

    if not entry.attempt:
        return "not started"
    if entry.refused:
        return f"refused: {entry.refused}"
    try:
        state = _launcher(entry, named).status(order_of(folder, entry))
    except Exception as error:  # whatever a launcher raises: the others are listed all the same
        return f"not known: {error}"
    progress = read_progress(state)
    far = f", step {progress.step} of {progress.total_steps}" if progress is not None else ""
    return f"{state.state}{f' ({state.word})' if state.word else ''}{far}"


def _cancel(folder: Path, entry: LaunchedEntry, named: str | None) -> int:
    from pytest_dspy_ft.finetune.launched.journal import order_of

    launcher = _launcher(entry, named)
    launcher.cancel(order_of(folder, entry))
    print(f"{entry.job}: {launcher.status(order_of(folder, entry)).state}")
    return 0


def _launcher(entry: LaunchedEntry, named: str | None) -> Any:
    """The launcher that a training was given to, by the name it was given by.

    Raises:
        TrainingError: There is none of that name here.
    """
    from pytest_dspy_ft.finetune.launched.choice import launcher_for

    launcher = launcher_for(named or entry.named)
    if launcher is None:
        raise TrainingError(f"{named or entry.named!r} launches nothing")
    return launcher
