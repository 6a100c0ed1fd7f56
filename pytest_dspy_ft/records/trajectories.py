"""Trajectories: what became of each example from stage to stage.

The score says how many examples a stage gets right; the trajectory says which, and what the way up the ladder did to
them. An example that a prompt had right and a fine-tuning lost was *forgotten*, though the score rose.

For 0/1 metrics, by the example's scores from the lowest stage to the highest:

============== ========================================== =====================
kind           meaning                                    such as
============== ========================================== =====================
always right   right in every stage                       right, right, right
learned        wrong in the lowest, right in the highest  wrong, wrong, right
regained       right in the lowest and the highest,       right, wrong, right
               wrong in between
forgotten      wrong in the lowest and the highest,       wrong, right, wrong
               right in between
lost           right in the lowest, wrong in the highest  right, right, wrong
never right    wrong in every stage                       wrong, wrong, wrong
unmeasured     a stage could not be measured on it        right, error, right
============== ========================================== =====================

Graded scores are told apart by the same comparisons: *learned* ends at its best and above where it began, *forgotten*
ends below its best but not below where it began, *lost* ends below where it began; one that stays the same between
wrong and right is *unchanged*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import Outcome, StageResult
from pytest_dspy_ft.records.pairing import side_by_side
from pytest_dspy_ft.records.run import ExperimentRecord

TrajectoryKind = Literal[
    "always right", "learned", "regained", "unchanged", "forgotten", "lost", "never right", "unmeasured"
]
T = TypeVar("T")

TRAJECTORY_KINDS: tuple[TrajectoryKind, ...] = get_args(TrajectoryKind)


@dataclass(frozen=True)
class Trajectory:
    """One example on its way through the stages."""

    id: str
    stages: tuple[str, ...]
    """The lowest first."""
    scores: tuple[float, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def kind(self) -> TrajectoryKind:
        """The name of its way up the ladder."""
        if "error" in self.outcomes:
            return "unmeasured"
        scores = self.scores
        first, last, best = scores[0], scores[-1], max(scores)
        if last < first:
            return "lost"
        if last < best:
            return "forgotten"
        if last > first:
            return "learned"
        if min(scores) < last:
            return "regained"
        return "always right" if last == 1 else "never right" if last == 0 else "unchanged"

    def __str__(self) -> str:
        """The way in words: ``baseline wrong, prompt_optimized right, finetuned wrong: forgotten``."""
        steps = zip(self.stages, self.scores, self.outcomes, strict=True)
        return f"{', '.join(f'{stage} {_word(score, outcome)}' for stage, score, outcome in steps)}: {self.kind}"


def trajectories(results: Sequence[StageResult]) -> list[Trajectory]:
    """The examples of one split on their way through stages.

    Args:
        results: Evaluations on one split, the lowest stage first.

    Returns:
        One for each example that all of them hold, in the order of the first; copies of one example each for itself.
    """
    global _latest
    known, found = _latest
    if len(known) != len(results) or any(one is not other for one, other in zip(known, results, strict=True)):
        stages, held = tuple(result.stage for result in results), side_by_side(results)
        scores = zip(*(_at(places, r.scores) for places, r in zip(held, results, strict=True)), strict=True)
        outcomes = zip(*(_at(places, r.outcomes) for places, r in zip(held, results, strict=True)), strict=True)
        ids = _at(held[0], results[0].ids) if results else []
        rows = zip(ids, scores, outcomes, strict=True)
        found = [Trajectory(identity, stages, scored, came_to) for identity, scored, came_to in rows]
        _latest = tuple(results), found
    return found


_latest: tuple[tuple[StageResult, ...], list[Trajectory]] = (), []
"""What was asked last, and the answer: gate after gate asks it of the same results."""


def ladder_results(record: ExperimentRecord, on: Split) -> list[StageResult]:
    """The evaluations of the ladder's stages on one split, the lowest stage first."""
    found = (record.result(stage, on) for stage in record.order)
    return [result for result in found if result is not None and result.n]


def kind_counts(found: Sequence[Trajectory]) -> dict[TrajectoryKind, int]:
    """How many examples went which way, in a fixed order and without those that none went."""
    counts = Counter(trajectory.kind for trajectory in found)
    return {kind: counts[kind] for kind in TRAJECTORY_KINDS if counts[kind]}


def _at(places: Sequence[int], column: Sequence[T]) -> list[T]:
    return [column[place] for place in places]


def _word(score: float, outcome: Outcome) -> str:
    if outcome != "scored" and score == 0:
        return outcome
    return {0.0: "wrong", 1.0: "right"}.get(score, f"{score:.3g}")
