"""Quantiles of the normal and of Student's distribution, and the bisection that finds ends of intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist


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
    low, high = boundary(0.0, math.pi / 2, lambda angle: _student_mass(angle, degrees) < confidence)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _student_mass(angle: float, degrees: int) -> float:
    """P(|t| <= sqrt(degrees) * tan(angle))."""
    cosine, sine = math.cos(angle), math.sin(angle)
    term, total = (cosine, 0.0) if degrees % 2 else (1.0, 0.0)
    for k in range(3 if degrees % 2 else 2, degrees + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    return (angle + sine * total) * 2 / math.pi if degrees % 2 else sine * total


def boundary(inside: float, outside: float, holds: Callable[[float], bool], steps: int = 60) -> tuple[float, float]:
    """Narrow down, by bisection, where a condition ceases to hold.

    Args:
        inside: Where it holds.
        outside: Where it does not, above or below.
        holds: The condition.
        steps: How often to halve the distance.

    Returns:
        The same two, moved together.
    """
    for _ in range(steps):
        middle = (inside + outside) / 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return inside, outside
