"""Looking at the examples several times: how sure each look must be, so that all looks together err as one would.

The boundaries are those of O'Brien and Fleming: at the share t of all examples, the distance from the boundary must be
C / sqrt(t) standard errors. Early looks have to be very sure, the last one hardly surer than a single look. C follows
from the joint distribution of the looks, computed by recursive integration.

Sources:
    P. C. O'Brien, T. R. Fleming (1979), A multiple testing procedure for clinical trials, Biometrics 35, 549-556.
    P. Armitage, C. K. McPherson, B. C. Rowe (1969), Repeated significance tests on accumulating data, Journal of the
    Royal Statistical Society A 132, 235-244: the recursion.
    C. Jennison, B. W. Turnbull (1989), Interim analyses: the repeated confidence interval approach, Journal of the
    Royal Statistical Society B 51, 305-361: intervals that hold the truth at all looks together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from pytest_dspy_ft.statistics.bootstrap import Array
from pytest_dspy_ft.statistics.quantiles import boundary, normal_quantile

_NODES = 80
"""Points of the integration over each look's statistic; doubling them moves C by less than 1e-6."""
_FAR = 8.0
"""Standard deviations beyond which a statistic is not followed."""
_WIDEST = 1 - 1e-13
"""What is surer than this is not told from certainty in double precision."""


def look_confidences(shares: Sequence[float], confidence: float) -> list[float]:
    """The confidence that each look's interval needs, so that all of them hold the truth with ``confidence``.

    Both ends err alike: the chance that any look's lower end lies above the truth is (1 - confidence) / 2.

    Args:
        shares: The share of all examples that each look has, rising to 1.
        confidence: In (0, 1), of all looks together.

    Raises:
        ValueError: The shares do not rise to 1, or ``confidence`` is not in (0, 1).
    """
    normal_quantile(confidence)
    if not shares or shares[-1] != 1 or shares[0] <= 0 or any(a >= b for a, b in itertools.pairwise(shares)):
        raise ValueError(f"looks must be at rising shares that end with 1, not at {list(shares)}")
    critical = obrien_fleming(tuple(shares), (1 - confidence) / 2)
    return [min(2 * NormalDist().cdf(critical / math.sqrt(share)) - 1, _WIDEST) for share in shares]


@lru_cache(maxsize=512)
def obrien_fleming(shares: tuple[float, ...], error: float) -> float:
    """O'Brien and Fleming's constant C: a standard normal statistic passes C / sqrt(t) at any look this seldom.

    Args:
        shares: The share t of all examples at each look, rising to 1.
        error: The chance of passing it at any look where there is no difference, one-sided.
    """
    low = NormalDist().inv_cdf(1 - error)
    # In units of Brownian motion at time t the boundary is flat; more looks can at most double the error of one.
    high = NormalDist().inv_cdf(1 - error / 2)
    return boundary(high + 1e-9, low - 1e-9, lambda height: _crossing(shares, height) <= error, steps=32)[0]


def _crossing(shares: Sequence[float], height: float) -> float:
    """The chance that Brownian motion, looked at these times, is above a height at any of them."""
    points, weights = _rule()
    crossed, nodes, mass = 0.0, np.zeros(1), np.ones(1)
    before = 0.0
    for share in shares:
        step = math.sqrt(share - before)
        crossed += float(mass @ _above((height - nodes) / step))
        below = -_FAR * math.sqrt(share)
        grid = (height - below) / 2 * points + (height + below) / 2
        density = np.exp(-(((grid[:, None] - nodes) / step) ** 2) / 2) / (step * math.sqrt(2 * math.pi))
        mass = (density @ mass) * weights * (height - below) / 2
        nodes, before = grid, share
    return crossed


@lru_cache(maxsize=1)
def _rule() -> tuple[Array, Array]:
    """Gauss and Legendre's rule of integration: points in [-1, 1] and their weights."""
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    return points, weights


def _above(z: Array) -> Array:
    """The upper tail of the standard normal distribution."""
    return np.array([math.erfc(value / math.sqrt(2)) / 2 for value in z])
