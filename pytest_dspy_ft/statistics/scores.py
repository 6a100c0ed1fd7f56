"""Intervals of mean scores and of their paired differences, by the method that the scores allow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pytest_dspy_ft.statistics.bootstrap import Array, margin_interval
from pytest_dspy_ft.statistics.shares import exact_interval, tango_interval, wilson_interval


def score_interval(
    scores: ArrayLike, confidence: float = 0.95, *, ids: Sequence[str] | None = None, seed: int = 0
) -> tuple[float, float]:
    """Interval of a mean score: Wilson's for 0/1 scores, `margin_interval`'s for graded ones.

    Args:
        scores: Shape (n,), each in [0, 1].
        confidence: In (0, 1).
        ids: Which example each score is of; copies of one are one observation. Default: all are different.
        seed: Of the resampling; one seed always gives one interval.

    Returns:
        (low, high), fractions in [0, 1].

    Raises:
        ValueError: No scores, a score that is not in [0, 1], or a ``confidence`` that is not in (0, 1).
    """
    [values], sizes = _observations([_scores(scores)], ids)
    counted = wilson_interval(float(values.sum()), len(values), confidence) if _binary(values) else None
    if counted is not None and sizes is None:
        return counted
    ends = margin_interval(values[:, None], lambda means: means[:, 0], confidence=confidence, sizes=sizes, seed=seed)
    return _hull(ends, counted)


def paired_difference_interval(
    before: ArrayLike,
    after: ArrayLike,
    confidence: float = 0.95,
    *,
    ids: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the mean of ``after`` minus the mean of ``before``, over the same examples.

    Tango's for 0/1 scores (`tango_interval`), `margin_interval`'s for graded ones.

    Args:
        before: Shape (n,), scores in [0, 1].
        after: Shape (n,), scores of the same examples in the same order.
        confidence: In (0, 1).
        ids: Which example each pair is of; copies of one are one observation. Default: all are different.
        seed: Of the resampling; one seed always gives one interval.

    Returns:
        (low, high), fractions in [-1, 1].

    Raises:
        ValueError: No scores, different lengths, a score not in [0, 1], or a ``confidence`` not in (0, 1).
    """
    old, new = _scores(before), _scores(after)
    if len(old) != len(new):
        raise ValueError(f"paired scores must be of the same examples: {len(old)} before, {len(new)} after")
    (old, new), sizes = _observations([old, new], ids)
    counted = None
    if _binary(old) and _binary(new):
        counted = tango_interval(int((new > old).sum()), int((new < old).sum()), len(new), confidence)
        if sizes is None:
            return counted
    columns = np.column_stack([old, new])
    ends = margin_interval(
        columns, lambda means: means[:, 1] - means[:, 0], confidence=confidence, sizes=sizes, seed=seed
    )
    return _hull(ends, counted)


def unpaired_difference_interval(
    first: ArrayLike,
    second: ArrayLike,
    confidence: float = 0.95,
    *,
    ids: tuple[Sequence[str], Sequence[str]] | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the mean of ``first`` minus the mean of ``second``, over different examples.

    Newcombe's hybrid (1998, Interval estimation for the difference between independent proportions, Statistics in
    Medicine 17, 873-890, method 10) of the intervals of both means: `exact_interval`'s for 0/1 scores,
    `margin_interval`'s for graded ones.

    Args:
        first: Shape (n,), scores in [0, 1].
        second: Shape (m,), scores of other examples.
        confidence: In (0, 1).
        ids: Which example each score is of, for both; copies of one are one observation. Default: all are different.
        seed: Of the resampling; one seed always gives one interval.

    Returns:
        (low, high), fractions in [-1, 1].

    Raises:
        ValueError: No scores on a side, a score not in [0, 1], or a ``confidence`` not in (0, 1).
    """
    sides = []
    for scores, names in zip((first, second), ids or (None, None), strict=True):
        [values], sizes = _observations([_scores(scores)], names)
        if _binary(values) and sizes is None:
            low, high = exact_interval(int(values.sum()), len(values), confidence)
        else:
            low, high = score_interval(scores, confidence, ids=names, seed=seed)
        sides.append((float(np.mean(_scores(scores))), low, high))
    after, before = sides
    return difference_of_intervals(before, after)


def difference_of_intervals(
    before: tuple[float, float, float], after: tuple[float, float, float]
) -> tuple[float, float]:
    """Interval of the difference of two mean scores of which no more is known than their own intervals.

    Newcombe's (his method 10 where those are Wilson's): right for independent samples, too wide for the same examples.

    Args:
        before: (score, low, high).
        after: (score, low, high), at the same confidence, which is the result's too.

    Returns:
        (low, high), fractions in [-1, 1].
    """
    (old, old_low, old_high), (new, new_low, new_high) = before, after
    down = np.hypot(new - new_low, old_high - old)
    up = np.hypot(new_high - new, old - old_low)
    return max(float(new - old - down), -1.0), min(float(new - old + up), 1.0)


def _observations(columns: Sequence[Array], ids: Sequence[str] | None) -> tuple[list[Array], Array | None]:
    """One row for each different example, the mean of its copies, and how many there are where that differs."""
    if ids is None or len(set(ids)) == len(ids):
        return list(columns), None
    places = {identity: place for place, identity in enumerate(dict.fromkeys(ids))}
    rows = [places[identity] for identity in ids]
    sizes = np.bincount(rows).astype(np.float64)
    means = [np.bincount(rows, weights=column) / sizes for column in columns]
    return means, None if (sizes == sizes[0]).all() else sizes


def _hull(ends: tuple[float, float], counted: tuple[float, float] | None) -> tuple[float, float]:
    """As far as either reaches: examples weighed by their copies, and each for one."""
    return ends if counted is None else (min(ends[0], counted[0]), max(ends[1], counted[1]))


def _scores(scores: ArrayLike) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError("an interval needs at least one example")
    if not ((values >= 0) & (values <= 1)).all():  # also finds NaN
        raise ValueError("scores must lie between 0 and 1")
    return values


def _binary(values: Array) -> bool:
    return bool(((values == 0) | (values == 1)).all())
