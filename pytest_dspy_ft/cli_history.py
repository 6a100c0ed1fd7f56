"""``python -m pytest_dspy_ft trend``: how scores moved from session to session. Nothing here imports dspy or torch."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.cli_arguments import sessions
from pytest_dspy_ft.cli_mlflow import add_mlflow_command
from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.store import DEFAULT_STORE

if TYPE_CHECKING:
    from pytest_dspy_ft.records.evaluation import StageResult
    from pytest_dspy_ft.records.history import HistoryPoint
    from pytest_dspy_ft.report.trend import Series, Stored
    from pytest_dspy_ft.store.history import HistoryLines

LAST = 30
"""How many sessions of each stage are shown where nobody says."""

_MAKES_ONE = "every whole session (no -k, no single tests or files, no --dspy-limit) adds to it"


def add_history_commands(commands: Any) -> None:
    """Add the commands to the command line's."""
    trend = commands.add_parser(
        "trend",
        help="show how scores moved from session to session",
        description="Show how the scores of every stage moved from session to session: first, last, best and worst, "
        "with the change from first to last, example by example where the store still has both evaluations. | in a "
        "trend stands where the LM, the data or the metric changed.",
    )
    trend.add_argument("store", nargs="?", type=Path, default=Path(DEFAULT_STORE))
    trend.add_argument("--experiment", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    trend.add_argument("--stage", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    trend.add_argument("--on", choices=("train", "dev", "test"), help="only this split")
    trend.add_argument("--lm", action="append", default=[], metavar="NAME", help="only with this LM; repeatable")
    trend.add_argument(
        "--last", type=sessions, default=LAST, metavar="N", help=f"the newest N sessions of each stage ({LAST})"
    )
    trend.add_argument("--json", action="store_true", help="as JSON, for programs")
    trend.set_defaults(run=_trend)
    add_mlflow_command(commands)


def read_history(store: Path) -> HistoryLines:
    """The history of a store; without any line where there is no store."""
    from pytest_dspy_ft.store.folder import StoreFolder
    from pytest_dspy_ft.store.history import History

    return History(StoreFolder(store, read_only=True)).read()


def history_note(store: Path) -> list[str]:
    """What a list of a store's content says of its history: a line, or none where there is no history."""
    from pytest_dspy_ft.text import counted

    if not (points := read_history(store).points):
        return []
    sessions = counted(len({point.created for point in points}), "session")
    return [f"history of {sessions}, {points[0].day} to {points[-1].day}: python -m pytest_dspy_ft trend {store}"]


# --- trend -----------------------------------------------------------------------------------------------------------


def _trend(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.report.trend import render_trend, series_of
    from pytest_dspy_ft.text import ascii_only, one_line

    lines = read_history(options.store)
    chosen = _chosen(lines.points, options)
    stored = _stored(options.store)
    names = list(dict.fromkeys(point.experiment for point in chosen))
    found = {name: series_of([p for p in chosen if p.experiment == name], options.last, stored) for name in names}
    if options.json:
        print(json.dumps({name: list(map(_as_data, every)) for name, every in found.items()}, indent=1))
        return 0
    width, unicode = terminal()
    blocks = []
    for name, every in found.items():
        heading = f" dspy trend: {one_line(name) if unicode else ascii_only(one_line(name))} ".center(width, "=")
        shown = [heading, *render_trend(every, width=width, unicode=unicode)]
        blocks.append("\n".join(shown))
    print("\n\n".join(blocks))
    for note in _line_notes(lines):
        print(f"\nNOTE: {note}")
    return 0


def _chosen(points: Sequence[HistoryPoint], options: argparse.Namespace) -> list[HistoryPoint]:
    """The points that were asked for.

    Raises:
        StoreError: There are none.
    """
    if not points:
        store = options.store
        if not store.exists():
            raise StoreError(f"{store} does not exist; a session makes one, by default .dspy_ft beside the ini file")
        raise StoreError(f"{store} has no history yet; {_MAKES_ONE}")
    wanted = (
        ("--experiment", options.experiment, [p.experiment for p in points]),
        ("--stage", options.stage, [p.stage for p in points]),
        ("--on", [options.on] if options.on else [], [p.on for p in points]),
        ("--lm", options.lm, [p.base for p in points]),
    )
    for option, asked, known in wanted:
        for name in asked:
            if name not in known:
                choices = ", ".join(dict.fromkeys(known))
                raise StoreError(f"{option} {name}: the history of {options.store} has none; it has {choices}")
    columns = [(asked, known) for _, asked, known in wanted if asked]
    chosen = [p for i, p in enumerate(points) if all(known[i] in asked for asked, known in columns)]
    if not chosen:
        raise StoreError(f"the history of {options.store} has nothing that fits all of these options together")
    return chosen


def _stored(root: Path) -> Stored:
    """Looks up the evaluation of a point: the very one, not one that was measured again under its key."""
    from pytest_dspy_ft.store.store import Store

    store = Store(root, read_only=True)
    known: dict[str, StageResult | None] = {}

    def look_up(point: HistoryPoint) -> StageResult | None:
        if point.key not in known:
            try:
                known[point.key] = store.load_evaluation(point.experiment, point.stage, point.on, point.key)
            except StoreError:
                known[point.key] = None
        result = known[point.key]
        same = result is not None and (result.n, result.score, result.session) == (point.n, point.score, point.session)
        return result if same else None

    return look_up


def _line_notes(lines: HistoryLines) -> list[str]:
    notes = []
    if lines.damaged:
        numbers = ", ".join(map(str, lines.damaged[:10])) + ("..." if len(lines.damaged) > 10 else "")
        notes.append(f"damaged lines of history.jsonl were left out: {numbers}")
    if lines.foreign:
        notes.append(f"{lines.foreign} of the lines were written by another version of pytest-dspy-ft, and left out")
    return notes


def _as_data(series: Series) -> dict[str, object]:
    from pytest_dspy_ft.records.history import changed_parts

    pairs = zip([None, *series.points], series.points, strict=False)
    return {
        "stage": series.stage,
        "on": series.on,
        "change": None if series.change is None else series.change._asdict(),
        "points": [
            {**after.model_dump(mode="json"), "changed": changed_parts(before, after) if before else ()}
            for before, after in pairs
        ],
    }


def terminal() -> tuple[int, bool]:
    """How many columns the terminal has, and whether it shows more than ASCII."""
    width = shutil.get_terminal_size((132, 24)).columns
    try:
        "·≥✓▁█".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return width, False
    return width, True
