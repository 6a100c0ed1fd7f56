"""How sure one can be of a score: arrays in, numbers out.

Three methods, chosen by what the data are:

========================================  ===============================================================
one share of 0/1 outcomes                 Wilson's score interval (`wilson_interval`)
difference of two paired 0/1 scores       Tango's score interval (`paired_difference_interval`)
anything else (graded scores, ratios,     Bayesian bootstrap of the examples, jointly for all columns,
``max()``, costs, three stages, ...)      widened for small samples and unseen outcomes (`margin_interval`)
========================================  ===============================================================

A plain percentile bootstrap is not among them. It only knows outcomes it has seen: after ten right answers in ten it
says "100 %, certainly", and in our simulations of small samples its 95 % intervals held the truth in 30 to 90 % of the
cases. All three methods here give a true interval to identical scores.

Sources:
    E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA 22, 209-212.
    T. Tango (1998), Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine 17, 891-908.
    D. B. Rubin (1981), The Bayesian bootstrap, Annals of Statistics 9, 130-134.
    H. Jeffreys (1946), and L. D. Brown, T. T. Cai, A. DasGupta (2001), Interval estimation for a binomial proportion,
    Statistical Science 16, 101-133: half an observation of each outcome as the prior.
    T. C. Hesterberg (2015), What teachers should know about the bootstrap, The American Statistician 69, 371-386: the
    expanded percentile interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RESAMPLES = 10_000
_PRIOR = 0.5
_MAX_EXPONENTIALS = 30_000_000
_MAX_GAMMAS = 4_000_000
_CHUNK = 1_000_000


def normal_quantile(confidence: float) -> float:
    """How many standard deviations either side hold ``confidence`` of a normal distribution: 1.96 for 0.95.

    Raises:
        ValueError: ``confidence`` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, not {confidence!r}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def student_quantile(confidence: float, degrees: int) -> float:
    """The same for Student's t distribution with a whole number of degrees of freedom.

    Inverts the distribution function, a finite trigonometric sum for whole degrees (Abramowitz and Stegun 26.7.3-4),
    by bisection.

    Raises:
        ValueError: ``confidence`` is not between 0 and 1, or ``degrees`` is below 1.
    """
    z = normal_quantile(confidence)
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, not {degrees}")
    if degrees > 1000:  # Cornish-Fisher's first two terms: to 1e-7 here
        return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        if _student_mass(angle, degrees) < confidence:
            low = angle
        else:
            high = angle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _student_mass(angle: float, degrees: int) -> float:
    """P(|t| <= sqrt(degrees) * tan(angle))."""
    cosine, sine = math.cos(angle), math.sin(angle)
    term, total = (cosine, 0.0) if degrees % 2 else (1.0, 0.0)
    for k in range(3 if degrees % 2 else 2, degrees + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    return (angle + sine * total) * 2 / math.pi if degrees % 2 else sine * total


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927).

    Args:
        successes: How many of the ``n`` outcomes count, from 0 to ``n``.
        n: How many outcomes there are.
        confidence: Share of such intervals that hold the true value, in (0, 1).

    Returns:
        (low, high), fractions in [0, 1].

    Raises:
        ValueError: ``n`` is 0, ``successes`` is not in 0..n, or ``confidence`` is not in (0, 1).
    """
    z = normal_quantile(confidence)
    if n < 1:
        raise ValueError("an interval needs at least one example")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    share = successes / n
    spread = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / spread
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / spread
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == n else min(centre + half, 1.0)
    return low, high


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

    For 0/1 scores this is Tango's score interval (1998): the differences that a score test of paired proportions does
    not reject. It excludes 0 exactly when McNemar's test (without continuity correction) is significant, and with no
    example changed it is plus or minus z^2 / (n + z^2). Graded scores: `margin_interval`.

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
        return _tango(int((new > old).sum()), int((new < old).sum()), len(new), confidence)
    columns = np.column_stack([old, new])
    return margin_interval(columns, lambda means: means[:, 1] - means[:, 0], confidence=confidence, seed=seed)


def _tango(fixed: int, broke: int, n: int, confidence: float) -> tuple[float, float]:
    """Tango's interval of (fixed - broke) / n, by bisection on his statistic, which falls as the difference grows."""
    z = normal_quantile(confidence)
    observed = (fixed - broke) / n

    def beyond(difference: float) -> float:
        """Squared distance of the data from ``difference``, less what is allowed: negative inside the interval."""
        linear = (2 * n - fixed + broke) * difference - fixed - broke
        root = math.sqrt(max(linear**2 + 8 * n * broke * difference * (1 - difference), 0.0))
        discordant = (root - linear) / (4 * n)  # maximum likelihood estimate of P(broke), given the difference
        variance = n * (2 * discordant + difference * (1 - difference))
        return (fixed - broke - n * difference) ** 2 - z * z * max(variance, 0.0)

    def edge(outside: float) -> float:
        inside = observed
        for _ in range(60):
            middle = (inside + outside) / 2
            if beyond(middle) <= 0:
                inside = middle
            else:
                outside = middle
        return outside

    low = -1.0 if broke == n else edge(-1.0)
    high = 1.0 if fixed == n else edge(1.0)
    return low, high


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
      is added, which for one 0/1 column gives exactly Jeffreys' interval. Best and worst are extreme rows of the
      share columns, by the sign of the margin's slope in each; other columns have no known limits and stay at
      their mean.
    * Percentiles are taken further out, as Student's t is wider than the normal (Hesterberg 2015).

    The result always holds the point estimate. The price: for graded scores that lie close together it is wider than
    Student's interval, by a third at n = 30 and a tenth at n = 100.

    Identical rows are drawn together. Above 3000 examples with mostly different rows, the means are drawn from the
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
        shifts = _resampled_shifts(data - centre, extremes - centre, resamples, generator)
        drawn = np.asarray(margin(centre + shifts), dtype=np.float64)
        point = float(np.asarray(margin(centre[None, :]))[0])
    undefined = np.isnan(drawn)
    lowest = np.sort(np.where(undefined, -np.inf, drawn))
    highest = np.sort(np.where(undefined, np.inf, drawn))
    rank = min(int(tail * resamples), (resamples - 1) // 2)  # outwards to a drawn value: no arithmetic on infinities
    low, high = float(lowest[rank]), float(highest[resamples - 1 - rank])
    return (low, high) if math.isnan(point) else (min(low, point), max(high, point))


def _expanded_tail(n: int, confidence: float) -> float:
    """What to leave out at each end, so that the width is Student's rather than the normal's."""
    if n < 2:
        normal_quantile(confidence)
        return 0.0
    return NormalDist().cdf(-student_quantile(confidence, n - 1) * math.sqrt((n + 1) / (n - 1)))


def _extreme_rows(centre: Array, bounded: NDArray[np.bool_], n: int, margin: Callable[[Array], Array]) -> Array:
    """The outcomes of one more example that would raise and lower the margin most; shape (2, k) or (0, k)."""
    if not bounded.any():
        return np.empty((0, len(centre)))
    step = 1 / (n + 1)
    raised = np.repeat(centre[None, :], len(centre), axis=0)
    lowered = raised.copy()
    for j in np.flatnonzero(bounded):
        raised[j, j] += step * (1 - centre[j])
        lowered[j, j] -= step * centre[j]
    slope = np.nan_to_num(np.asarray(margin(raised)) - np.asarray(margin(lowered)))
    moved = bounded & (slope != 0)
    best = np.where(moved, (slope > 0).astype(np.float64), centre)
    worst = np.where(moved, (slope < 0).astype(np.float64), centre)
    return np.stack([best, worst])


def _resampled_shifts(rows: Array, extremes: Array, resamples: int, generator: np.random.Generator) -> Array:
    """How far the resampled means lie from the observed ones; shape (resamples, k).

    ``rows`` and ``extremes`` are relative to the observed means, so a column without spread stays exactly where it is.
    """
    n, k = rows.shape
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    grouped = len(distinct) * 8 < n
    if (grouped and len(distinct) * resamples > _MAX_GAMMAS) or (not grouped and n * resamples > _MAX_EXPONENTIALS):
        mass = n + _PRIOR * len(extremes)
        middle = _PRIOR * extremes.sum(axis=0) / mass
        scatter = (rows.T @ rows + _PRIOR * extremes.T @ extremes) / mass - np.outer(middle, middle)
        return generator.multivariate_normal(middle, scatter / (mass + 1), size=resamples, method="svd")
    if grouped:
        rows = distinct
    narrow = rows.astype(np.float32)  # half the time; its rounding is far below the sampling error
    shifts = np.empty((resamples, k))
    chunk = max(_CHUNK // len(rows), 1)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        if grouped:
            weights = generator.standard_gamma(counts, size=(size, len(rows)))
            total, moved = weights.sum(axis=1), weights @ rows
        else:
            single = generator.standard_exponential((size, len(rows)), dtype=np.float32)
            total, moved = single.sum(axis=1, dtype=np.float64), (single @ narrow).astype(np.float64)
        if len(extremes):
            unseen = generator.standard_gamma(_PRIOR, size=(size, len(extremes)))
            total, moved = total + unseen.sum(axis=1), moved + unseen @ extremes
        shifts[start : start + size] = moved / total[:, None]
    return shifts


def _scores(scores: ArrayLike) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError("an interval needs at least one example")
    if not ((values >= 0) & (values <= 1)).all():  # also finds NaN
        raise ValueError("scores must lie between 0 and 1")
    return values


def _binary(values: Array) -> bool:
    return bool(((values == 0) | (values == 1)).all())
