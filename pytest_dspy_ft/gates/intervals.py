"""Which interval a gate's margin gets: from the columns of scores and costs that its expression names.

A gate errs in two ways, passing what it should not and failing what it should not, and each is bounded by itself: at
``confidence=0.95``, by 2.5 %. So a single share is judged by its exact bounds rather than by Wilson's, which the table
shows: Wilson's interval holds the truth in 95 % of the cases on average, but near 0 % and 100 % up to 15 % lie on one
side of it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike

from pytest_dspy_ft.gates.boxes import box_interval
from pytest_dspy_ft.gates.expression import (
    Condition,
    Extreme,
    Negative,
    Node,
    Operation,
    Quantity,
    affine,
    evaluate,
    exact_value,
    quantities,
)
from pytest_dspy_ft.statistics import MIN_UNBOUNDED
from pytest_dspy_ft.statistics.bootstrap import RESAMPLES, Array, margin_interval
from pytest_dspy_ft.statistics.shares import exact_interval, judged_difference_interval

_OPPOSITE = {"min": "max", "max": "min"}
_MAX_ALTERNATIVES = 16
_TAIL_RESAMPLES = 25
"""Resamples that should lie outside either end, so that a corrected confidence is not left to a handful of them."""


def gate_interval(
    condition: Condition,
    columns: Mapping[Quantity, ArrayLike],
    constants: Mapping[Quantity, Fraction] | None = None,
    *,
    confidence: float,
    sizes: ArrayLike | None = None,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Confidence interval of the margin: left side minus right side, sign turned for ``<=`` and ``<``.

    Args:
        condition: The parsed gate.
        columns: What was measured, shape (n,) each, in one order of the different examples.
        constants: Quantities that are counts rather than estimates, such as a ``bootstrap_rate``.
        confidence: In (0, 1).
        sizes: How many copies of each example the split holds; default 1 each. They are one observation.
        seed: Of the resampling; one seed always gives one interval.

    Returns:
        (low, high), finite; None where there cannot be one.
    """
    fixed = dict(constants or {})
    sampled = {quantity: np.asarray(column, dtype=np.float64) for quantity, column in columns.items()}
    sides = (condition.left, condition.right) if condition.upward else (condition.right, condition.left)
    margin = Operation("-", *sides)
    kind, alternatives = _alternatives(margin) or ("min", [margin])
    alternatives = list(dict.fromkeys(alternatives))
    copies = None if sizes is None else np.asarray(sizes, dtype=np.float64)
    if copies is not None and (copies == copies[0]).all():
        copies = None
    seeds = (seed % 2**32, zlib.crc32(condition.expression.encode()))
    if any(quantity.percentile for quantity in sampled):

        def interval_of_mean(quantity: Quantity, level: float) -> tuple[float, float] | None:
            return _interval(quantity, sampled, fixed, level, copies, seeds)

        return box_interval(margin, sampled, fixed, confidence, interval_of_mean)

    def intervals(level: float) -> list[tuple[float, float]]:
        found = [_interval(alternative, sampled, fixed, level, copies, seeds) for alternative in alternatives]
        return [ends for ends in found if ends is not None]

    # A smallest is above 0 when all are, and each may be judged by itself; it is below 0 when any is, and with several
    # chances to find one, each must be surer (Bonferroni). The resamples of a max() would be too high on average.
    each = intervals(confidence)
    corrected = each if len(alternatives) == 1 else intervals(1 - (1 - confidence) / len(alternatives))
    if min(len(each), len(corrected)) < len(alternatives):
        return None
    if kind == "min":
        ends = min(low for low, _ in each), min(high for _, high in corrected)
    else:
        ends = max(low for low, _ in corrected), max(high for _, high in each)
    return ends if all(map(math.isfinite, ends)) else None


def _interval(
    margin: Node,
    columns: Mapping[Quantity, Array],
    constants: Mapping[Quantity, Fraction],
    confidence: float,
    sizes: Array | None,
    seed: Sequence[int],
) -> tuple[float, float] | None:
    """The interval of one expression, in which ``min()`` and ``max()`` are numbers like any other.

    Where some examples have more copies than others it reaches as far as either view of them does: every example for
    one, by the method for such scores, and every example for as many as there are of it, as the score counts them.
    """
    counted: tuple[float, float] | None = None
    named = set(quantities(margin))
    sampled = {quantity: column for quantity, column in columns.items() if quantity in named}
    form = affine(margin)
    if form is not None:
        factors = {q: k for q, k in form[0].items() if q in sampled}
        offset = form[1] + sum((k * constants[q] for q, k in form[0].items() if q in constants), Fraction(0))
        sampled = {quantity: sampled[quantity] for quantity in factors}  # the others cancel: they may as well be 0
        constants = {**constants, **dict.fromkeys(named - sampled.keys() - constants.keys(), Fraction(0))}
        if not sampled:
            return float(offset), float(offset)
        counted = _counted_interval(sampled, list(factors.values()), offset, confidence)
        if counted is not None and sizes is None:
            return counted
    if not sampled or too_few_for_costs(sampled):
        return None
    resamples = max(RESAMPLES, math.ceil(2 * _TAIL_RESAMPLES / (1 - confidence)))
    ends = margin_interval(
        np.column_stack(list(sampled.values())),
        _margin_of_means(margin, list(sampled), constants),
        confidence=confidence,
        shares=[quantity.share for quantity in sampled],
        sizes=sizes,
        seed=seed,
        resamples=min(resamples, 10 * RESAMPLES),
    )
    return ends if counted is None else (min(ends[0], counted[0]), max(ends[1], counted[1]))


def resolves(
    condition: Condition, columns: Mapping[Quantity, ArrayLike], confidence: float, sizes: ArrayLike | None = None
) -> bool:
    """True where an interval at such a confidence rests on counts, or on enough resamples beyond either end.

    Args:
        condition: The parsed gate.
        columns: What was measured.
        confidence: In (0, 1).
        sizes: How many copies of each example the split holds.
    """
    if 1 - confidence >= 2 * _TAIL_RESAMPLES / (10 * RESAMPLES):
        return True
    copies = None if sizes is None else np.asarray(sizes)
    form = affine(Operation("-", condition.left, condition.right))
    if form is None or (copies is not None and (copies != copies[0]).any()):
        return False
    sampled = {q: np.asarray(column, dtype=np.float64) for q, column in columns.items() if q in form[0]}
    return not sampled or _counted_interval(sampled, [form[0][q] for q in sampled], form[1], confidence) is not None


def too_few_for_costs(columns: Mapping[Quantity, Array]) -> bool:
    """True where costs, tokens or seconds were measured on fewer examples than an interval of them needs.

    Where they are 0 throughout, as on a machine of one's own, they are no estimates.
    """
    n = len(next(iter(columns.values())))
    return n < MIN_UNBOUNDED and any(not q.share and column.any() for q, column in columns.items())


def _alternatives(node: Node) -> tuple[str, list[Node]] | None:
    """An expression as the smallest or the largest of expressions without ``min()`` and ``max()``.

    Returns:
        (``min`` or ``max``, the expressions); with one expression either word means the same. None where the two are
        mixed, multiplied with each other, or more than 16.
    """
    match node:
        case Negative(operand):
            inner = _alternatives(operand)
            return None if inner is None else (_OPPOSITE[inner[0]], [Negative(node) for node in inner[1]])
        case Extreme(name, arguments):
            parts = [_alternatives(argument) for argument in arguments]
            if any(part is None or (len(part[1]) > 1 and part[0] != name) for part in parts):
                return None
            nodes = [node for part in parts if part is not None for node in part[1]]
            return (name, nodes) if len(nodes) <= _MAX_ALTERNATIVES else None
        case Operation(operator, left, right):
            a, b = _alternatives(left), _alternatives(right)
            if a is None or b is None:
                return None
            if len(a[1]) == len(b[1]) == 1:
                return "min", [Operation(operator, a[1][0], b[1][0])]
            if operator in ("+", "-"):
                second = _OPPOSITE[b[0]] if operator == "-" else b[0]
                if (len(a[1]) > 1 and len(b[1]) > 1 and a[0] != second) or len(a[1]) * len(b[1]) > _MAX_ALTERNATIVES:
                    return None
                kind = a[0] if len(a[1]) > 1 else second
                return kind, [Operation(operator, x, y) for x in a[1] for y in b[1]]
            swapped = operator == "*" and len(a[1]) == 1
            several, (_, [number]) = (b, a) if swapped else (a, b)
            if quantities(number):
                return None
            try:
                factor = exact_value(number)
            except ZeroDivisionError:
                return None
            kind = several[0] if factor > 0 else _OPPOSITE[several[0]]
            return kind, [Operation(operator, node, number) for node in several[1]]
        case _:
            return "min", [node]


def _counted_interval(
    columns: Mapping[Quantity, Array], factors: Sequence[Fraction], offset: Fraction, confidence: float
) -> tuple[float, float] | None:
    """The interval of one 0/1 share or of the difference of two; None for anything else."""
    if not all(q.share and bool(((column == 0) | (column == 1)).all()) for q, column in columns.items()):
        return None
    if len(columns) == 1:
        [column] = columns.values()
        ends = exact_interval(int(column.sum()), len(column), confidence)
    elif len(columns) == 2 and factors[0] == -factors[1]:
        after, before = columns.values()
        fixed, broke = int((after > before).sum()), int((after < before).sum())
        ends = judged_difference_interval(fixed, broke, len(after), confidence)
    else:
        return None
    a, b = (float(factors[0] * Fraction(end) + offset) for end in ends)
    return min(a, b), max(a, b)


def _margin_of_means(
    margin: Node, sampled: Sequence[Quantity], constants: Mapping[Quantity, Fraction]
) -> Callable[[Array], Array]:
    """The margin as a function of arrays of means, one column for each of ``sampled``."""

    def margin_of(means: Array) -> Array:
        def number(value: Fraction) -> Array:
            return np.full(len(means), float(value))

        def measured(quantity: Quantity) -> Array:
            return number(constants[quantity]) if quantity in constants else means[:, sampled.index(quantity)]

        def extreme(name: str, values: list[Array]) -> Array:
            return reduce(np.minimum if name == "min" else np.maximum, values)

        return evaluate(margin, measured, number, extreme)

    return margin_of
