"""What is claimed of a gate, that it can only pass or fail, against measurements drawn at random."""

from __future__ import annotations

import random
import time
from collections import Counter
from fractions import Fraction
from itertools import product

import pytest

from pytest_dspy_ft.gates.expression import (
    PURE,
    Condition,
    Extreme,
    Negative,
    Node,
    Number,
    Operation,
    Quantity,
    affine,
    exact_value,
)
from pytest_dspy_ft.gates.ranges import certainty

MEASURES = ["score"] * 4 + ["unparsed", "errors", "bootstrap_rate", "cost", "tokens"]
COMPARISONS = (">=", ">", "<=", "<")


def condition(left: Node, comparison: str, right: Node) -> Condition:
    return Condition("", comparison, left, right, PURE, True, {})  # type: ignore[arg-type]


def side(draw: random.Random, depth: int, measures: list[str], operators: str = "+-*/") -> Node:
    kind = draw.choice(["operation", "operation", "extreme", "negative", "leaf"]) if depth else "leaf"
    if kind == "operation":
        return Operation(
            draw.choice(operators),
            side(draw, depth - 1, measures, operators),
            side(draw, depth - 1, measures, operators),
        )
    if kind == "extreme" and "x" not in operators:
        count = draw.randrange(1, 4)
        return Extreme(
            draw.choice(["min", "max"]), tuple(side(draw, depth - 1, measures, operators) for _ in range(count))
        )
    if kind == "negative":
        return Negative(side(draw, depth - 1, measures, operators))
    if draw.random() < 0.25:
        return Number(Fraction(draw.choice([0, 1, 2, -1, 5, 10, 50, 100]), draw.choice([1, 1, 10, 100])))
    return Quantity(draw.choice(measures), draw.choice("abc"))


def measurements(draw: random.Random, named: tuple[Quantity, ...]) -> dict[Quantity, Fraction]:
    """What could be measured: a stage's unparsed replies score 0 and are no errors."""
    ends = draw.random() < 0.5

    def share() -> Fraction:
        return Fraction(draw.randrange(2) if ends else draw.randrange(101), 1 if ends else 100)

    values = {}
    for quantity in named:
        large = Fraction(draw.choice([0, 1, 1000, 10**8]))
        values[quantity] = share() if quantity.share else large * Fraction(draw.randrange(1, 100), 10)
    for quantity in named:
        unread = values.get(Quantity("unparsed", quantity.stage), Fraction(0))
        if quantity.measure in ("score", "errors"):
            values[quantity] = min(values[quantity], 1 - unread)
    return values


def holds(gate: Condition, values: dict[Quantity, Fraction]) -> bool:
    try:
        left, right = (exact_value(s, values.__getitem__) for s in (gate.left, gate.right))
    except ZeroDivisionError:
        return False
    return {">=": left >= right, ">": left > right, "<=": left <= right, "<": left < right}[gate.comparison]


def test_nothing_false_is_claimed() -> None:
    draw = random.Random(3)
    claims: Counter[str | None] = Counter()
    for _ in range(2500):
        left, right = (side(draw, draw.randrange(4), MEASURES) for _ in range(2))
        gate = condition(left, draw.choice(COMPARISONS), right)
        if not gate.quantities:
            continue
        claim = certainty(gate)
        claims[claim] += 1
        if claim is not None:
            for _ in range(60):
                values = measurements(draw, gate.quantities)
                assert holds(gate, values) == (claim == "pass"), (claim, gate, values)
    assert claims["pass"] > 150
    assert claims["fail"] > 150
    assert claims[None] > 500


def test_nothing_is_missed_in_sums() -> None:
    """A weighted sum is least and largest at the corners of what there can be, so those tell all."""
    draw = random.Random(4)
    claims: Counter[str | None] = Counter()
    for _ in range(1500):
        left, right = (side(draw, draw.randrange(4), ["score", "bootstrap_rate", "cost"], "+-") for _ in range(2))
        gate = condition(left, draw.choice(COMPARISONS), right)
        if not gate.quantities or affine(Operation("-", left, right)) is None:
            continue
        named = gate.quantities
        ends = [(Fraction(0), Fraction(1) if q.share else Fraction(10**6)) for q in named]
        seen = {holds(gate, dict(zip(named, corner, strict=True))) for corner in product(*ends)}
        expected = None if len(seen) == 2 else "pass" if seen == {True} else "fail"
        assert certainty(gate) == expected, gate
        claims[expected] += 1
    assert min(claims["pass"], claims["fail"], claims[None]) > 100


@pytest.mark.parametrize("count", [2, 20, 50])
def test_large_gates_are_looked_at_quickly(count: int) -> None:
    stages: list[Node] = [Quantity("score", f"s{i}") for i in range(count)]
    total = stages[0]
    for stage in stages[1:]:
        total = Operation("+", total, stage)
    started = time.perf_counter()
    assert certainty(condition(total, ">=", stages[-1])) == "pass"
    assert certainty(condition(stages[0], ">=", total)) is None
    certainty(condition(Operation("*", total, total), ">=", Number(Fraction(0))))
    certainty(condition(Extreme("max", tuple(stages)), ">=", stages[-1]))
    assert time.perf_counter() - started < 5
