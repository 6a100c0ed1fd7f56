"""Sessions over a project in a folder, each with the project's modules loaded anew, as a new process would."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_dspy_ft import Ladder

STAGES = ("baseline", "few")


@dataclass(frozen=True)
class Outcome:
    """What became of a session."""

    loaded: bool
    """Nothing was built, measured, scored or asked."""
    why: str
    """Why something was made anew: reasons and cautions."""
    unseen: tuple[str, ...]
    calls: int


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files of a project."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != textwrap.dedent(text):
            path.write_text(textwrap.dedent(text), encoding="utf-8")


def forget(*packages: str) -> None:
    """Have a project's modules loaded anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
    importlib.invalidate_caches()


def session(**settings: Any) -> Outcome:
    """Build and measure everything in the project of the working directory."""
    forget("shop", "declare")
    ladder = Ladder(importlib.import_module("declare").experiment(), "store", **settings)
    results = [ladder.evaluate(name) for name in STAGES]
    record = ladder.record()
    built = [stage.reason for stage in record.stages if stage.status == "built"]
    calls = len(sys.modules["shop.lm"].CALLS)
    unseen = {what for made in (*record.stages, *results) for what in made.unseen}
    return Outcome(
        loaded=not built and all(result.loaded and not result.rescored for result in results) and calls == 0,
        why="\n".join([*built, *record.cautions]),
        unseen=tuple(sorted(unseen)),
        calls=calls,
    )
