"""The observed value of a gate, as text."""

from __future__ import annotations

import pytest

from tests.gates.cases import result, share, verdict


class TestObserved:
    @pytest.mark.parametrize(
        ("expression", "observed"),
        [
            # a side is a plain number: the other side
            ("a >= 88%", "88.3%"),
            ("88% <= a", "88.3%"),
            ("a - b >= 10%", "+33.3 pts"),
            ("b - a >= 10%", "-33.3 pts"),
            ("a / b >= 2", "1.61x"),
            ("(a + b) / 2 >= 50%", "71.7%"),
            # a side is something times a number: the ratio
            ("a >= 93% * b", "1.61x"),
            ("a >= b * 2", "1.61x"),
            ("a >= b / 2", "1.61x"),
            ("b >= 93% * a", "0.62x"),
            ("cost(b) <= cost(a) / 15", "0.041x"),
            # otherwise: the difference
            ("a >= b", "+33.3 pts"),
            ("a >= b + 10%", "+33.3 pts"),
            ("a >= 10% + b", "+33.3 pts"),
            ("a >= b - 10%", "+33.3 pts"),
            ("a >= max(b, c) + 10%", "+21.7 pts"),
            ("b <= a", "-33.3 pts"),
            ("cost(b) <= cost(a)", "-$0.0012"),
            ("tokens(a) <= tokens(b)", "+112 tokens"),
            ("latency(a) <= latency(b)", "+1.5 s"),
            ("unparsed(a) <= errors(b)", "+0.0 pts"),
        ],
    )
    def test_rule(self, expression, observed):
        a = result("a", share(53, 60), input_tokens=212, cost=0.00122, seconds=2.0)
        b = result("b", share(33, 60), cost=0.00005)
        assert verdict(expression, a=a, b=b, c=share(40, 60)).observed == observed

    def test_ratio_to_nothing_is_a_difference(self):
        assert verdict("a >= 93% * b", a=share(1, 2), b=share(0, 2)).observed == "+50.0 pts"

    def test_never_rounds_onto_the_other_side(self):
        assert verdict("a >= 88%", a=share(8796, 10000)).observed == "87.96%"
        assert verdict("a >= b + 1%", a=share(10999, 20000), b=share(10800, 20000)).observed == "+0.995 pts"
        assert verdict("a < 88%", a=share(8796, 10000)).observed == "87.96%"
