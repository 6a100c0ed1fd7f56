"""A small store with all that sessions leave in one, what it says, and ways to damage its files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import DspyFtError
from pytest_dspy_ft.store.store import Store, StoreWarning
from tests.ladder.helpers import parity_rule, predict, right
from tests.scripted import experiment, reply, scripted_lm


def half_right(fields: Any, request: Any) -> str:
    """Right where the number's last digit is small, and wherever there are demos or weights."""
    if len(request.messages) > 2 or "tuned" in request.model or int(fields["text"]) % 10 < 4:
        return parity_rule(fields, request)
    return reply(label="neither")


def ladder(store: Path | Store) -> Ladder:
    stages = (
        Stage("few", dspy.LabeledFewShot(k=2)),
        Stage("tuned", dspy.BootstrapFinetune(metric=right)),
        Stage("refused", dspy.BootstrapFinetune(metric=right), min_traces=32),
    )
    return Ladder(experiment(predict(), scripted_lm(half_right), stages), store, num_threads=2)


COLLECTED = (32, 3424)
"""Calls and tokens that collecting the traces of ``tuned`` takes."""


def numbers_of(made: Ladder) -> dict[str, Any]:
    """All that gates can ask of the ladder."""
    found: dict[str, Any] = {}
    for stage in ("baseline", "few", "tuned"):
        result = made.evaluate(stage, "dev")
        found[stage] = result.score, result.n, result.errors, result.tokens, result.cost
        record = made.build(stage).record
        found[f"{stage} built"] = record.usage.lm_calls, record.usage.tokens
    bootstrap = made.build("tuned").record.bootstrap
    assert bootstrap is not None
    found["rate"] = bootstrap.kept, bootstrap.rate
    try:
        made.build("refused")
    except DspyFtError as error:
        found["refused"] = str(error).split("\n")[0]
    return found


def files_of(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and p.name != ".gitignore" and p.suffix != ".lock")


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(p.relative_to(root)): (p.lstat().st_mtime_ns, p.lstat().st_mode, p.read_bytes() if p.is_file() else b"")
        for p in [root, *root.rglob("*")]
    }


def names(root: Path) -> list[str]:
    return [str(p.relative_to(root)) for p in files_of(root)]


def measured(root: Path) -> tuple[dict[str, Any], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = numbers_of(ladder(root))
    if found["tuned built"] == (0, 0):  # built again, of the traces that are kept beside it
        found["tuned built"] = COLLECTED
    return found, [str(w.message) for w in caught if issubclass(w.category, StoreWarning)]


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "digits": lambda p: p.write_bytes(p.read_bytes().replace(b"1", b"2")),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "a list": lambda p: p.write_text("[]"),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "a dangling link": lambda p: (p.unlink(), p.symlink_to("/nonexistent/x")),
    "gone": lambda p: p.unlink(),
}
