"""Pieces of a gate's expression while it is read: what is known of each before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from pytest_dspy_ft.gates.expression import PURE, Dimension, Node, Quantity, unit_in_words

Bounds = tuple[Fraction, Fraction]


@dataclass(frozen=True)
class Side:
    """A piece of an expression and what is known of its value before anything is measured."""

    node: Node
    start: int
    dimension: Dimension = PURE
    constant: Fraction | None = None
    percent: bool = False
    bounds: Bounds | None = None
    """Range of a value made of scores and shares; None for ratios, and for what has a unit."""

    @property
    def range(self) -> Bounds | None:
        """The bounds, for a number its value twice."""
        return self.bounds if self.constant is None else (self.constant, self.constant)

    @property
    def words(self) -> str:
        """What it is, for messages."""
        if self.constant is not None:
            return "a percentage" if self.percent else "a number"
        if self.dimension == PURE:
            if isinstance(self.node, Quantity):
                return "a score" if self.node.is_score else "a share"
            return "a ratio" if self.bounds is None else "a combination of scores"
        return unit_in_words(self.dimension)


def bounds_of(operator: str, left: Side, right: Side) -> Bounds | None:
    """The range of an operation on scores, shares and numbers; None where either side has none, and for ratios."""
    a, b = left.range, right.range
    if a is None or b is None:
        return None
    match operator:
        case "+":
            return a[0] + b[0], a[1] + b[1]
        case "-":
            return a[0] - b[1], a[1] - b[0]
        case "/" if not right.constant:
            return None
    ends = [x * y if operator == "*" else x / y for x in a for y in b]
    return min(ends), max(ends)


def unit_of_product(left: Dimension, right: Dimension, power: int) -> Dimension:
    """The unit of left times right to a power of 1 or -1."""
    a, b, c = (x + power * y for x, y in zip(left, right, strict=True))
    return a, b, c
