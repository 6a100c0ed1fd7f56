"""``python -m pytest_dspy_ft show`` and ``rescore``: what was answered, read and scored again. No dspy, no torch."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import StoreError

if TYPE_CHECKING:
    from pytest_dspy_ft.records.base import Split
    from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
    from pytest_dspy_ft.store.store import Store


def add_commands(commands: Any) -> None:
    """Add the commands to the command line's."""
    show = commands.add_parser(
        "show",
        help="show one example with every raw reply",
        description="Show one example as the newest evaluation that holds it has it: inputs, labels, prediction, "
        "score, feedback, what went wrong, and every reply of the LM as it came, with why it ended and its tokens.",
    )
    show.add_argument("store", type=Path, help="a store, by default .dspy_ft beside the ini file")
    show.add_argument("experiment")
    show.add_argument("stage")
    show.add_argument("id", help="the example's id, or as much of its beginning as tells it from others")
    show.add_argument("--on", choices=("train", "dev", "test"), help="its split, where it is in several")
    show.set_defaults(run=_show)

    rescore = commands.add_parser(
        "rescore",
        help="score stored outputs with today's metrics, without an LM call",
        description="Score all outputs that the store has of the experiments in some tests with their metrics as they "
        "are now, keep the scores, and print them beside those of before. No stage is built and no LM called. All "
        "arguments go to pytest: paths of tests, and options such as --dspy-store=DIR. Exit code 1 where outputs could "
        "not be scored.",
        add_help=False,
        prefix_chars="\0",
    )
    rescore.add_argument("arguments", nargs="*", metavar="PATH or OPTION", help="for pytest")
    rescore.set_defaults(run=_rescore)


def _rescore(options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "pytest", "--dspy-rescore", "-q", *options.arguments]
    return subprocess.run(command, check=False).returncode


def _show(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.report.show import render_example
    from pytest_dspy_ft.store.outputs import OutputsPlace
    from pytest_dspy_ft.store.store import Store
    from pytest_dspy_ft.text import ascii_only

    if not options.store.is_dir():
        raise StoreError(f"{options.store} does not exist; a session makes a store, by default .dspy_ft beside the ini")
    store = Store(options.store, read_only=True)
    result, example = _found(store, options)
    outputs = []
    if result.outputs:
        place = OutputsPlace(result.experiment, result.stage, result.on, result.outputs)
        for stored in store.load_outputs(place, replies=True, wanted=f'"{example.id}"'):
            outputs += [one for calls in stored.calls.values() for one in calls if one.id == example.id]
    text = "\n".join(render_example(result, example, outputs))
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        text = ascii_only(text)
    print(text)
    return 0


def _found(store: Store, options: argparse.Namespace) -> tuple[StageResult, ExampleResult]:
    """The newest evaluation that holds the example, and the example in it."""
    from pytest_dspy_ft.records.base import SPLITS

    splits: list[Split] = [options.on] if options.on else ["dev", "test", "train"]
    results = [r for on in splits for r in store.evaluations_of(options.experiment, options.stage, on)]
    if not results:
        raise StoreError(_what_is_there(options))
    found: dict[tuple[str, str], tuple[StageResult, ExampleResult]] = {}
    for result in results:
        for example in result.examples:
            if example.id.startswith(options.id):
                found.setdefault((result.on, example.id), (result, example))
    exact = [one for (_, identity), one in found.items() if identity == options.id]
    if len(exact) == 1 or len(found) == 1:
        return (exact or list(found.values()))[0]
    if found:
        some = ", ".join(f"{identity} ({on})" for on, identity in sorted(found)[:5])
        several = "say which split with --on" if len({i for _, i in found}) == 1 else "write more of it"
        raise StoreError(f"{options.id} begins the ids of {len(found)} examples: {some}; {several}")
    from pytest_dspy_ft.text import did_you_mean

    ids = sorted({example.id for result in results for example in result.examples})
    where = " and ".join(on for on in SPLITS if any(result.on == on for result in results))
    raise StoreError(
        f"no example {options.id!r} in the evaluations of stage {options.stage!r} on {where}"
        f"{did_you_mean(options.id, ids, most=3) or '; ids are ' + ', '.join(ids[:3]) + ', ...'}"
    )


def _what_is_there(options: argparse.Namespace) -> str:
    """What there is in place of an experiment or a stage that the store does not have."""
    from pytest_dspy_ft.store.inventory import take_inventory
    from pytest_dspy_ft.text import did_you_mean

    measured = [e.head for e in take_inventory(options.store, heads=True).evaluations]
    experiments = sorted({result.experiment for result in measured})
    if options.experiment not in experiments:
        near = did_you_mean(options.experiment, experiments) or f"; it has {_listed(experiments)}"
        return f"no experiment {options.experiment!r} in {options.store}{near}"
    here = [result for result in measured if result.experiment == options.experiment]
    stages = sorted({result.stage for result in here})
    if options.stage not in stages:
        near = did_you_mean(options.stage, stages) or f"; measured are {_listed(stages)}"
        return f"stage {options.stage!r} of {options.experiment!r} was not measured{near}"
    splits = sorted({result.on for result in here if result.stage == options.stage})
    return f"stage {options.stage!r} was not measured on {options.on}; it was on {_listed(splits)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
