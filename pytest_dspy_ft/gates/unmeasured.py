"""What could not be measured counts against the claim of a gate, never for it.

An example that failed scores 0. On the side that a gate wants large this counts against it; on the side that it wants
small it would flatter the gate: the more of ``b`` fails, the better ``a >= b`` looks. There the example counts as
right, and in ``unparsed(s)`` as unread. A call that failed early takes little, one that timed out takes long: its cost,
tokens and seconds count as the mean of the measured examples where what was recorded would speak for the gate; in a
quantile, which a mean says nothing of, as the largest of them, or the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from pytest_dspy_ft.gates.expression import Quantity
from pytest_dspy_ft.records.evaluation import ExampleResult

Column = tuple[float, ...]
"""A quantity, example by example."""

_NEARLY_ZERO = Fraction(1, 10**6)


def column_of(quantity: Quantity, examples: Sequence[ExampleResult], *, failed_as: float | None = None) -> Column:
    """A quantity of each example; costs, tokens and seconds per call.

    Args:
        quantity: What is measured; not ``bootstrap_rate``.
        examples: Those of its stage.
        failed_as: What a call that failed counts as, in scores and ``unparsed``; default: what was recorded.
    """
    if quantity.percentile:  # of calls: repeats of one example are no others, and their mean is no call
        examples = [example.each[0] for example in examples]
    examples = seen_by(quantity, examples)

    def share(value: Callable[[ExampleResult], float]) -> Column:
        return tuple(
            math.fsum(failed_as if failed_as is not None and c.outcome == "error" else value(c) for c in e.each)
            / len(e.each)
            for e in examples
        )

    match "score" if quantity.is_score else quantity.measure:
        case "score" if failed_as is None:
            return tuple(e.score for e in examples)
        case "score":
            return share(lambda call: call.score)
        case "cost":
            return tuple((e.usage.cost or 0.0) / len(e.each) for e in examples)
        case "tokens":
            return tuple(e.usage.tokens / len(e.each) for e in examples)
        case "latency":
            return tuple(e.usage.seconds / len(e.each) for e in examples)
        case "errors":
            return share(lambda call: float(call.outcome == "error"))
        case _:
            return share(lambda call: float(call.outcome == "unparsed"))


def seen_by(quantity: Quantity, examples: Sequence[ExampleResult]) -> Sequence[ExampleResult]:
    """The examples as the further metric sees them whose score is asked for; as they are for any other quantity."""
    return [example.by_metric(quantity.metric) for example in examples] if quantity.metric else examples


def against_the_claim(quantity: Quantity, wanted_small: bool, examples: Sequence[ExampleResult]) -> Column:
    """A measure of each example, in which no failed call speaks for the gate.

    Args:
        quantity: What is measured; not ``bootstrap_rate``.
        wanted_small: The gate wants it small, not large.
        examples: Those of its stage.
    """
    recorded = column_of(quantity, examples)
    failed = [any(call.outcome == "error" for call in seen.each) for seen in seen_by(quantity, examples)]
    if quantity.measure == "errors" or not any(failed):
        return recorded
    if quantity.share:
        return column_of(quantity, examples, failed_as=1.0) if wanted_small else recorded
    measured = [value for value, lost in zip(recorded, failed, strict=True) if not lost]
    if not measured:
        return recorded
    pick = max if wanted_small else min
    typical = pick(measured) if quantity.percentile else math.fsum(measured) / len(measured)
    return tuple(pick(value, typical) if lost else value for value, lost in zip(recorded, failed, strict=True))


def wants_small(
    quantity: Quantity, values: Mapping[Quantity, Fraction], margin: Callable[[Mapping[Quantity, Fraction]], Fraction]
) -> bool | None:
    """True where a gate's margin falls when a quantity grows, False where it rises; None where it stays.

    Args:
        quantity: The quantity.
        values: What was measured, of all quantities in the gate.
        margin: The margin with these values; may raise ZeroDivisionError.
    """
    others = {q: max(value, _NEARLY_ZERO) for q, value in values.items()}  # so that none hides another in a product
    top = Fraction(1) if quantity.share else 10 * others[quantity]
    try:
        low, high = margin({**others, quantity: _NEARLY_ZERO}), margin({**others, quantity: top})
    except ZeroDivisionError:
        return None
    return None if low == high else high < low
