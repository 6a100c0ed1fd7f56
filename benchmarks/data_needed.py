"""How many labelled examples a gate needs: the tables of docs/how-to/how-much-data.md, by the intervals that gates use.

    python -m benchmarks.data_needed               # all tables, some seconds
    python -m benchmarks.data_needed threshold     # or one of them: threshold, gain, power

``threshold`` and ``gain`` are exact. ``power`` draws 4 000 sets of examples for each figure, with a fixed seed: its
standard error is at most 0.8 points.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from functools import cache

import numpy as np

from pytest_dspy_ft.statistics.shares import exact_interval, judged_difference_interval

CONFIDENCE = 0.95
SIZES = (25, 50, 100, 200, 500, 1000, 2000)
THRESHOLDS = (0.5, 0.7, 0.8, 0.88, 0.95)
BROKEN = (0.0, 0.02, 0.05, 0.1)
GAINS = (0.02, 0.05, 0.1, 0.15, 0.2)
POWER_SIZES = (50, 100, 200, 500, 1000)
DRAWS = 4000


def fewest_right(threshold: float, n: int) -> int | None:
    """The fewest right answers of ``n`` with which a score is at least the threshold at the confidence."""
    # The more are right, the higher the interval.
    least = bisect_left(range(n + 1), threshold, key=lambda right: exact_interval(right, n, CONFIDENCE)[0])
    return least if least <= n else None


@cache
def fewest_fixed(broke: int, n: int) -> int | None:
    """The fewest fixed examples of ``n`` that show a gain at the confidence where so many others broke."""
    low, high = broke, n - broke + 1
    while low < high:  # the more are fixed, the higher the interval
        middle = (low + high) // 2
        if judged_difference_interval(middle, broke, n, CONFIDENCE)[0] >= 0 and middle > broke:
            high = middle
        else:
            low = middle + 1
    return low if low <= n - broke else None


def power(gain: float, broken: float, n: int) -> float:
    """In which share of sessions a true gain is shown, where that share of the examples breaks."""
    chances = [gain + broken, broken, 1 - gain - 2 * broken]
    drawn = np.random.default_rng(0).multinomial(n, chances, size=DRAWS)
    needed = {int(broke): fewest_fixed(int(broke), n) for broke in np.unique(drawn[:, 1])}
    shown = [(least := needed[int(broke)]) is not None and fixed >= least for fixed, broke, _ in drawn]
    return sum(shown) / DRAWS


def threshold_table() -> str:
    """By size of the split, the smallest score that passes ``stage >= threshold`` with ``confidence=0.95``."""
    head = ["examples", *(f"`stage >= {threshold:.0%}`" for threshold in THRESHOLDS)]
    return table(head, [[f"{n}", *(score(fewest_right(one, n), n) for one in THRESHOLDS)] for n in SIZES])


def gain_table() -> str:
    """By size of the split and share of examples that broke, the smallest gain that passes ``a >= b``."""
    head = ["examples", *(f"{broken:.0%} broke" for broken in BROKEN)]
    rows = []
    for n in SIZES:
        counts = [(fewest_fixed(round(broken * n), n), round(broken * n)) for broken in BROKEN]
        gains = [f"{100 * (fixed - broke) / n:.1f}" if fixed is not None else "none" for fixed, broke in counts]
        rows.append([f"{n}", *gains])
    return table(head, rows)


def power_table() -> str:
    """By size of the split and true gain, how many sessions show it, where 5 % of the examples break."""
    head = ["examples", *(f"+{100 * gain:.0f} points" for gain in GAINS)]
    return table(head, [[f"{n}", *(f"{power(gain, 0.05, n):.0%}" for gain in GAINS)] for n in POWER_SIZES])


def score(right: int | None, n: int) -> str:
    """So many right of ``n``, as a percentage."""
    return f"{100 * right / n:.1f} %" if right is not None else "none"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


TABLES = {"threshold": threshold_table, "gain": gain_table, "power": power_table}


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", choices=TABLES, help="default: all")
    chosen = parser.parse_args().table
    for name in [chosen] if chosen else TABLES:
        print(f"{TABLES[name].__doc__}\n\n{TABLES[name]()}\n")


if __name__ == "__main__":
    main()
