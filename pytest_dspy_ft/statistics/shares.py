"""Intervals of shares and of their paired differences, from counts."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from pytest_dspy_ft.statistics.quantiles import boundary, normal_quantile


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
    z = _checked_quantile(successes, n, confidence)
    share = successes / n
    spread = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / spread
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / spread
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == n else min(centre + half, 1.0)
    return low, high


def exact_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share (1934): either end is too tight in at most half of 1 - confidence.

    Arguments, result and errors are those of `wilson_interval`.
    """
    _checked_quantile(successes, n, confidence)
    return _exact_low(successes, n, confidence), 1.0 - _exact_low(n - successes, n, confidence)


def _exact_low(successes: int, n: int, confidence: float) -> float:
    """The share from which so many successes or more come with a chance of (1 - confidence) / 2, by bisection."""
    if successes == 0:
        return 0.0
    counts = np.arange(n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    tail = counts[successes:]
    combinations = logs[n] - logs[tail] - logs[n - tail]

    def too_rare(share: float) -> bool:
        logs_of_chances = combinations + tail * math.log(share) + (n - tail) * math.log1p(-share)
        return bool(np.exp(logs_of_chances).sum() < (1 - confidence) / 2)

    return boundary(0.0, successes / n, too_rare, steps=50)[0]


def tango_interval(fixed: int, broke: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Tango's score interval of the difference of two paired shares, ``(fixed - broke) / n`` (1998).

    It holds the differences that a score test of paired proportions does not reject. It excludes 0 exactly when
    McNemar's test (without continuity correction) is significant, and with no example changed it is plus or minus
    z^2 / (n + z^2).

    Args:
        fixed: How many of the ``n`` examples went from 0 to 1.
        broke: How many went from 1 to 0.
        n: How many examples there are.
        confidence: In (0, 1).

    Returns:
        (low, high), fractions in [-1, 1].

    Raises:
        ValueError: ``confidence`` is not in (0, 1).
    """
    z = normal_quantile(confidence)
    observed = (fixed - broke) / n

    def accepted(difference: float) -> bool:
        """True where the score test does not reject this difference."""
        linear = (2 * n - fixed + broke) * difference - fixed - broke
        root = math.sqrt(max(linear**2 + 8 * n * broke * difference * (1 - difference), 0.0))
        discordant = (root - linear) / (4 * n)  # maximum likelihood estimate of P(broke), given the difference
        variance = n * (2 * discordant + difference * (1 - difference))
        return (fixed - broke - n * difference) ** 2 - z * z * max(variance, 0.0) <= 0

    low = -1.0 if broke == n else boundary(observed, -1.0, accepted)[1]
    high = 1.0 if fixed == n else boundary(observed, 1.0, accepted)[1]
    return low, high


def judged_difference_interval(fixed: int, broke: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Tango's interval of ``(fixed - broke) / n``, widened to judge by.

    With few changes, all but one way, a score test is too sure of itself: at 4 in 200 it errs in 5 % of the cases
    instead of 2.5 %. The changes are then a single share, so the ends reach at least as far as its exact ones. With few
    examples it is too sure in general (5.5 % at 5, 3.8 % at 10), and with 3 to 6 changes at any number of them (3.6 %):
    so its quantile is taken (n + 1) / n times as far out, and at least 1.02 times, which keeps the error below 3.4 %.
    Arguments, result and errors are those of `tango_interval`.
    """
    wider = 2 * NormalDist().cdf(normal_quantile(confidence) * max((n + 1) / n, 1.02)) - 1
    low, high = tango_interval(fixed, broke, n, wider) if wider < 1 else (-1.0, 1.0)
    least_fixed, least_broke = (_exact_low(count, n, confidence) for count in (fixed, broke))
    return min(low, least_fixed - broke / n), max(high, fixed / n - least_broke)


def _checked_quantile(successes: float, n: int, confidence: float) -> float:
    z = normal_quantile(confidence)
    if n < 1:
        raise ValueError("an interval needs at least one example")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    return z
