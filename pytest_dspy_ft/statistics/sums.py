"""Sums without rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction


def exact_sum(values: Iterable[float]) -> Fraction:
    """The sum of numbers as an exact rational; equal ones, as most scores are, are added up at once."""
    return sum((Fraction(value) * count for value, count in Counter(values).items()), Fraction(0))
