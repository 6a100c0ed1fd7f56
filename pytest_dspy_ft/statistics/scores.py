"""Intervals of mean scores and of their paired differences, by the method that the scores allow."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pytest_dspy_ft.statistics.bootstrap import Array, margin_interval
from pytest_dspy_ft.statistics.shares import tango_interval, wilson_interval


def score_interval(scores: ArrayLike, confidence: float = 0.95, *, seed: int = 0) -> tuple[float, float]:
    """Interval of a mean score: Wilson's for 0/1 scores, `margin_interval`'s for graded ones.

    Args:
        scores: Shape (n,), each in [0, 1].
        confidence: In (0, 1).
        seed: Of the resampling; one seed always gives one interval.

    Returns:
        (low, high), fractions in [0, 1].

    Raises:
        ValueError: No scores, a score that is not in [0, 1], or a ``confidence`` that is not in (0, 1).
    """
    values = _scores(scores)
    if _binary(values):
        return wilson_interval(float(values.sum()), len(values), confidence)
    return margin_interval(values[:, None], lambda means: means[:, 0], confidence=confidence, seed=seed)


def paired_difference_interval(
    before: ArrayLike, after: ArrayLike, confidence: float = 0.95, *, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean of ``after`` minus the mean of ``before``, over the same examples.

    Tango's for 0/1 scores (`tango_interval`), `margin_interval`'s for graded ones.

    Args:
        before: Shape (n,), scores in [0, 1].
        after: Shape (n,), scores of the same examples in the same order.
        confidence: In (0, 1).
        seed: Of the resampling; one seed always gives one interval.

    Returns:
        (low, high), fractions in [-1, 1].

    Raises:
        ValueError: No scores, different lengths, a score not in [0, 1], or a ``confidence`` not in (0, 1).
    """
    old, new = _scores(before), _scores(after)
    if len(old) != len(new):
        raise ValueError(f"paired scores must be of the same examples: {len(old)} before, {len(new)} after")
    if _binary(old) and _binary(new):
        return tango_interval(int((new > old).sum()), int((new < old).sum()), len(new), confidence)
    columns = np.column_stack([old, new])
    return margin_interval(columns, lambda means: means[:, 1] - means[:, 0], confidence=confidence, seed=seed)


def _scores(scores: ArrayLike) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError("an interval needs at least one example")
    if not ((values >= 0) & (values <= 1)).all():  # also finds NaN
        raise ValueError("scores must lie between 0 and 1")
    return values


def _binary(values: Array) -> bool:
    return bool(((values == 0) | (values == 1)).all())
