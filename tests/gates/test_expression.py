"""Computing a side of a gate, exactly."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from fractions import Fraction

import pytest

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.expression import affine, exact_value
from pytest_dspy_ft.gates.gate import Gate


class TestArithmetic:
    """The parser against an oracle that is built alongside each random expression."""

    VALUES: Mapping[str, Fraction] = {
        "a": Fraction(1, 3),
        "b": Fraction(7, 11),
        "c": Fraction(0),
        "stage_4": Fraction(1),
        "é": Fraction(2, 7),
    }

    def build(self, draw: random.Random, depth: int) -> tuple[str, Callable[[], Fraction], int]:
        """(text, oracle, how tightly it binds: 1 sum, 2 product, 3 factor)."""
        kind = draw.choice(["name", "number", "percent"] + ["binary"] * 4 + ["minus", "call"]) if depth else "name"
        if kind == "name":
            name = draw.choice(list(self.VALUES))
            return name, lambda: self.VALUES[name], 3
        if kind in ("number", "percent"):
            digits = (
                draw.choice(["0", "1", "0.25", ".5", "1.", "0.1"]) if kind == "number" else f"{draw.randrange(200)}"
            )
            value = Fraction(digits.rstrip(".")) / (100 if kind == "percent" else 1)
            return digits + draw.choice(["%", " %"]) * (kind == "percent"), lambda: value, 3
        if kind == "minus":
            text, oracle, binds = self.build(draw, depth - 1)
            return f"-{text if binds == 3 else f'({text})'}", lambda: -oracle(), 3
        if kind == "call":
            name = draw.choice(["min", "max"])
            parts = [self.build(draw, depth - 1) for _ in range(draw.randrange(1, 4))]
            pick = min if name == "min" else max
            return f"{name}({', '.join(p[0] for p in parts)})", lambda: pick([p[1]() for p in parts]), 3
        left, right, operator = self.build(draw, depth - 1), self.build(draw, depth - 1), draw.choice("+-*/")
        binds = 1 if operator in "+-" else 2
        a = left[0] if left[2] >= binds else f"({left[0]})"
        b = right[0] if right[2] > binds else f"({right[0]})"
        blank = draw.choice(["", " "])
        compute = {
            "+": lambda: left[1]() + right[1](),
            "-": lambda: left[1]() - right[1](),
            "*": lambda: left[1]() * right[1](),
            "/": lambda: left[1]() / right[1](),
        }[operator]
        return f"{a}{blank}{operator}{blank}{b}", compute, binds

    def test_random_expressions(self):
        draw = random.Random(11)
        compared = divided = 0
        for _ in range(3000):
            text, oracle, _ = self.build(draw, draw.randrange(1, 5))
            try:
                condition = Gate.parse(f"{text} >= other / 2").condition
            except GateError as error:
                known = ("out of reach", "divides by zero", "can only", "one in a hundred")
                assert any(word in str(error) for word in known), text  # noqa: PT017
                continue
            try:
                expected = oracle()
            except ZeroDivisionError:
                divided += 1
                with pytest.raises(ZeroDivisionError):
                    exact_value(condition.left, lambda q: self.VALUES[q.stage])
                continue
            assert exact_value(condition.left, lambda q: self.VALUES[q.stage]) == expected, text
            compared += 1
            form = affine(condition.left)
            if form is not None:
                assert sum(k * self.VALUES[q.stage] for q, k in form[0].items()) + form[1] == expected, text
        assert compared > 1500
        assert divided > 20

    def test_precedence(self):
        values = {"a": Fraction(1, 2), "b": Fraction(1, 4), "c": Fraction(1, 8)}
        for text, expected in {
            "a - b - c": Fraction(1, 8),
            "a / b / c": Fraction(16),
            "a + b * c": Fraction(17, 32),
            "-a * b": Fraction(-1, 8),
            "a * -b": Fraction(-1, 8),
            "a - 50% * b": Fraction(3, 8),
        }.items():
            condition = Gate.parse(f"{text} >= other").condition
            assert exact_value(condition.left, lambda q: values[q.stage]) == expected
