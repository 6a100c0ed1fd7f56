"""How sure one can be of a score: arrays in, numbers out.

Four methods, chosen by what the data are:

========================================  ===============================================================
one share of 0/1 outcomes, to look at     Wilson's score interval (`wilson_interval`)
one share of 0/1 outcomes, to judge by    Clopper and Pearson's exact interval (`exact_interval`)
difference of two paired 0/1 scores       Tango's score interval (`paired_difference_interval`), to judge by
                                          widened where changes go one way (`judged_difference_interval`)
anything else (graded scores, ratios,     Bayesian bootstrap of the examples, jointly for all columns,
``max()``, costs, three stages, ...)      widened for small samples and unseen outcomes (`margin_interval`)
========================================  ===============================================================

A plain percentile bootstrap is not among them. It only knows outcomes it has seen: after ten right answers in ten it
says "100 %, certainly". In simulations with 10 examples its 95 % intervals held the truth in 28 to 89 % of the cases,
those of `margin_interval` in 98 to 100 %. All four methods give a true interval to identical scores.

Sources:
    E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA 22, 209-212.
    C. J. Clopper, E. S. Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the
    binomial, Biometrika 26, 404-413.
    T. Tango (1998), Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine 17, 891-908.
    D. B. Rubin (1981), The Bayesian bootstrap, Annals of Statistics 9, 130-134.
    H. Jeffreys (1946), and L. D. Brown, T. T. Cai, A. DasGupta (2001), Interval estimation for a binomial proportion,
    Statistical Science 16, 101-133: half an observation of each outcome as the prior.
    B. Efron (1981), Nonparametric standard errors and confidence intervals, Canadian Journal of Statistics 9,
    139-172: the bias-corrected percentile.
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
_MAX_DRAWS = 12_000_000
_MAX_CORNERS = 10
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


def exact_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share (1934): either end is too tight in at most half of 1 - confidence.

    Args:
        successes: How many of the ``n`` outcomes count, from 0 to ``n``.
        n: How many outcomes there are.
        confidence: Share of such intervals that hold the true value, at least; in (0, 1).

    Returns:
        (low, high), fractions in [0, 1].

    Raises:
        ValueError: ``n`` is 0, ``successes`` is not in 0..n, or ``confidence`` is not in (0, 1).
    """
    normal_quantile(confidence)
    if n < 1:
        raise ValueError("an interval needs at least one example")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    return _exact_low(successes, n, confidence), 1.0 - _exact_low(n - successes, n, confidence)


def _exact_low(successes: int, n: int, confidence: float) -> float:
    """The share from which so many successes or more come with a chance of (1 - confidence) / 2, by bisection."""
    if successes == 0:
        return 0.0
    counts = np.arange(n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    tail = counts[successes:]
    ways = logs[n] - logs[tail] - logs[n - tail]
    low, high = 0.0, successes / n
    for _ in range(50):
        middle = (low + high) / 2
        chance = np.exp(ways + tail * math.log(middle) + (n - tail) * math.log1p(-middle)).sum()
        if chance < (1 - confidence) / 2:
            low = middle
        else:
            high = middle
    return low


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


def judged_difference_interval(before: ArrayLike, after: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """`paired_difference_interval` of 0/1 scores to judge by.

    With few changes, all but one way, a score test is too sure of itself: at 4 in 200 it errs in 5 % of the cases
    instead of 2.5 %. The changes are then a single share, so the ends reach at least as far as its exact ones.

    Args:
        before: Shape (n,), scores that are 0 or 1.
        after: Shape (n,), scores of the same examples in the same order.
        confidence: In (0, 1).

    Returns:
        (low, high), fractions in [-1, 1].

    Raises:
        ValueError: As for `paired_difference_interval`.
    """
    low, high = paired_difference_interval(before, after, confidence)
    old, new = np.asarray(before), np.asarray(after)
    n, fixed, broke = len(new), int((new > old).sum()), int((new < old).sum())
    least_fixed, least_broke = (_exact_low(count, n, confidence) for count in (fixed, broke))
    return min(low, least_fixed - broke / n), max(high, fixed / n - least_broke)


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
    """What to leave out at each end, so that the width is Student's rather than the normal's."""
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


def _scores(scores: ArrayLike) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError("an interval needs at least one example")
    if not ((values >= 0) & (values <= 1)).all():  # also finds NaN
        raise ValueError("scores must lie between 0 and 1")
    return values


def _binary(values: Array) -> bool:
    return bool(((values == 0) | (values == 1)).all())
