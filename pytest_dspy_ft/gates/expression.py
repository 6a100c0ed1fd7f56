"""The language of gates as a tree, and from the tree to numbers. `pytest_dspy_ft.gates.parser` reads it from text.

A gate is exactly one comparison of two arithmetic sides. The sides hold stage names (a bare name is the stage's
score), numbers, ``+ - * /``, ``min()``, ``max()``, measures such as ``cost(stage)``, their quantiles such as
``p95(latency(stage))``, and the experiment's further metrics such as ``f1(stage)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from operator import add, mul, sub, truediv
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from pytest_dspy_ft.gates.spans import Range
    from pytest_dspy_ft.statistics.bootstrap import Array

MEASURES: dict[str, str] = {
    "cost": "US dollars per call",
    "tokens": "tokens per call",
    "latency": "seconds per call",
    "errors": "share of examples that could not be measured",
    "unparsed": "share of replies that could not be read",
    "bootstrap_rate": "share of train examples whose trace was kept",
}
"""The measures besides the score, with what they measure."""

QUANTILES: dict[str, int] = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
"""The quantiles that can be asked for, with the share of calls, in percent, that takes at most as much."""

SPREAD = ("latency", "cost", "tokens")
"""The measures that have quantiles: those that differ from call to call by more than right and wrong."""

FUNCTIONS = (*MEASURES, *QUANTILES, "min", "max")
"""All functions of the language; an experiment's further metrics come on top of them."""

RESERVED = frozenset({*MEASURES, "min", "max"})
"""Words of the language: a stage of one of these names could not be written in a gate."""

Comparison = Literal[">=", ">", "<=", "<"]
Dimension = tuple[int, int, int]
"""Exponents of (dollars, tokens, seconds); (0, 0, 0) for scores, shares and plain numbers."""

_DIMENSION: dict[str, Dimension] = {"cost": (1, 0, 0), "tokens": (0, 1, 0), "latency": (0, 0, 1)}
PURE: Dimension = (0, 0, 0)


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {"+": add, "-": sub, "*": mul, "/": truediv}

Value = TypeVar("Value", Fraction, "Array", "Range")
"""The numbers that an expression is computed with: exact fractions, arrays of resampled means, or ranges."""


@dataclass(frozen=True, order=True)
class Quantity:
    """Something measured of a stage: ``score``, one of `MEASURES`, or the score by a further metric, by its name."""

    measure: str
    stage: str
    percentile: int = 0
    """Which quantile of it, in percent; 0: its mean."""

    def __str__(self) -> str:
        mean = self.stage if self.measure == "score" else f"{self.measure}({self.stage})"
        return f"p{self.percentile}({mean})" if self.percentile else mean

    @property
    def is_score(self) -> bool:
        """True for a score, by the experiment's metric or by a further one."""
        return self.measure == "score" or self.measure not in MEASURES

    @property
    def metric(self) -> str:
        """The further metric that gives the score; empty for anything else."""
        return self.measure if self.is_score and self.measure != "score" else ""

    @property
    def share(self) -> bool:
        """True for a fraction in [0, 1], such as a score."""
        return self.measure not in _DIMENSION

    @property
    def dimension(self) -> Dimension:
        """Its unit."""
        return _DIMENSION.get(self.measure, PURE)


@dataclass(frozen=True)
class Number:
    """A literal."""

    value: Fraction
    written: str = field(default="", compare=False)
    """Its text in the expression, with its ``%``; empty for a number that stands in none."""
    start: int = field(default=0, compare=False)
    """Where that text begins."""


@dataclass(frozen=True)
class Negative:
    """Unary minus."""

    operand: Node


@dataclass(frozen=True)
class Operation:
    """``left + right``, or with ``-``, ``*``, ``/``."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Extreme:
    """``min(...)`` or ``max(...)``."""

    name: str
    arguments: tuple[Node, ...]


Node = Quantity | Number | Negative | Operation | Extreme


@dataclass(frozen=True)
class Condition:
    """A parsed gate: ``left comparison right``."""

    expression: str
    comparison: Comparison
    left: Node
    right: Node
    dimension: Dimension
    """Unit of both sides."""
    shares: bool
    """True if the sides are scores or shares (and not, say, a ratio of scores): differences are points."""
    positions: dict[str, int]
    """Where each stage is first named in the expression."""
    metrics: dict[str, int] = field(default_factory=dict)
    """Where each further metric is first named."""

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Everything that must be measured, in the order written."""
        return tuple(dict.fromkeys([*quantities(self.left), *quantities(self.right)]))

    @property
    def upward(self) -> bool:
        """True if the left side must be the larger one."""
        return self.comparison in (">=", ">")

    @property
    def strict(self) -> bool:
        """True if equality is not enough."""
        return self.comparison in (">", "<")


def quantities(node: Node) -> tuple[Quantity, ...]:
    """Everything in ``node`` that must be measured, in the order written, repetitions included."""
    match node:
        case Quantity():
            return (node,)
        case Number():
            return ()
        case Negative(operand):
            return quantities(operand)
        case Operation(_, left, right):
            return quantities(left) + quantities(right)
        case Extreme(_, arguments):
            return tuple(q for argument in arguments for q in quantities(argument))


def evaluate(
    node: Node,
    measured: Callable[[Quantity], Value],
    number: Callable[[Fraction], Value],
    extreme: Callable[[str, list[Value]], Value],
) -> Value:
    """Compute a side.

    Args:
        node: The side.
        measured: Gives the value of a quantity.
        number: Turns a literal into the arithmetic in use.
        extreme: Given ``min`` or ``max`` and the arguments, picks among them.

    Returns:
        The value, in the arithmetic that ``measured`` and ``number`` give.
    """
    match node:
        case Quantity():
            return measured(node)
        case Number(value):
            return number(value)
        case Negative(operand):
            return -evaluate(operand, measured, number, extreme)
        case Extreme(name, arguments):
            return extreme(name, [evaluate(argument, measured, number, extreme) for argument in arguments])
        case Operation(operator, left, right):
            sides = (evaluate(side, measured, number, extreme) for side in (left, right))
            result: Value = OPERATIONS[operator](*sides)
            return result


def _unmeasured(quantity: Quantity) -> Fraction:
    raise AssertionError(f"a constant does not measure {quantity}")


def _exact_extreme(name: str, values: list[Fraction]) -> Fraction:
    return min(values) if name == "min" else max(values)


def exact_value(node: Node, measured: Callable[[Quantity], Fraction] = _unmeasured) -> Fraction:
    """Compute a side in exact rational arithmetic.

    Args:
        node: The side.
        measured: Gives the value of a quantity; not needed where the side names none.

    Raises:
        ZeroDivisionError: A divisor is 0.
    """
    return evaluate(node, measured, lambda value: value, _exact_extreme)


def magnitude(node: Node, measured: Callable[[Quantity], Fraction]) -> Fraction:
    """Bound the size of a side and of all sums within: every term positive, and nothing ever subtracted.

    Raises:
        ZeroDivisionError: A divisor is 0.
    """
    return exact_value(without_signs(node), lambda quantity: abs(measured(quantity)))


def without_signs(node: Node) -> Node:
    """A side in which every term is added, and of ``min()`` and ``max()`` the largest counts: what bounds its size."""
    match node:
        case Negative(operand):
            return without_signs(operand)
        case Operation(operator, left, right):
            return Operation("+" if operator == "-" else operator, without_signs(left), without_signs(right))
        case Extreme(_, arguments):
            return Extreme("max", tuple(map(without_signs, arguments)))
        case _:
            return node


def affine(node: Node) -> tuple[dict[Quantity, Fraction], Fraction] | None:
    """Coefficients and constant of a side that is a weighted sum of quantities; None when it is not one."""
    match node:
        case Quantity():
            return {node: Fraction(1)}, Fraction(0)
        case Number(value):
            return {}, value
        case Negative(operand):
            return affine(Operation("*", Number(Fraction(-1)), operand))
        case Extreme(_, arguments):
            if len(arguments) == 1:
                return affine(arguments[0])
            return None if quantities(node) else ({}, exact_value(node))
        case Operation(operator, left, right):
            a, b = affine(left), affine(right)
            if a is None or b is None:
                return None
            if operator in ("*", "/"):
                if operator == "*" and not a[0]:
                    a, b = b, a
                if b[0] or (operator == "/" and not b[1]):
                    return None
                factor = b[1] if operator == "*" else 1 / b[1]
                return _nonzero({q: k * factor for q, k in a[0].items()}), a[1] * factor
            sign = 1 if operator == "+" else -1
            terms = {q: a[0].get(q, Fraction(0)) + sign * b[0].get(q, Fraction(0)) for q in {**a[0], **b[0]}}
            return _nonzero(terms), a[1] + sign * b[1]


def _nonzero(terms: dict[Quantity, Fraction]) -> dict[Quantity, Fraction]:
    return {quantity: factor for quantity, factor in terms.items() if factor}


def unit_in_words(dimension: Dimension) -> str:
    """A unit in words: ``US dollars per tokens^2``."""
    powers = list(zip(("US dollars", "tokens", "seconds"), dimension, strict=True))
    over, under = (
        [f"{name}{'' if sign * power == 1 else f'^{sign * power}'}" for name, power in powers if sign * power > 0]
        for sign in (1, -1)
    )
    return " x ".join(over or ["1"]) + "".join(f" per {name}" for name in under)
