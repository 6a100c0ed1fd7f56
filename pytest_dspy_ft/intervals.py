"""Which interval a gate's margin gets: from the columns of scores and costs that its expression names.

A gate errs in two ways, passing what it should not and failing what it should not, and each is bounded by itself: at
``confidence=0.95``, by 2.5 %. So a single share is judged by its exact bounds rather than by Wilson's, which the table
shows: Wilson's interval holds the truth in 95 % of the cases on average, but near 0 % and 100 % up to 15 % lie on one
side of it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike

from pytest_dspy_ft import expressions, statistics
from pytest_dspy_ft.expressions import Condition, Operation, Quantity
from pytest_dspy_ft.statistics import Array


def gate_interval(
    condition: Condition,
    columns: Mapping[Quantity, ArrayLike],
    constants: Mapping[Quantity, Fraction] | None = None,
    *,
    confidence: float,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Confidence interval of the margin: left side minus right side, sign turned for ``<=`` and ``<``.

    Args:
        condition: The parsed gate.
        columns: What was measured, shape (n,) each, in one order of the examples.
        constants: Quantities that are counts rather than estimates, such as a ``bootstrap_rate``.
        confidence: In (0, 1).
        seed: Of the resampling; one seed always gives one interval.

    Returns:
        (low, high), finite; None where there cannot be one.
    """
    fixed = dict(constants or {})
    sampled = {quantity: np.asarray(column, dtype=np.float64) for quantity, column in columns.items()}
    form = expressions.affine(Operation("-", condition.left, condition.right))
    if form is not None:
        sign = 1 if condition.upward else -1
        factors = {q: sign * k for q, k in form[0].items() if q in sampled}
        offset = sign * (form[1] + sum((k * fixed[q] for q, k in form[0].items() if q in fixed), Fraction(0)))
        sampled = {quantity: sampled[quantity] for quantity in factors}  # the others cancel
        if not sampled:
            return float(offset), float(offset)
        exact = _exact(sampled, list(factors.values()), offset, confidence)
        if exact is not None:
            return exact
    n = len(next(iter(sampled.values())))
    if n < 2 and not all(quantity.share for quantity in sampled):
        return None
    ends = statistics.margin_interval(
        np.column_stack(list(sampled.values())),
        _Margins(condition, list(sampled), fixed),
        confidence=confidence,
        shares=[quantity.share for quantity in sampled],
        seed=(seed % 2**32, zlib.crc32(condition.expression.encode())),
    )
    return ends if all(map(math.isfinite, ends)) else None


def _exact(
    columns: Mapping[Quantity, Array], factors: Sequence[Fraction], offset: Fraction, confidence: float
) -> tuple[float, float] | None:
    """The interval of one 0/1 share or of the difference of two; None for anything else."""
    if not all(q.share and bool(((column == 0) | (column == 1)).all()) for q, column in columns.items()):
        return None
    if len(columns) == 1:
        [column] = columns.values()
        ends = statistics.exact_interval(int(column.sum()), len(column), confidence)
    elif len(columns) == 2 and factors[0] == -factors[1]:
        after, before = columns.values()
        ends = statistics.judged_difference_interval(before, after, confidence)
    else:
        return None
    a, b = (float(factors[0] * Fraction(end) + offset) for end in ends)
    return min(a, b), max(a, b)


@dataclass(frozen=True)
class _Margins:
    """The margin as a function of arrays of means, one column for each of ``sampled``."""

    condition: Condition
    sampled: Sequence[Quantity]
    constants: Mapping[Quantity, Fraction]

    def __call__(self, means: Array) -> Array:
        columns = {quantity: means[:, index] for index, quantity in enumerate(self.sampled)}

        def measured(quantity: Quantity) -> Array:
            return columns[quantity] if quantity in columns else number(self.constants[quantity])

        def number(value: Fraction) -> Array:
            return np.full(len(means), float(value))

        def extreme(name: str, values: list[Array]) -> Array:
            return reduce(np.minimum if name == "min" else np.maximum, values)

        left, right = (
            expressions.evaluate(side, measured, number, extreme)
            for side in (self.condition.left, self.condition.right)
        )
        return left - right if self.condition.upward else right - left
