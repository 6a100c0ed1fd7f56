"""How many examples each split gets, and which: whole groups, or every label's share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.records.base import SPLITS, Split

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


# --- Groups and labels -----------------------------------------------------------------------------------------------


def grouped_places(rows: Sequence[tuple[int, str]], shares: Sequence[Fraction]) -> dict[int, Split]:
    """Whole groups put into train, dev and test, in the order in which they first come.

    A group goes where its middle falls; a split is left sooner where too few groups would remain for those after it.

    Args:
        rows: Every row with its group, in order.
        shares: Of train, dev and test.
    """
    groups: dict[str, list[int]] = {}
    for row, group in rows:
        groups.setdefault(group, []).append(row)
    wanted = [i for i, share in enumerate(shares) if share]
    ends = list(itertools.accumulate(shares))
    places: dict[int, Split] = {}
    current = before = 0
    for number, members in enumerate(groups.values()):
        later = len(wanted) - 1 - current
        middle = Fraction(2 * before + len(members), 2 * len(rows))
        if places and later and (middle >= ends[wanted[current]] or len(groups) - number <= later):
            current += 1
        places.update(dict.fromkeys(members, SPLITS[wanted[current]]))
        before += len(members)
    return places


def stratified_places(rows: Sequence[tuple[int, str]], shares: Sequence[Fraction]) -> dict[int, Split]:
    """Rows put into train, dev and test so that each label has every split's share, within 1 example.

    What rounding takes from a split in one label it gets back in the next, so that the sizes of the splits are those of
    the shares too. Within a label, the order decides.

    Args:
        rows: Every row with its label, in order.
        shares: Of train, dev and test.
    """
    labels: dict[str, list[int]] = {}
    for row, label in rows:
        labels.setdefault(label, []).append(row)
    owed = [Fraction(0)] * len(shares)
    places: dict[int, Split] = {}
    for members in labels.values():
        exact = [len(members) * share for share in shares]
        sizes = [math.floor(size) for size in exact]
        owed = [debt + size - whole for debt, size, whole in zip(owed, exact, sizes, strict=True)]
        most_owed = sorted(range(len(shares)), key=lambda i: (exact[i] == sizes[i], -owed[i]))
        for i in most_owed[: len(members) - sum(sizes)]:
            sizes[i] += 1
            owed[i] -= 1
        ends = [split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
        places.update(zip(members, ends, strict=True))
    return places


# --- Splits that come out empty --------------------------------------------------------------------------------------


def too_few(n: int, split: Split, shares: Sequence[Fraction], *, grouped: bool) -> str:
    """That shares leave a split empty, and what to do."""
    if grouped:
        return (
            f"split={shares_in_words(shares)} of n={n} leaves {split} empty: there are fewer groups than splits, and "
            f"group_by= never divides one; or give {split} a share of 0 to do without it"
        )
    enough = math.ceil(1 / min(share for share in shares if share))
    return (
        f"split={shares_in_words(shares)} of n={n} leaves {split} empty: n={enough} is "
        f"enough; or give {split} a larger share, or a share of 0 to do without it"
    )


def empty_by_hash(sizes: Mapping[Split, int], split: Split, shares: Sequence[Fraction], *, grouped: bool) -> str:
    """That no hash fell into a split, and what to do."""
    share = float(shares[SPLITS.index(split)])
    enough = math.ceil(math.log(0.001) / math.log1p(-share)) if share < 1 else 1
    found = " / ".join(f"{name} {size}" for name, size in sizes.items())
    return (
        f"assign='hash' with split={shares_in_words(shares)} leaves {split} empty ({found}): by hash, sizes vary by "
        f"chance around their shares. With {enough} {'groups' if grouped else 'different inputs'} that happens once "
        f"in a thousand times; until there are as many, give {split} a larger share, a share of 0, or the dataset "
        "another seed="
    )
