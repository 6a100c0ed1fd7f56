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
from typing import Literal, get_args

from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.pairing import aligned
from pytest_dspy_ft.records.run import ExperimentRecord

TrajectoryKind = Literal[
    "always right", "learned", "regained", "unchanged", "forgotten", "lost", "never right", "unmeasured"
]
TRAJECTORY_KINDS: tuple[TrajectoryKind, ...] = get_args(TrajectoryKind)


@dataclass(frozen=True)
class Trajectory:
    """One example on its way through the stages."""

    id: str
    steps: tuple[tuple[str, ExampleResult], ...]
    """(stage, result), the lowest stage first."""

    @property
    def kind(self) -> TrajectoryKind:
        """The name of its way up the ladder."""
        if any(result.outcome == "error" for _, result in self.steps):
            return "unmeasured"
        scores = [result.score for _, result in self.steps]
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
        return f"{', '.join(f'{stage} {_word(result)}' for stage, result in self.steps)}: {self.kind}"


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
        stages = [result.stage for result in results]
        rows = aligned([result.examples for result in results])
        found = [Trajectory(row[0].id, tuple(zip(stages, row, strict=True))) for row in rows]
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


def _word(result: ExampleResult) -> str:
    if result.outcome != "scored" and result.score == 0:
        return result.outcome
    return {0.0: "wrong", 1.0: "right"}.get(result.score, f"{result.score:.3g}")
