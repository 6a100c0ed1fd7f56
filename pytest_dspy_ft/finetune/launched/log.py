"""What the log of a launched training tells: how far it is."""

from __future__ import annotations

import dataclasses
import json

from pytest_dspy_ft.finetune.launched.protocol import LaunchState

PROGRESS = "dspy-ft progress "
"""Begins the lines of a log that tell how far the training is."""


@dataclasses.dataclass(frozen=True)
class LaunchProgress:
    """How far a training is, as its log tells."""

    step: int
    total_steps: int | None
    loss: float | None
    validation_loss: float | None
    note: str


def read_progress(state: LaunchState) -> LaunchProgress | None:
    """How far a training is, by the last line of its log that tells; None where none does."""
    for line in reversed(state.log.splitlines()):
        _, found, text = line.partition(PROGRESS)
        if not found:
            continue
        try:
            told = json.loads(text)
            return LaunchProgress(
                int(told["step"]), told.get("total"), told.get("loss"), told.get("validation_loss"), state.word
            )
        except (ValueError, KeyError, TypeError):
            continue
    return None
