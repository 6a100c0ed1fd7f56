"""All outputs that a store has of an experiment, scored by its metric as it is now; no LM is called."""

from __future__ import annotations

from pytest_dspy_ft.errors import DspyFtError
from pytest_dspy_ft.ladder.ladder import Ladder
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.records.rescored import RescoredRow


def rescore(ladder: Ladder) -> list[RescoredRow]:
    """Score every stage on every split that was measured.

    Args:
        ladder: One that is frozen; with ``rescore``, the scores are kept.

    Returns:
        A row for each evaluation that the store has, of any metric.
    """
    rows = [_row(ladder, stage, on) for stage in ladder.experiment.stages for on in SPLITS]
    return [row for row in rows if row is not None]


def _row(ladder: Ladder, stage: str, on: Split) -> RescoredRow | None:
    stored = next(ladder.store.evaluations_of(ladder.experiment.name, stage, on), None)
    if not ladder.experiment.dataset.sizes[on]:
        return None
    before = None if stored is None else stored.score
    try:
        if stored is None and not ladder.why_scored_again(stage, on):
            return None
        if ladder.find(stage) is None:
            note = f"the stage is not in the store as it is declared now ({ladder.why(stage)})"
            return RescoredRow(stage=stage, on=on, n=0 if stored is None else stored.n, before=before, note=note)
        result = ladder.evaluate(stage, on)
    except DspyFtError as problem:
        n = 0 if stored is None else stored.n
        return RescoredRow(stage=stage, on=on, n=n, before=before, note=str(problem), failed=True)
    note = f"scored again ({result.rescored})" if result.rescored else "as it was"
    return RescoredRow(stage=stage, on=on, n=result.n, before=before, now=result.score, note=note)
