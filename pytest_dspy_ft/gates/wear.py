"""How worn a test split is: with every program that is measured on it, the best of them says less.

Of k programs that are equally good, the score of the best lies above its own 95 % interval with probability
``1 - 0.975 ** k`` if their errors are independent: the intervals are made for one program, not for the best of many
(selection, as in multiple comparisons). Whoever looks at a result and then changes the program chooses among programs
just so, though only one is there at a time (C. Dwork and others (2015), The reusable holdout: preserving validity in
adaptive data analysis, Science 349). Versions of a program err on the same examples, so that they count as fewer: the
rule is on the safe side.
"""

from __future__ import annotations

MOST_PROGRAMS = 27
"""With one more, the best of as many equal programs is more likely above its 95 % interval than not."""

WORN = (
    f"more than {MOST_PROGRAMS} different programs were measured on the test split so far: the best of as many equal "
    "ones is more likely above its 95% interval than not; put fresh examples into test, and judge on dev meanwhile"
)


def is_worn(programs: int) -> bool:
    """True where so many different programs were measured on a test split that it tells little of the best of them."""
    return programs > MOST_PROGRAMS
