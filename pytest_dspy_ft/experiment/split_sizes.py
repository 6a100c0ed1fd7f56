"""How many examples each split gets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.records.base import SPLITS

# --- Splitting -------------------------------------------------------------------------------------------------------


def split_sizes(n: int, shares: Sequence[Fraction]) -> list[int]:
    """Whole sizes that sum to ``n``: the exact sizes rounded down, what is left going to the largest remainders.

    So each size is within 1 of its exact one; on a tie, the earlier split gets the example.
    """
    exact = [n * share for share in shares]
    sizes = [math.floor(size) for size in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: sizes[i] - exact[i])
    for i in by_remainder[: n - sum(sizes)]:
        sizes[i] += 1
    return sizes


def exact_shares(split: Sequence[float]) -> list[Fraction]:
    """The shares as exact numbers with a sum of exactly 1; 0.1 means one tenth, not the double nearest to it."""
    try:
        shares = [Fraction(str(share)) for share in split]
    except (TypeError, ValueError):
        shares = []
    if len(shares) != len(SPLITS) or min(shares) < 0:
        raise DatasetError(
            f"split={split!r} must be three shares of at least 0, for train, dev and test, such as (0.8, 0.1, 0.1)"
        )
    total, held_out = sum(shares, Fraction(0)), shares[1] + shares[2]
    if abs(total - 1) > Fraction(1, 10**9):
        # Parts or percentages, such as (80, 10, 10), are scaled; else train gets what dev and test leave.
        right = [share / total for share in shares] if held_out >= 1 else [1 - held_out, *shares[1:]]
        raise DatasetError(
            f"split={shares_in_words(shares)} sums to {float(total):.10g}, not to 1; "
            f"did you mean {shares_in_words(right)}?"
        )
    return [share / total for share in shares]


def shares_in_words(shares: Iterable[Fraction]) -> str:
    """The shares as a user writes them: ``(0.8, 0.1, 0.1)``."""
    return f"({', '.join(f'{float(share):.10g}' for share in shares)})"
