"""The prompts of all stages side by side: what each predictor is told, and what of that is new."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pytest_dspy_ft.records.build import PredictorRecord, StageDetails

Mark = Literal["same", "new", "gone"]

_LONGEST_COMPARED = 6000
"""Characters: longer texts are shown without marking what changed, which takes time that grows with their square."""


class PromptCell(NamedTuple):
    """A predictor in one stage."""

    stage: str
    predictor: PredictorRecord | None
    """None where this stage has no such predictor."""
    instructions: list[tuple[Mark, str]]
    """The instructions in pieces; compared with those of the stage to the left."""
    same_as: str
    """The nearest earlier stage with the same instructions, fields and demos; empty without one."""
    new_demos: int
    """How many of the demos the stage to the left does not have."""


class PromptRow(NamedTuple):
    """A predictor in all stages."""

    name: str
    cells: list[PromptCell]


def prompt_table(stages: Sequence[StageDetails]) -> list[PromptRow]:
    """A row for each predictor, a cell for each stage."""
    names = dict.fromkeys(predictor.name for stage in stages for predictor in stage.predictors)
    return [PromptRow(name, _cells(name, stages)) for name in names]


def _cells(name: str, stages: Sequence[StageDetails]) -> list[PromptCell]:
    cells = []
    before: PredictorRecord | None = None
    known: list[tuple[str, PredictorRecord]] = []
    for stage in stages:
        predictor = next((p for p in stage.predictors if p.name == name), None)
        if predictor is None:
            cells.append(PromptCell(stage.stage, None, [], "", 0))
            continue
        same = next((name for name, other in reversed(known) if other == predictor), "")
        old = before.instructions if before and not same else predictor.instructions
        new_demos = sum(demo not in before.demos for demo in predictor.demos) if before else len(predictor.demos)
        cells.append(PromptCell(stage.stage, predictor, compared(old, predictor.instructions), same, new_demos))
        known.append((stage.stage, predictor))
        before = predictor
    return cells


def compared(old: str, new: str) -> list[tuple[Mark, str]]:
    """A text in pieces that were there before, are new, or are gone: by words."""
    if old == new or not old or len(old) + len(new) > _LONGEST_COMPARED:
        return [("same", new)]
    was, now = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (old, new))
    pieces: list[tuple[Mark, str]] = []
    matcher = difflib.SequenceMatcher(None, was, now, autojunk=False)
    if matcher.quick_ratio() < 0.3:
        return [("new", new)]  # written anew: word by word it could not be read
    for what, i, j, k, m in matcher.get_opcodes():
        if what in ("delete", "replace"):
            pieces.append(("gone", "".join(was[i:j])))
        if what in ("insert", "replace", "equal"):
            pieces.append(("same" if what == "equal" else "new", "".join(now[k:m])))
    return pieces
