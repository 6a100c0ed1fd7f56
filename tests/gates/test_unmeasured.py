"""Errors count against the claim of a relation; copies of one example are one observation."""

from __future__ import annotations

import pytest

from pytest_dspy_ft.statistics.scores import paired_difference_interval, score_interval
from tests.gates.cases import result, share, sure, verdict

LOST = {18: "error", 19: "error"}
"""Two of 20 examples that could not be measured."""


@pytest.mark.parametrize(
    ("expression", "passes"),
    [
        ("a >= b", False),
        ("b <= a", False),
        ("a - b >= 0", False),
        ("a / b >= 1", False),
        ("a >= 100% * b", False),
        ("a >= max(b, c)", False),
        ("2 * a >= b + a", False),
        ("b >= a", False),  # on the side that it wants large they are wrong answers
        ("a >= b - 10%", True),
        ("c + b >= b + 10%", True),  # b cancels
    ],
)
def test_errors_of_one_side_do_not_flatter_a_relation(expression: str, passes: bool) -> None:
    """``a`` has 17 of 20 right, ``b`` 16 of the 18 that could be measured."""
    a, b, c = result("a", share(17, 20)), result("b", share(16, 20), outcomes=LOST), result("c", share(2, 20))
    assert verdict(expression, a=a, b=b, c=c).passed is passes


def test_the_message_says_so() -> None:
    record = verdict("a >= b", a=share(17, 20), b=result("b", share(16, 20), outcomes=LOST))
    assert "errors count against the gate: those of b as right, so b is 90.0% here, not 80.0%" in record.message
    assert record.observed == "-5.0 pts"


def test_unparsed_and_costs_of_what_failed() -> None:
    cheap = result("a", share(15, 20), outcomes=LOST, cost=0.001)
    free = [e.model_copy(update={"usage": e.usage.model_copy(update={"cost": 0.0})}) for e in cheap.examples[18:]]
    a = cheap.model_copy(update={"examples": (*cheap.examples[:18], *free)})
    b = result("b", share(15, 20), cost=0.00095)
    assert not verdict("cost(a) <= cost(b)", a=a, b=b).passed
    assert verdict("cost(b) <= cost(a)", a=a, b=b).passed is False  # b is not cheaper than what a is known to take
    assert not verdict("unparsed(a) <= unparsed(b) + 5%", a=a, b=b).passed
    assert verdict("errors(a) <= 10%", a=a).passed


def test_copies_are_one_observation() -> None:
    ids = [f"ex{i % 10}" for i in range(200)]
    scores = share(9, 10) * 20
    copied, single = result("a", scores, ids=ids), result("a", share(9, 10))
    assert sure("a >= 70%", a=copied).interval == sure("a >= 70%", a=single).interval
    assert sure("a >= 70%", a=copied).verdict == "UNDECIDED"
    assert sure("a >= 70%", a=result("a", scores)).verdict == "PASS"
    assert "n = 200, 10 of them different" in sure("a >= 70%", a=copied).message
    assert copied.interval == single.interval
    assert copied.score == single.score


def test_costs_count_different_examples() -> None:
    copied = result("a", share(9, 10) * 20, ids=[f"ex{i % 10}" for i in range(200)])
    assert sure("cost(a) <= 1", a=copied).interval is None


def test_one_example_copied_often_decides_nothing() -> None:
    """30 different examples, 12 of them right; one of these stands in the split 100 times."""
    ids = [*["ex0"] * 99, *[f"ex{i}" for i in range(30)]]
    a = result("a", [1.0] * 99 + share(12, 30), ids=ids)
    assert a.score > 0.85
    for gate in ("a >= 60%", "a <= 60%"):
        record = sure(gate, a=a)
        assert record.verdict == "UNDECIDED"
    low, high = a.interval
    assert low < 0.3
    assert high > a.score


def test_copies_in_paired_differences() -> None:
    before, after = share(0, 40), share(10, 40)
    ids = [f"ex{i // 2}" for i in range(40)]
    assert paired_difference_interval(before, after, ids=ids) == paired_difference_interval(before[::2], after[::2])
    assert score_interval(after, ids=ids) == score_interval(after[::2])
