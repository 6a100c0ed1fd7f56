"""Quantiles of what was measured, and exact intervals for them from its order alone.

How many of n independent values lie at or below their distribution's p-quantile is binomial, whatever the distribution.
So the r-th smallest of them is above the quantile with a probability that is known exactly, and two of the values in
order are the ends of an interval that needs no assumption (W. J. Conover, Practical Nonparametric Statistics, 3rd ed.,
section 3.2; H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed., section 7.1). Where values are equal the
interval errs less often than it says. Its error is split evenly: each end is on the wrong side in at most half of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def quantile(values: Sequence[float], percentile: int) -> float:
    """The smallest of the values that so many percent of them do not exceed."""
    rank = -(-len(values) * percentile // 100)  # exactly: 0.95 is no float
    return sorted(values)[max(rank, 1) - 1]


def quantile_interval(values: Sequence[float], percentile: int, confidence: float) -> tuple[float, float]:
    """The interval of a distribution's quantile, from independent values of it.

    Args:
        values: None of them below 0.
        percentile: Which quantile, in percent.
        confidence: In (0, 1).

    Returns:
        (low, high), two of the values; 0 and infinity where no value is sure enough to be an end.
    """
    ordered, n, error = sorted(values), len(values), (1 - confidence) / 2
    chances = binomial(n, percentile / 100)
    low = int((np.cumsum(chances) <= error).sum())  # the low-th is above the quantile where fewer are not above it
    above = int((np.cumsum(chances[::-1]) <= error).sum())  # as many as are sure not to be below it, from the end
    return ordered[low - 1] if low else 0.0, ordered[n - above] if above else math.inf


def fewest_for_quantile(percentile: int, confidence: float) -> int:
    """How many values an interval of a quantile needs to have two ends."""
    share = percentile / 100
    return math.ceil(math.log((1 - confidence) / 2) / math.log(max(share, 1 - share)))


def binomial(n: int, share: float) -> NDArray[np.float64]:
    """The chances of 0 to n successes of n, each with this chance."""
    counts = np.arange(n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    chances = logs[n] - logs - logs[::-1] + counts * math.log(share) + counts[::-1] * math.log1p(-share)
    return np.asarray(np.exp(chances))
