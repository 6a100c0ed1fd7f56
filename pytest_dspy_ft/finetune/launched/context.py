"""For whom a training is launched, and which models can be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_dspy_ft.finetune.launched.protocol import Launcher
from pytest_dspy_ft.lms.resolve import is_local


@dataclass(frozen=True)
class LaunchContext:
    """The stage that trainings are launched for, and who carries them out."""

    launcher: Launcher
    """Made by ``launcher_for``, or in a script; what it is named by is noted for the command line."""
    folder: Path
    """Where its trainings are written down, in the store."""
    session: str
    rebuild: bool = False
    """A training whose result is in a build already does not count."""
    spent: frozenset[str] = frozenset()
    """Trainings whose results are in a build."""
    timeout: float | None = None
    """Seconds that a session waits for one."""
    how_to_cancel: str = ""
    """The command that ends one, but for its name at the end."""


def is_launchable(lm: Any) -> bool:
    """True for a model of this machine that its provider would train in this process."""
    return is_local(lm) and bool(getattr(lm.provider, "trains_on_this_machine", False))
