"""Is a stage worse than it was? The scores of the same examples then and now, and what they can tell.

With 0/1 scores, Tango's interval decides, as in gates. With graded ones, the bootstrap's interval and the sign-flip
test must agree: the latter's error is exact for any number of examples, any scores and any confidence, however far a
correction takes it into the tails. An interval that is surer than the sign flips is widened to hold 0.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pytest_dspy_ft.records.comparison import Change

_ROUNDING = 1e-9
_TAIL_RESAMPLES = 25
_MAX_RESAMPLES = 30_000


class FoundChange(NamedTuple):
    """What the scores tell at one confidence."""

    change: Change
    interval: tuple[float, float]
    smallest_loss: float | None


@dataclasses.dataclass(frozen=True)
class PairedScores:
    """One stage on one split: its score on each example then and now."""

    name: str
    """Tells it from the session's other comparisons."""
    ids: tuple[str, ...]
    """Of different examples."""
    before: tuple[float, ...]
    after: tuple[float, ...]

    @classmethod
    def of_examples(cls, name: str, scores: Mapping[str, Sequence[tuple[float, float]]]) -> PairedScores:
        """From (then, now) by example: copies of one are one observation, with their mean."""
        before, after = ([math.fsum(side) / len(side) for side in sides] for sides in _sides(scores))
        return cls(name, tuple(scores), tuple(before), tuple(after))

    @property
    def mean_before(self) -> float:
        """The score then."""
        return math.fsum(self.before) / len(self.before)

    @property
    def mean_after(self) -> float:
        """The score now."""
        return math.fsum(self.after) / len(self.after)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Ids of the examples whose score rose, the largest rise first."""
        return self._moved(1)

    @property
    def broke(self) -> tuple[str, ...]:
        """Ids of the examples whose score fell, the largest fall first."""
        return self._moved(-1)

    def _moved(self, sign: int) -> tuple[str, ...]:
        rises = [(sign * (new - old), one) for old, new, one in zip(self.before, self.after, self.ids, strict=True)]
        return tuple(one for rise, one in sorted(rises, key=lambda moved: -moved[0]) if rise > 0)

    def is_decided(self, confidence: float, divisor: int) -> bool:
        """True for a loss or a gain, where the error that the confidence allows is divided by a number."""
        corrected = 1 - (1 - confidence) / divisor
        return any(self._possible(corrected)) and self._change(corrected)[0] != "no_loss_seen"

    def judge(self, confidence: float, divisor: int) -> FoundChange:
        """What the scores tell, where the error that the confidence allows is divided by a number."""
        corrected = 1 - (1 - confidence) / divisor
        change, interval = self._change(corrected)
        smallest = self._smallest_loss(corrected)
        if change == "no_loss_seen" and smallest is None:
            change = "blind"
        return FoundChange(change, interval, smallest)

    @property
    def _is_counted(self) -> bool:
        return all(score in (0.0, 1.0) for score in (*self.before, *self.after))

    @functools.cached_property
    def _chances(self) -> tuple[float, float]:
        """The chance of so low a sum and of so high a one where nothing has changed."""
        from pytest_dspy_ft.statistics.sign_flips import chance_of_loss

        rises = [new - old for old, new in zip(self.before, self.after, strict=True)]
        return chance_of_loss(rises), chance_of_loss([-rise for rise in rises])

    def _possible(self, confidence: float) -> tuple[bool, bool]:
        """Whether the sign flips allow for a loss and for a gain; with 0/1 scores Tango's interval alone decides."""
        if self._is_counted:
            return True, True
        allowed = (1 - confidence) / 2 * (1 + _ROUNDING)
        lost, gained = (chance <= allowed for chance in self._chances)
        return lost, gained

    def _change(self, confidence: float) -> tuple[Change, tuple[float, float]]:
        lost, gained = self._possible(confidence)
        low, high = _interval(self.before, self.after, confidence)
        low, high = low if gained else min(low, 0.0), high if lost else max(high, 0.0)
        return "regressed" if high < 0 else "improved" if low > 0 else "no_loss_seen", (low, high)

    def _smallest_loss(self, confidence: float) -> float | None:
        """The smallest loss that would be found: examples drop to 0, as many as are needed, the best ones first.

        All else stays as it was measured: what rose, and the noise of what fell. One that loses a little everywhere
        would be found earlier, so no loss is promised that would be missed.
        """
        order = sorted(
            (i for i, (old, new) in enumerate(zip(self.before, self.after, strict=True)) if old > 0 and new > 0),
            key=lambda i: (-self.before[i], i),
        )

        def dropped(count: int) -> PairedScores:
            after = list(self.after)
            for i in order[:count]:
                after[i] = 0.0
            return dataclasses.replace(self, after=tuple(after))

        def found(count: int) -> bool:
            return dropped(count)._change(confidence)[0] == "regressed"

        counts = range(len(order) + 1)
        if self._is_counted:
            count = bisect_left(counts, True, key=found)
        else:  # a bootstrap takes long: begin where the sign flips allow for a loss
            count = bisect_left(counts, True, key=lambda count: dropped(count)._possible(confidence)[0])
            while count < len(counts) and not found(count):
                count += max(count // 10, 1)
        if count >= len(counts):
            return None
        scores = dropped(count)
        return scores.mean_before - scores.mean_after


def _sides(scores: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[list[list[float]], list[list[float]]]:
    pairs = list(scores.values())
    return [[old for old, _ in one] for one in pairs], [[new for _, new in one] for one in pairs]


@functools.lru_cache(maxsize=4096)
def _interval(before: tuple[float, ...], after: tuple[float, ...], confidence: float) -> tuple[float, float]:
    """The interval of the mean of ``after`` minus that of ``before``."""
    import numpy as np

    from pytest_dspy_ft.statistics.bootstrap import RESAMPLES, margin_interval
    from pytest_dspy_ft.statistics.shares import judged_difference_interval

    old, new = np.array(before), np.array(after)
    if set(before) | set(after) <= {0.0, 1.0}:
        return judged_difference_interval(int((new > old).sum()), int((new < old).sum()), len(new), confidence)
    resamples = max(RESAMPLES, math.ceil(2 * _TAIL_RESAMPLES / (1 - confidence)))
    return margin_interval(
        np.column_stack([old, new]),
        lambda means: means[:, 1] - means[:, 0],
        confidence=confidence,
        resamples=min(resamples, _MAX_RESAMPLES),
    )
