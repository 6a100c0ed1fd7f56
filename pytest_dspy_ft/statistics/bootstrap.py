"""The Bayesian bootstrap: intervals of any function of the means of paired columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_dspy_ft.statistics import MIN_UNBOUNDED, TAIL_RATIO
from pytest_dspy_ft.statistics.quantiles import normal_quantile, student_quantile

Array = NDArray[np.float64]

RESAMPLES = 10_000
RAREST_TAIL = 0.005
"""Such outcomes of this share or more are allowed for in full; rarer ones less and less."""
_PRIOR = 0.5
_MAX_DRAWS = 12_000_000
_MAX_CORNERS = 10
_CHUNK = 1_000_000
_SINGLE_ROWS = 200
_BINS = 100


def margin_interval(
    columns: ArrayLike,
    margin: Callable[[Array], Array],
    *,
    confidence: float = 0.95,
    shares: Sequence[bool] | None = None,
    sizes: ArrayLike | None = None,
    seed: int | Sequence[int] = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Interval of any function of the means of columns measured on the same examples.

    A Bayesian bootstrap (Rubin 1981): every resample weighs the examples anew, with weights from a flat Dirichlet
    distribution, the same weights for all columns. What has not been seen may still exist, so it is added:

    * One whole observation of the worst outcome for the lower end, of the best one for the upper end. For outcomes with
      such limits this is Gaffke's bound (2005), which for two kinds of outcomes is Clopper and Pearson's.
    * Where all are shares, also half an observation each of the best and of the worst, which for one 0/1 column gives
      Jeffreys' interval, with percentiles taken further out, as Student's t is wider than the normal (Hesterberg 2015).
      The interval reaches as far as either does.

    Costs, token counts and latencies have no known limit, and a few calls in 100 may be many times as dear as the rest
    without one of them among the examples. So their worst outcome is `unseen_cost`, or the highest seen.

    Best and worst are extreme rows, whichever move the margin most. Percentiles are taken further out still on the side
    where the resamples lie off the estimate (Efron's bias correction, outwards only): a resampled ``max(b, c)`` of two
    level stages is too high on average.

    The result always holds the point estimate. The price, against Student's interval of graded scores that lie close
    together: 1.4 times the width at n = 30, 1.15 times at n = 100, and more where most paired scores are equal. Costs
    that hardly differ are found to be below 5 times what was measured at n = 50, 2.1 times at n = 200, 1.4 times at n =
    500, 1.03 times at n = 2500.

    Identical rows are drawn together. Above 1200 examples with mostly different rows, neighbours in what they do to the
    margin are drawn together too, all but the most extreme ones, so that skewness stays.

    Args:
        columns: Shape (n, k): example by measured quantity.
        margin: From means, shape (m, k), to their margins, shape (m,). An undefined one (0 / 0) counts as both ends.
        confidence: In (0, 1).
        shares: Shape (k,): which columns are fractions in [0, 1]; default all. The others are 0 or more.
        sizes: Shape (n,): how many rows of a split each observation stands for, by which it is weighed; default 1 each.
        seed: Of the resampling; one seed always gives one interval.
        resamples: How many.

    Returns:
        (low, high), in the margin's unit; infinite where the margin is unbounded or undefined.

    Raises:
        ValueError: No examples, fewer than `MIN_UNBOUNDED` with a column that is no share (unless that is 0
            everywhere), or a ``confidence`` not in (0, 1).
    """
    data = np.asarray(columns, dtype=np.float64)
    if data.ndim != 2 or not len(data):
        raise ValueError("an interval needs at least one example")
    n, k = data.shape
    is_share = np.ones(k, dtype=bool) if shares is None else np.asarray(shares, dtype=bool)
    whole = bool((data.any(axis=0) & ~is_share).any())  # what costs nothing anywhere is free, and no estimate
    if whole and n < MIN_UNBOUNDED:
        raise ValueError(f"an interval of a cost, a token count or a latency needs at least {MIN_UNBOUNDED} examples")
    weights = np.ones(n) if sizes is None else _relative(sizes)
    centre = np.where((data == data[0]).all(axis=0), data[0], weights @ data / n)
    tops = np.where(is_share, 1.0, [max(unseen_cost(column, confidence), column.max()) for column in data.T])
    generator = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        best, worst = _extreme_rows(centre, tops, n, margin) - centre
        sums = _resampled_sums(data - centre, weights, lambda rows: margin(centre + rows), resamples, generator)
        point = float(np.asarray(margin(centre[None, :]))[0])
        bias = _bias(np.asarray(margin(centre + sums[:, :-1] / sums[:, -1:]), dtype=np.float64), point)

        def end(sign: int, unseen: Array, rows: list[Array], tail: float) -> float:
            """An end of the interval, with that much unseen of these rows; ``sign`` is -1 for the lower one."""
            shifts = (sums[:, :-1] + unseen @ np.array(rows)) / (sums[:, -1:] + unseen.sum(axis=1, keepdims=True))
            reached = -sign * np.asarray(margin(centre + shifts), dtype=np.float64)
            outermost = np.sort(np.where(np.isnan(reached), -np.inf, reached))
            return -sign * float(outermost[_rank(tail, min(-sign * bias, 0.0), resamples)])

        halves = generator.standard_gamma(_PRIOR, size=(resamples, 2))
        one = generator.standard_exponential((resamples, 1))
        low, high = (end(sign, one, [row], (1 - confidence) / 2) for sign, row in ((-1, worst), (1, best)))
        if not whole:
            tail = _expanded_tail(n, confidence)
            low, high = min(low, end(-1, halves, [best, worst], tail)), max(high, end(1, halves, [best, worst], tail))
    return (low, high) if math.isnan(point) else (min(low, point), max(high, point))


def _relative(sizes: ArrayLike) -> Array:
    values: Array = np.asarray(sizes, dtype=np.float64)
    return values / float(values.mean())


def unseen_cost(costs: ArrayLike, confidence: float = 0.95) -> float:
    """The highest cost that has to be reckoned with though it was not seen: `TAIL_RATIO` times the typical one.

    Typical is the median of the costs above 0. From so many examples on that `RAREST_TAIL` of them would have shown
    (736 at 95 %), it falls with their number: what is rarer still weighs less.

    Args:
        costs: Shape (n,): US dollars, tokens or seconds, one for each example.
        confidence: In (0, 1).
    """
    values = np.asarray(costs, dtype=np.float64)
    paid = values[values > 0]
    if not len(paid):
        return 0.0
    unseen = 1 - math.pow((1 - confidence) / 2, 1 / len(values))
    return TAIL_RATIO * float(np.median(paid)) * min(1.0, unseen / RAREST_TAIL)


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


def _extreme_rows(centre: Array, tops: Array, n: int, margin: Callable[[Array], Array]) -> Array:
    """The outcomes of one more example that would raise and lower the margin most; shape (2, k).

    Corners, each column at 0 or at its top, are tried rather than slopes followed: where b and c are level, no step of
    one alone moves ``max(b, c)``.
    """
    k = len(tops)
    if k <= _MAX_CORNERS:
        corners = (np.arange(2**k)[:, None] >> np.arange(k)) & 1
    else:
        ones = np.eye(k, dtype=np.int64)
        corners = np.vstack([ones, 1 - ones, np.zeros((1, k), np.int64), np.ones((1, k), np.int64)])
    rows = corners * tops
    reached = np.asarray(margin(centre + (rows - centre) / (n + 1)), dtype=np.float64)
    return rows[[int(np.nanargmax(reached)), int(np.nanargmin(reached))]] if not np.isnan(reached).all() else rows[:2]


def _resampled_sums(
    rows: Array,
    weights: Array,
    margin: Callable[[Array], Array],
    resamples: int,
    generator: np.random.Generator,
) -> Array:
    """Resampled sums of weighted rows, and of the weights themselves in the last column; (resamples, k + 1).

    ``rows`` are relative to the observed means, so a column without spread stays exactly where it is.
    """
    n = len(rows)
    table = np.column_stack([rows * weights[:, None], weights])
    distinct, counts = np.unique(table, axis=0, return_counts=True)
    if len(distinct) * 8 < n and len(distinct) * 8 * resamples <= _MAX_DRAWS:
        return _grouped_sums(distinct, counts, resamples, generator)
    if n * resamples > _MAX_DRAWS:
        return _binned_sums(table[np.argsort(_influence(rows, weights, margin))], resamples, generator)
    return _single_sums(table, resamples, generator)


def _single_sums(table: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Sums with a weight drawn for each row."""
    narrow = table.astype(np.float32)  # half the time; its rounding is far below the sampling error
    sums = np.empty((resamples, table.shape[1]))
    for part in _chunks(resamples, len(table)):
        sums[part] = generator.standard_exponential((part.stop - part.start, len(table)), dtype=np.float32) @ narrow
    return sums


def _grouped_sums(table: Array, counts: NDArray[np.int64], resamples: int, generator: np.random.Generator) -> Array:
    """Sums with a weight drawn for each group of so many rows alike."""
    sums = np.empty((resamples, table.shape[1]))
    for part in _chunks(resamples, len(table)):
        sums[part] = generator.standard_gamma(counts, size=(part.stop - part.start, len(table))) @ table
    return sums


def _binned_sums(table: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Sums of many rows, sorted by their influence: the outermost drawn one by one, those between in bins.

    What rows differ by within their bin is added as a normal deviate of the same covariance.
    """
    inner = table[_SINGLE_ROWS:-_SINGLE_ROWS]
    if len(inner) < _BINS:
        return _single_sums(table, resamples, generator)
    edges = np.linspace(0, len(inner), _BINS + 1).astype(np.int64)
    counts = np.diff(edges)
    means = np.add.reduceat(inner, edges[:-1], axis=0) / counts[:, None]
    rest = inner - np.repeat(means, counts, axis=0)
    deviates = generator.multivariate_normal(np.zeros(table.shape[1]), rest.T @ rest, size=resamples, method="svd")
    outer = np.vstack([table[:_SINGLE_ROWS], table[-_SINGLE_ROWS:]])
    singles = _single_sums(outer, resamples, generator)
    return singles + _grouped_sums(means, counts, resamples, generator) + deviates


def _influence(rows: Array, weights: Array, margin: Callable[[Array], Array]) -> Array:
    """How far each row moves the margin."""
    return np.nan_to_num(np.asarray(margin(rows * weights[:, None] / len(rows)), dtype=np.float64))


def _chunks(resamples: int, width: int) -> list[slice]:
    step = max(_CHUNK // width, 1)
    return [slice(start, min(start + step, resamples)) for start in range(0, resamples, step)]
