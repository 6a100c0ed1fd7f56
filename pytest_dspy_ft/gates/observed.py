"""The observed value of a gate, in words people read.

It follows one rule: it is the figure to hold against the number written in the gate.
    1. A side is a plain number: the other side (``finetuned >= 88%``: "88.3%").
    2. The right side is something times or divided by a number: left side over that something
       (``student >= 93% * teacher``: "0.95x").
    3. Otherwise the left side minus the right one without the number added to it
       (``finetuned >= baseline + 10%``: "+12.0 pts").
It gets more decimals where the usual ones would show a number on the wrong side (87.96%, not 88.0%, fails 88%).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from pytest_dspy_ft.gates.expression import (
    Condition,
    Dimension,
    Operation,
    Quantity,
    exact_value,
    quantities,
    unit_in_words,
)


@dataclass(frozen=True)
class Unit:
    """How a value is written."""

    suffix: str
    prefix: str = ""
    scale: int = 1
    signed: bool = False
    decimals: int = 2
    significant: int = 2
    """More decimals where a small value needs them for so many significant digits."""

    def digits(self, value: Fraction) -> int:
        """How many decimals a value usually gets."""
        size = abs(float(value * self.scale))
        if not size or not self.significant:
            return self.decimals
        order = int(f"{size:.{self.significant - 1}e}".partition("e")[2])
        return min(max(self.significant - 1 - order, self.decimals), 15)

    def write(self, value: Fraction | float, digits: int | None = None) -> str:
        """The value as text."""
        value = Fraction(value)
        digits = self.digits(value) if digits is None else digits
        rounded = self.round(value, digits)
        sign = "-" if rounded < 0 else "+" if self.signed else ""
        return f"{sign}{self.prefix}{float(abs(rounded * self.scale)):.{digits}f}{self.suffix}"

    def round(self, value: Fraction, digits: int) -> Fraction:
        """The value that the text says."""
        return Fraction(round(value * self.scale, digits)) / self.scale


def unit_of_sides(condition: Condition, *, difference: bool = False) -> Unit:
    """How a side of a gate is written, or the difference of its sides."""
    if condition.shares:
        suffix = " pts" if difference else "%"
        return Unit(suffix, scale=100, signed=difference, decimals=1, significant=0)
    return unit_of(condition.dimension, difference=difference)


def unit_of(dimension: Dimension, *, difference: bool = False) -> Unit:
    """How a value of this dimension is written, or a difference of two."""
    match dimension:
        case (0, 0, 0):
            return Unit("x", signed=difference)
        case (1, 0, 0):
            return Unit("", prefix="$", signed=difference)
        case (0, 1, 0):
            return Unit(" tokens", signed=difference, decimals=0)
        case (0, 0, 1):
            return Unit(" s", signed=difference, decimals=1)
        case _:
            return Unit(f" {unit_in_words(dimension)}", signed=difference)


def observe(condition: Condition, measured: Callable[[Quantity], Fraction]) -> str:
    """The observed value of a gate, as text."""
    try:
        value, threshold, unit = _observed(condition, measured)
    except ZeroDivisionError:
        return "division by zero"
    digits = unit.digits(value)
    side = (value > threshold) - (value < threshold)
    for more in range(digits, digits + 7):
        rounded = unit.round(value, more)
        if (rounded > threshold) - (rounded < threshold) == side:
            return unit.write(value, more)
    return unit.write(value, digits)


def _observed(condition: Condition, measured: Callable[[Quantity], Fraction]) -> tuple[Fraction, Fraction, Unit]:
    """The value, the number in the gate to hold it against, and how to write it."""
    left, right = condition.left, condition.right
    difference_unit = unit_of_sides(condition, difference=True)
    if not (quantities(left) and quantities(right)):
        side, number = (left, right) if quantities(left) else (right, left)
        difference = isinstance(side, Operation) and side.operator == "-" and quantities(side.left)
        unit = difference_unit if difference else unit_of_sides(condition)
        return exact_value(side, measured), exact_value(number), unit
    value = exact_value(left, measured)
    if isinstance(right, Operation) and not (quantities(right.left) and quantities(right.right)):
        first = not quantities(right.left)
        parts = (right.left, right.right) if first else (right.right, right.left)
        constant, other = (exact_value(part, measured) for part in parts)
        match right.operator, first:
            case ("*", _) | ("/", False) if constant > 0 and other > 0:
                return value / other, constant if right.operator == "*" else 1 / constant, Unit("x")
            case ("+", _):
                return value - other, constant, difference_unit
            case ("-", False):
                return value - other, -constant, difference_unit
    return value - exact_value(right, measured), Fraction(0), difference_unit
