"""Conditions that hold, or fail, whatever is measured: found by exact arithmetic over the ranges of the quantities.

A gate that can only pass tests nothing, and one that can only fail never passes. Which these are is proved, never
guessed. Scores and shares lie in 0 to 1, a stage's unparsed replies score 0 and are no errors, costs, tokens and
seconds are never below 0, and products get the bounds that their factors have. So the claim that a gate fails for some
measurements (or holds for some) is a system of linear inequalities in the quantities and their products, and
Fourier-Motzkin elimination shows that it has no solution. A system that grows too large is let go: nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, product
from typing import Literal

from pytest_dspy_ft.gates.expression import (
    Condition,
    Extreme,
    Negative,
    Node,
    Number,
    Operation,
    Quantity,
    exact_value,
)

Certainty = Literal["pass", "fail"]

_MAX_CHOICES = 25
"""Ways to choose the arguments of all ``min()`` and ``max()`` that are looked at."""
_MAX_TERMS = 200
_MAX_INEQUALITIES = 300
_MAX_GROWTH = 60
"""Inequalities that elimination may add to those that it begins with."""
_APART = {"score": ("unparsed",), "errors": ("unparsed",), "unparsed": ("score", "errors")}
"""Shares of a stage that come to 1 at most together: no call is an error and unparsed, and what is unparsed scores 0.

Errors score 0 as well, but a relation may count them as right answers of the side that it wants small."""
_LARGE = Fraction(10) ** 9

Monomial = tuple[Quantity, ...]
"""A product of quantities, sorted; the empty one is 1."""
Polynomial = dict[Monomial, Fraction]

_ONE: Polynomial = {(): Fraction(1)}


class _TooLargeError(Exception):
    """More cases, terms or inequalities than are looked at."""


@dataclass(frozen=True)
class _Inequality:
    """A polynomial that is at least 0, or above 0 where strict."""

    terms: Polynomial
    strict: bool = False


@dataclass(frozen=True)
class _Quotient:
    """A side as a quotient of polynomials, and what holds where it is the side's value."""

    over: Polynomial
    under: Polynomial
    """The product of all that is divided by: 0 exactly where the side divides by 0 somewhere."""
    where: tuple[_Inequality, ...] = ()


def certainty(condition: Condition) -> Certainty | None:
    """Find out that a condition can only pass or can only fail; None where it can do both, or nothing is proved.

    A division by zero is a fail, as in the verdict.
    """
    seen = set(_tried(condition))
    if len(seen) == 2:
        return None
    try:
        margins = list(_quotients(_margin(condition)))
        if seen == {True} and not any(_possible(m, condition.strict, fails=True) for m in margins):
            return "pass"
        if seen == {False} and not any(_possible(m, condition.strict, fails=False) for m in margins):
            return "fail"
    except _TooLargeError:
        pass
    return None


def cancels(condition: Condition) -> bool:
    """Tell whether the quantities of a condition drop out of it, as those of ``a - b >= a - b`` do."""
    try:
        return all(_is_number(q.over, q.under) for q in _quotients(_margin(condition)))
    except _TooLargeError:
        return False


def _is_number(*polynomials: Polynomial) -> bool:
    return not any(monomial for polynomial in polynomials for monomial in polynomial)


def _apart(quantity: Quantity) -> Iterator[Quantity]:
    """The shares that come to 1 at most together with this one."""
    known = _APART.get("score" if quantity.is_score else quantity.measure, ())
    return (Quantity(measure, quantity.stage) for measure in known)


def _margin(condition: Condition) -> Node:
    sides = (condition.left, condition.right) if condition.upward else (condition.right, condition.left)
    return Operation("-", *sides)


# --- What a few measurements show ------------------------------------------------------------------------------------


def _tried(condition: Condition) -> Iterator[bool]:
    """Whether the condition holds, for measurements at the ends of what there can be."""
    named = condition.quantities

    def scene(large: Callable[[Quantity], bool]) -> bool:
        values: dict[Quantity, Fraction] = {}
        for quantity in named:
            most = Fraction(1) if quantity.share else _LARGE
            possible = large(quantity) and not any(values.get(other) for other in _apart(quantity))
            values[quantity] = most if possible else Fraction(0)
        try:
            margin = exact_value(_margin(condition), values.__getitem__)
        except ZeroDivisionError:
            return False
        return margin > 0 if condition.strict else margin >= 0

    yield scene(lambda quantity: False)
    yield scene(lambda quantity: True)
    for one in named:
        yield scene(lambda quantity, one=one: quantity == one)  # type: ignore[misc]
        yield scene(lambda quantity, one=one: quantity != one)  # type: ignore[misc]


# --- From a side to quotients of polynomials -------------------------------------------------------------------------


def _quotients(node: Node) -> Iterator[_Quotient]:
    """The values a side can have, one for each way to choose the arguments of its ``min()`` and ``max()``."""
    ways = 0
    for ways, quotient in enumerate(_each_choice(node), 1):
        if ways > _MAX_CHOICES:
            raise _TooLargeError
        yield quotient


def _each_choice(node: Node) -> Iterator[_Quotient]:
    match node:
        case Quantity():
            yield _Quotient({(node,): Fraction(1)}, _ONE)
        case Number(value):
            yield _Quotient({(): value} if value else {}, _ONE)
        case Negative(operand):
            for q in _each_choice(operand):
                yield _Quotient(_times(q.over, {(): Fraction(-1)}), q.under, q.where)
        case Operation(operator, left, right):
            for a, b in product(*(list(_quotients(side)) for side in (left, right))):
                yield _combined(operator, a, b)
        case Extreme(name, arguments):
            for values in product(*(list(_quotients(argument)) for argument in arguments)):
                for chosen in values:
                    yield _chosen(name, chosen, [other for other in values if other is not chosen])


def _combined(operator: str, a: _Quotient, b: _Quotient) -> _Quotient:
    where = a.where + b.where
    if operator == "*":
        return _Quotient(_times(a.over, b.over), _times(a.under, b.under), where)
    if operator == "/":
        return _Quotient(_times(a.over, b.under, b.under), _times(a.under, b.over, b.under), where)
    sign = Fraction(1 if operator == "+" else -1)
    if a.under == b.under == _ONE:
        return _Quotient(_sum(a.over, b.over, sign), _ONE, where)
    over = _sum(_times(a.over, b.under), _times(b.over, a.under), sign)
    return _Quotient(over, _times(a.under, b.under), where)


def _chosen(name: str, chosen: _Quotient, others: list[_Quotient]) -> _Quotient:
    """One argument of a ``min()`` or ``max()``, with what holds where it is the one: as far as nothing is divided."""
    under = _times(chosen.under, *(other.under for other in others))
    over = _times(chosen.over, *(other.under for other in others))
    where = tuple(constraint for quotient in (chosen, *others) for constraint in quotient.where)
    sign = Fraction(1 if name == "max" else -1)
    if under and _is_number(under):
        where += tuple(
            _Inequality(_sum(_times(chosen.over, {(): sign / chosen.under[()]}), other.over, -sign / other.under[()]))
            for other in others
        )
    return _Quotient(over, under, where)


def _sum(a: Polynomial, b: Polynomial, factor: Fraction) -> Polynomial:
    """``a + factor * b``, without terms that cancel."""
    terms = {m: a.get(m, Fraction(0)) + factor * b.get(m, Fraction(0)) for m in {**a, **b}}
    return {monomial: k for monomial, k in terms.items() if k}


def _times(*factors: Polynomial) -> Polynomial:
    result = _ONE
    for factor in factors:
        terms: Polynomial = {}
        for (m, k), (n, j) in product(result.items(), factor.items()):
            monomial = tuple(sorted(m + n))
            terms[monomial] = terms.get(monomial, Fraction(0)) + k * j
        result = {monomial: k for monomial, k in terms.items() if k}
        if len(result) > _MAX_TERMS:
            raise _TooLargeError
    return result


# --- Is there anything that can be measured, so that ...? ------------------------------------------------------------


def _possible(margin: _Quotient, strict: bool, *, fails: bool) -> bool:
    """False where it is proved that no measurement makes a margin fail; with ``fails=False``, that none makes it hold.

    Args:
        margin: The larger side of the gate minus the smaller one.
        strict: Equality is not enough to hold.
        fails: What is asked for.
    """
    minus = Fraction(-1)
    systems: list[tuple[_Inequality, ...]] = []
    if fails:
        systems.append((_Inequality(margin.under), _Inequality(_scaled(margin.under, minus))))
    for sign in (Fraction(1), minus):
        over = _scaled(margin.over, -sign if fails else sign)
        systems.append((_Inequality(_scaled(margin.under, sign), strict=True), _Inequality(over, fails != strict)))
    return any(not _contradictory([*system, *margin.where]) for system in systems)


def _scaled(polynomial: Polynomial, factor: Fraction) -> Polynomial:
    return {monomial: k * factor for monomial, k in polynomial.items()}


def _facts(named: Iterable[Monomial]) -> Iterator[_Inequality]:
    """What is known of products of quantities: those named, and those within them."""
    waiting, known = list(named), set[Monomial]()
    while waiting:
        monomial = waiting.pop()
        if monomial in known or not monomial:
            continue
        known.add(monomial)
        yield _Inequality({monomial: Fraction(1)})
        for index, factor in enumerate(monomial):
            rest = monomial[:index] + monomial[index + 1 :]
            if not factor.share:
                continue
            yield _Inequality({rest: Fraction(1), monomial: Fraction(-1)})  # x * y <= y where x <= 1
            waiting.append(rest)
            if rest and all(other.share for other in rest):  # (1 - x) * (1 - y) >= 0
                facts = _sum(_sum(_ONE, {(factor,): Fraction(1)}, Fraction(-1)), {rest: Fraction(1)}, Fraction(-1))
                yield _Inequality(_sum(facts, {monomial: Fraction(1)}, Fraction(1)))
                waiting.append((factor,))
    singles = sorted(monomial[0] for monomial in known if len(monomial) == 1)
    for quantity in singles:
        for other in _apart(quantity):
            if quantity < other and (other,) in known:
                yield _Inequality({(): Fraction(1), (quantity,): Fraction(-1), (other,): Fraction(-1)})


def _contradictory(system: list[_Inequality]) -> bool:
    """True where a system, with all that is known of its quantities, is proved to have no solution."""
    facts = _facts(chain.from_iterable(inequality.terms for inequality in system))
    rows: list[_Inequality] | None = _tightest([*system, *facts])
    most = min(len(rows or ()) + _MAX_GROWTH, _MAX_INEQUALITIES)
    while rows:
        if len(rows) > most:
            raise _TooLargeError
        names = {monomial for row in rows for monomial in row.terms if monomial}
        if not names:
            return False
        name, below, above = min(
            ((name, *_bounds_of(name, rows)) for name in sorted(names)), key=lambda found: len(found[1]) * len(found[2])
        )
        kept = [row for row in rows if name not in row.terms]
        rows = _tightest([*kept, *(_without(name, low, high) for low, high in product(below, above))])
    return rows is None


def _bounds_of(name: Monomial, rows: list[_Inequality]) -> tuple[list[_Inequality], list[_Inequality]]:
    """The inequalities that bound a product of quantities from below, and those that do from above."""
    with_name = [row for row in rows if name in row.terms]
    return [row for row in with_name if row.terms[name] > 0], [row for row in with_name if row.terms[name] < 0]


def _without(name: Monomial, low: _Inequality, high: _Inequality) -> _Inequality:
    """What follows from two inequalities without a name that one bounds from below and the other from above."""
    factor = -low.terms[name] / high.terms[name]
    return _Inequality(_sum(low.terms, high.terms, factor), low.strict or high.strict)


def _tightest(system: list[_Inequality]) -> list[_Inequality] | None:
    """Of inequalities that differ in their constant only, the tightest; None where one cannot be."""
    tightest: dict[frozenset[tuple[Monomial, Fraction]], tuple[Fraction, bool]] = {}
    for inequality in system:
        constant = inequality.terms.get((), Fraction(0))
        names = sorted(monomial for monomial in inequality.terms if monomial)
        if not names:
            if constant < 0 or (inequality.strict and not constant):
                return None
            continue
        scale = abs(inequality.terms[names[0]])
        key = frozenset((name, inequality.terms[name] / scale) for name in names)
        found = (constant / scale, not inequality.strict)
        tightest[key] = min(found, tightest.get(key, found))
    return [
        _Inequality({**dict(key), **({(): constant} if constant else {})}, not lax)
        for key, (constant, lax) in tightest.items()
    ]
