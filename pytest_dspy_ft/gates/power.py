"""The best that a number of examples can tell of a gate, known before anything is run.

Two questions are asked of a gate on scores and shares, both answered with the very intervals that verdicts use:

* A relation that names a distance (``a >= b + 2%``, ``a >= 93% * b``, ``a >= max(b, c) + 10%``): where all stages are
  level, example by example, is the interval of the margin clear of 0? If not even then, the distance drowns in noise:
  a gate with a confidence will mostly be undecided, one without will pass or fail by luck. So both are told.
* A threshold with a confidence (``a >= 99%``, ``errors(a) <= 1%``): would the best outcome of all pass?

Costs, tokens and seconds have no spread that is known beforehand; only that there are enough to judge them is asked.
A relation without a distance (``a >= b``) asks for nothing that could be too little, so nothing is asked of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from pytest_dspy_ft.gates.boxes import fewest_for_quantiles
from pytest_dspy_ft.gates.expression import Operation, Quantity, affine, exact_value
from pytest_dspy_ft.gates.intervals import gate_interval
from pytest_dspy_ft.statistics import COSTS_NEED, MIN_UNBOUNDED
from pytest_dspy_ft.text import grouped

if TYPE_CHECKING:
    from pytest_dspy_ft.gates.gate import Gate

CONFIDENCE = 0.95
"""The confidence at which gates that name none are looked at."""

_MAX_EXAMPLES = 1_000_000


def too_few(gate: Gate, n: int) -> str:
    """Explain that so many examples cannot tell what a gate asks, and how many could; empty where they can.

    Args:
        gate: The gate.
        n: How many examples its split has.
    """
    quantities = gate.condition.quantities
    if note := _quantile_note(gate, n):
        return note
    if gate.confidence is not None and n < MIN_UNBOUNDED and any(not q.share and not q.percentile for q in quantities):
        return f"gate `{gate.expression}` at confidence {gate.confidence:g}: {COSTS_NEED}; {gate.on!r} has {n}"
    if not n or not quantities or any(not q.share or q.measure == "bootstrap_rate" for q in quantities):
        return ""
    if len(quantities) == 1:
        return _threshold_note(gate, n, quantities[0]) if gate.confidence is not None else ""
    return _distance_note(gate, n) if all(q.is_score for q in quantities) else ""


def _quantile_note(gate: Gate, n: int) -> str:
    """Explain that a quantile is one of the largest values, or the very largest, at so few examples."""
    if gate.confidence is not None:
        fewest = fewest_for_quantiles(gate.condition, gate.confidence)
        if fewest is None or n >= fewest[0]:
            return ""
        return (
            f"gate `{gate.expression}` at confidence {gate.confidence:g}: an interval of {fewest[1]} needs at least "
            f"{fewest[0]} different examples; {gate.on!r} has {n}"
        )
    for quantity in gate.condition.quantities:
        least = -(-100 // (100 - quantity.percentile))
        if quantity.percentile and n < least:
            return (
                f"gate `{gate.expression}`: of {n} examples the largest stands for {quantity}; one of {least} could be "
                "above it"
            )
    return ""


def _distance_note(gate: Gate, n: int) -> str:
    confidence = gate.confidence or CONFIDENCE

    def level_interval(count: int) -> tuple[float, float] | None:
        columns = {quantity: np.ones(count) for quantity in gate.condition.quantities}
        return gate_interval(gate.condition, columns, confidence=confidence)

    try:
        margin = float(_level_margin(gate))
    except ZeroDivisionError:
        return ""
    ends = level_interval(n)
    if not margin or ends is None or not ends[0] < 0 <= ends[1]:
        return ""
    half_width = margin - ends[0] if margin > 0 else ends[1] - margin
    needed = _smallest(n, lambda count: (e := level_interval(count)) is not None and not e[0] < 0 <= e[1])
    scale, unit = (100, " points") if gate.condition.shares else (1, "")
    asked = f"{scale * abs(margin):.2g}"
    asks = f"{asked}{unit.removesuffix('s') if asked == '1' else unit}"
    consequence = "it will mostly be undecided" if gate.confidence else "it will pass or fail by luck"
    asks = f"{asked}{unit.removesuffix('s') if asked == '1' else unit}"
    return (
        f"gate `{gate.expression}`: {n} examples tell differences of {scale * half_width:.2g}{unit} or more, where all "
        f"goes well; this gate asks for {asks}, so {consequence}; at least {needed} would tell"
    )


def _level_margin(gate: Gate) -> Fraction:
    """The margin where every stage has every example right."""
    left, right = (
        exact_value(side, lambda quantity: Fraction(1)) for side in (gate.condition.left, gate.condition.right)
    )
    return left - right if gate.condition.upward else right - left


def _threshold_note(gate: Gate, n: int, quantity: Quantity) -> str:
    condition, confidence = gate.condition, gate.confidence or CONFIDENCE
    form = affine(Operation("-", condition.left, condition.right))
    if form is None or quantity not in form[0]:
        return ""
    best = 1.0 if (form[0][quantity] > 0) == condition.upward else 0.0

    def passes(count: int) -> bool:
        ends = gate_interval(condition, {quantity: np.full(count, best)}, confidence=confidence)
        return ends is not None and (ends[0] > 0 if condition.strict else ends[0] >= 0)

    if passes(n):
        return ""
    needed = _smallest(n, passes)
    ends = gate_interval(condition, {quantity: np.full(n, best)}, confidence=confidence)
    shortfall = "" if ends is None else f", {100 * -ends[0]:.2g} points short" if condition.shares else ""
    return (
        f"gate `{gate.expression}` at confidence {confidence:g}: {n} examples cannot pass it even if {quantity} is "
        f"{best:.0%}{shortfall}; at least {needed} would tell"
    )


def _smallest(n: int, enough: Callable[[int], bool]) -> str:
    """The smallest number of examples above ``n`` that is enough, in words."""
    low, high = n, n
    while not enough(high):
        low, high = high, 2 * high
        if high > _MAX_EXAMPLES:
            return "no practical number"
    return grouped(low + 1 + bisect_left(range(low + 1, high), True, key=enough))
