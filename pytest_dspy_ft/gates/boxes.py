"""The interval of a margin with quantiles in it: each quantity's own interval, and all that the margin can be in them.

Quantiles of two stages have no joint resampling that is exact. So the error that the gate's confidence allows is shared
out evenly among its quantities (Bonferroni), each gets its own interval (a quantile's from the order of what was
measured, whatever its distribution), and interval arithmetic takes these to the margin. All of it only widens: the
margin's interval errs at most as often as it says, also where the quantities are dependent, as those of paired
examples are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from pytest_dspy_ft.gates.expression import Condition, Node, Quantity, evaluate, quantities
from pytest_dspy_ft.gates.spans import Range
from pytest_dspy_ft.statistics.order import fewest_for_quantile, quantile_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Ends = tuple[float, float]


def box_interval(
    margin: Node,
    columns: Mapping[Quantity, NDArray[np.float64]],
    constants: Mapping[Quantity, Fraction],
    confidence: float,
    interval_of_mean: Callable[[Quantity, float], Ends | None],
) -> Ends | None:
    """The interval of a margin with quantiles in it.

    Args:
        margin: The larger side of the gate minus the smaller one.
        columns: What was measured, one value for each different example.
        constants: Quantities that are counts rather than estimates.
        confidence: In (0, 1).
        interval_of_mean: The interval of a quantity that is no quantile, at a confidence.

    Returns:
        (low, high); None where there are too few examples for one of the quantities.
    """
    named = dict.fromkeys(q for q in quantities(margin) if q in columns)
    level = each_confidence(confidence, len(named))
    ranges = {quantity: Range(float(value), float(value)) for quantity, value in constants.items()}
    for quantity in named:
        if quantity.percentile:
            ends: Ends | None = quantile_interval(columns[quantity].tolist(), quantity.percentile, level)
        else:
            ends = interval_of_mean(quantity, level)
        if ends is None or not all(map(math.isfinite, ends)):
            return None
        ranges[quantity] = Range(*ends)

    def extreme(name: str, values: list[Range]) -> Range:
        pick = min if name == "min" else max
        return Range(pick(value.low for value in values), pick(value.high for value in values))

    found = evaluate(margin, ranges.__getitem__, lambda value: Range(float(value), float(value)), extreme)
    return (found.low, found.high) if math.isfinite(found.low) and math.isfinite(found.high) else None


def each_confidence(confidence: float, quantities: int) -> float:
    """The confidence of each quantity's interval where so many are to hold together."""
    return 1 - (1 - confidence) / max(quantities, 1)


def fewest_for_quantiles(condition: Condition, confidence: float) -> tuple[int, Quantity] | None:
    """How many different examples the quantiles of a gate need at a confidence, and which needs them; None without."""
    estimated = [quantity for quantity in condition.quantities if quantity.measure != "bootstrap_rate"]
    level = each_confidence(confidence, len(estimated))
    needed = [(fewest_for_quantile(q.percentile, level), q) for q in estimated if q.percentile]
    return max(needed, default=None)
