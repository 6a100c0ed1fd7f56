"""The Bayesian bootstrap: intervals of any function of the means of paired columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_dspy_ft.statistics.quantiles import normal_quantile, student_quantile

Array = NDArray[np.float64]

RESAMPLES = 10_000
_PRIOR = 0.5
_MAX_DRAWS = 12_000_000
_MAX_CORNERS = 10
_CHUNK = 1_000_000


def margin_interval(
    columns: ArrayLike,
    margin: Callable[[Array], Array],
    *,
    confidence: float = 0.95,
    shares: Sequence[bool] | None = None,
    seed: int | Sequence[int] = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Interval of any function of the means of columns measured on the same examples.

    A Bayesian bootstrap (Rubin 1981): every resample weighs the examples anew, with weights from a flat Dirichlet
    distribution, the same weights for all columns. Two changes make it honest on small samples:

    * What has not been seen may still exist. Half an observation each of the best and of the worst possible outcome
      is added, which for one 0/1 column gives Jeffreys' interval. Best and worst are extreme rows of the share
      columns, whichever move the margin most; other columns have no known limits and stay at their mean.
    * Percentiles are taken further out, as Student's t is wider than the normal (Hesterberg 2015), and further still
      on the side where the resamples lie off the estimate (Efron's bias correction, outwards only): a resampled
      ``max(b, c)`` of two level stages is too high on average.

    The result always holds the point estimate. The price, against Student's interval of graded scores that lie close
    together: 1.4 times the width at n = 30, 1.15 times at n = 100, and more where most paired scores are equal.

    Identical rows are drawn together. Above 1200 examples with mostly different rows, the means are drawn from the
    normal distribution that the central limit theorem gives them.

    Args:
        columns: Shape (n, k): example by measured quantity.
        margin: From means, shape (m, k), to their margins, shape (m,). An undefined one (0 / 0) counts as both ends.
        confidence: In (0, 1).
        shares: Shape (k,): which columns are fractions in [0, 1]; default all.
        seed: Of the resampling; one seed always gives one interval.
        resamples: How many.

    Returns:
        (low, high), in the margin's unit; infinite where the margin is unbounded or undefined.

    Raises:
        ValueError: No examples, a single one with a column that is no share, or a ``confidence`` not in (0, 1).
    """
    data = np.asarray(columns, dtype=np.float64)
    if data.ndim != 2 or not len(data):
        raise ValueError("an interval needs at least one example")
    n, k = data.shape
    bounded = np.ones(k, dtype=bool) if shares is None else np.asarray(shares, dtype=bool)
    if n < 2 and not bounded.all():
        raise ValueError("an interval of a cost, a token count or a latency needs at least two examples")
    tail = _expanded_tail(n, confidence)
    centre = data.mean(axis=0)
    generator = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        extremes = _extreme_rows(centre, bounded, n, margin)
        shifts, plain = _resampled_shifts(data - centre, extremes - centre, resamples, generator)
        drawn = np.asarray(margin(centre + shifts), dtype=np.float64)
        undisturbed = np.asarray(margin(centre + plain), dtype=np.float64)
        point = float(np.asarray(margin(centre[None, :]))[0])
    undefined = np.isnan(drawn)
    lowest = np.sort(np.where(undefined, -np.inf, drawn))
    highest = np.sort(np.where(undefined, np.inf, drawn))
    bias = _bias(undisturbed, point)
    low = float(lowest[_rank(tail, min(bias, 0.0), resamples)])
    high = float(highest[resamples - 1 - _rank(tail, min(-bias, 0.0), resamples)])
    return (low, high) if math.isnan(point) else (min(low, point), max(high, point))


def _bias(drawn: Array, point: float) -> float:
    """Efron's bias correction z0: how far the median of the resamples is below the estimate, in standard deviations."""
    below = float((drawn < point).mean() + (drawn == point).mean() / 2)
    return NormalDist().inv_cdf(min(max(below, 0.01), 0.99)) if math.isfinite(point) else 0.0


def _rank(tail: float, shift: float, resamples: int) -> int:
    """Index of a percentile from its end; a drawn value, as there is no arithmetic on infinities."""
    if tail <= 0:
        return 0
    moved = NormalDist().cdf(NormalDist().inv_cdf(tail) + 2 * shift)
    return min(int(moved * resamples), (resamples - 1) // 2)


def _expanded_tail(n: int, confidence: float) -> float:
    """The share to leave out at each end, so that the width is Student's rather than the normal's."""
    if n < 2:
        normal_quantile(confidence)
        return 0.0
    return NormalDist().cdf(-student_quantile(confidence, n - 1) * math.sqrt((n + 1) / (n - 1)))


def _extreme_rows(centre: Array, bounded: NDArray[np.bool_], n: int, margin: Callable[[Array], Array]) -> Array:
    """The outcomes of one more example that would raise and lower the margin most; shape (2, k) or (0, k).

    Corners are tried rather than slopes followed: where b and c are level, no step of one alone moves ``max(b, c)``.
    """
    places = np.flatnonzero(bounded)
    k = len(places)
    if not k:
        return np.empty((0, len(centre)))
    if k <= _MAX_CORNERS:
        corners = (np.arange(2**k)[:, None] >> np.arange(k)) & 1
    else:
        ones = np.eye(k, dtype=np.int64)
        corners = np.vstack([ones, 1 - ones, np.zeros((1, k), np.int64), np.ones((1, k), np.int64)])
    rows = np.repeat(centre[None, :], len(corners), axis=0)
    rows[:, places] = corners
    reached = np.asarray(margin(centre + (rows - centre) / (n + 1)), dtype=np.float64)
    return rows[[int(np.nanargmax(reached)), int(np.nanargmin(reached))]] if not np.isnan(reached).all() else rows[:2]


def _resampled_shifts(
    rows: Array, extremes: Array, resamples: int, generator: np.random.Generator
) -> tuple[Array, Array]:
    """How far resampled means lie from the observed ones, with and without the unseen; each (resamples, k).

    ``rows`` and ``extremes`` are relative to the observed means, so a column without spread stays exactly where it is.
    """
    n, k = rows.shape
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    grouped = len(distinct) * 8 < n
    mass = n + _PRIOR * len(extremes)
    if (len(distinct) * 8 if grouped else n) * resamples > _MAX_DRAWS:
        centre = _PRIOR * extremes.sum(axis=0) / mass
        scatter = (rows.T @ rows + _PRIOR * extremes.T @ extremes) / mass - np.outer(centre, centre)
        plain = generator.multivariate_normal(np.zeros(k), scatter / (mass + 1), size=resamples, method="svd")
        return plain + centre, plain
    if grouped:
        rows = distinct
    narrow = rows.astype(np.float32)  # half the time; its rounding is far below the sampling error
    seen, total = np.empty((resamples, k)), np.empty((resamples, 1))
    chunk = max(_CHUNK // len(rows), 1)
    for start in range(0, resamples, chunk):
        part = slice(start, min(start + chunk, resamples))
        size = part.stop - start
        if grouped:
            weights = generator.standard_gamma(counts, size=(size, len(rows)))
            seen[part], total[part, 0] = weights @ rows, weights.sum(axis=1)
        else:
            single = generator.standard_exponential((size, len(rows)), dtype=np.float32)
            seen[part], total[part, 0] = single @ narrow, single.sum(axis=1, dtype=np.float64)
    unseen = generator.standard_gamma(_PRIOR, size=(resamples, len(extremes)))
    return (seen + unseen @ extremes) / (total + unseen.sum(axis=1, keepdims=True)), seen / total
