"""The interval of a gate's margin."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.statistics.bootstrap import margin_interval
from tests.gates.cases import result, share, sure


class TestIntervals:
    def test_single_share_is_exact(self):
        record = sure("a >= 70%", a=share(8, 10))
        assert record.interval == pytest.approx((0.4439 - 0.7, 0.9748 - 0.7), abs=1e-4)
        assert sure("70% >= 2 * a - a", a=share(8, 10)).interval == pytest.approx(
            (0.7 - 0.9748, 0.7 - 0.4439), abs=1e-4
        )
        a = result("a", share(9, 10), outcomes={9: "error"})
        assert sure("errors(a) <= 50%", a=a).interval == pytest.approx((0.5 - 0.4450, 0.5 - 0.0025), abs=1e-4)

    def test_paired_difference_is_tango(self):
        before = [0.0] * 1 + [1.0] * 7 + [1.0] * 1 + [0.0] * 12
        after = [1.0] * 1 + [0.0] * 7 + [1.0] * 1 + [0.0] * 12
        for expression in ("a >= b", "b <= a", "a - b >= 0", "0 <= a - b"):
            record = sure(expression, a=after, b=before)
            assert record.verdict == "FAIL"
            assert record.interval == pytest.approx((-0.528, -0.011), abs=6e-4)
        assert sure("a >= b - 60%", a=after, b=before).interval == pytest.approx((0.072, 0.589), abs=6e-4)

    def test_pairing_decides_what_single_intervals_cannot(self):
        """84 and 92 of 100: unpaired they cannot be told apart, paired they can."""
        before, after = share(84, 100), share(92, 100)
        assert sure("a > b", a=after, b=before).verdict == "PASS"
        assert sure("a >= 84%", a=after).verdict == "PASS"
        assert sure("b < 88%", b=before).verdict == "UNDECIDED"

    def test_identical_scores_are_not_certain(self):
        same = share(40, 60)
        assert sure("a >= b", a=same, b=same).verdict == "UNDECIDED"
        assert sure("a >= 93% * b", a=share(5, 5), b=share(5, 5)).verdict == "UNDECIDED"
        assert sure("a >= max(b, c)", a=same, b=same, c=same).verdict == "UNDECIDED"
        assert sure("a >= 99%", a=share(10, 10)).verdict == "UNDECIDED"
        assert sure("a >= b - 10%", a=same, b=same).verdict == "PASS"

    @pytest.mark.parametrize("graded", [True, False])
    @pytest.mark.parametrize(
        ("expression", "plain"),
        [
            ("a - b >= c - b", "a >= c"),
            ("a + b >= b + c", "a >= c"),
            ("a - b >= c - b + d - d", "a >= c"),
            ("a + b - a >= c", "b >= c"),
            ("a - a + b >= 40%", "b >= 40%"),
            ("a * 1 >= 40%", "a >= 40%"),
            ("0 * a + b >= 40%", "b >= 40%"),
            ("a * (b - b) + c >= 40%", "c >= 40%"),
            ("(a + b) / 2 - b / 2 >= 20%", "a / 2 >= 20%"),
            ("max(a, b) - b >= c - b", "max(a, b) >= c"),
            ("min(a - b, c - b) >= d - b", "min(a, c) >= d"),
            ("max(a, a) >= c", "a >= c"),
            ("a + errors(b) >= c + errors(b)", "a >= c"),
            ("cost(a) + cost(b) <= cost(b) + cost(c)", "cost(a) <= cost(c)"),
            ("tokens(a) - latency(b) * 0 * tokens(b) / latency(c) <= 50", None),
            ("a - bootstrap_rate(b) >= c - bootstrap_rate(b)", "a >= c"),
            ("a + bootstrap_rate(b) >= c + bootstrap_rate(b)", "a >= c"),
            ("b + bootstrap_rate(a) >= bootstrap_rate(c) + b", "bootstrap_rate(a) >= bootstrap_rate(c)"),
        ],
    )
    def test_what_cancels_plays_no_part(self, expression, plain, graded):
        draw = random.Random(5)
        scores = {name: [draw.random() if graded else float(draw.random() < 0.6) for _ in range(40)] for name in "abcd"}
        rates = {"a": 0.5, "b": 0.6, "c": 0.7}

        def judged(expression, confidence):
            stages = {name: scores[name] for name in Gate.parse(expression).stages}
            return sure(expression, confidence, rates=rates, **stages)

        for confidence in (None, 0.95):
            found = judged(expression, confidence)
            if plain is None:
                assert found.verdict == "FAIL"
                continue
            expected = judged(plain, confidence)
            assert found.verdict == expected.verdict
            assert found.margin == pytest.approx(expected.margin)
            if expected.interval is not None:
                assert found.interval == pytest.approx(expected.interval, abs=0.01)

    @pytest.mark.parametrize(
        "expression",
        [
            "a >= 93% * b",
            "a >= max(b, c) + 10%",
            "a / b >= 1.2",
            "a * c >= b",
            "min(a, b) >= 40%",
            "(a - b) / (1 - b) > c",
        ],
    )
    def test_any_expression_has_one(self, expression):
        draw = random.Random(3)
        stages = {
            name: [float(draw.random() < p) for _ in range(80)] for name, p in (("a", 0.9), ("b", 0.7), ("c", 0.5))
        }
        record = sure(expression, **stages)
        assert record.interval is not None
        assert record.interval[0] <= record.margin <= record.interval[1]
        assert record.interval[0] < record.interval[1]
        assert record == sure(expression, **stages), "one seed, one verdict"
        assert sure(expression, seed=1, **stages).interval == pytest.approx(record.interval, rel=0.1, abs=0.02)

    def test_graded_scores(self):
        draw = random.Random(5)
        before = [draw.random() * 0.8 for _ in range(100)]
        after = [min(1.0, x + 0.1 * draw.random()) for x in before]
        assert sure("a > b", a=after, b=before).verdict == "PASS"
        assert sure("a >= b + 10%", a=after, b=before).verdict == "FAIL"

    def test_costs(self):
        a, b = (result(name, share(5, 60), cost=cost) for name, cost in (("a", 1e-5), ("b", 1e-3)))
        assert sure("cost(a) <= cost(b) / 15", a=a, b=b).passed
        assert sure("cost(a) <= cost(b) / 30", a=a, b=b).verdict == "UNDECIDED"
        assert sure("cost(a) <= cost(b) / 101", a=a, b=b, seed=1).verdict != "PASS"
        assert sure("tokens(a) >= 80", a=a).verdict == "PASS"

    def test_too_few_examples_for_costs(self):
        few = {name: result(name, share(5, 10), cost=cost) for name, cost in (("a", 1e-6), ("b", 1e-3))}
        record = sure("cost(a) <= cost(b) / 15", **few)
        assert (record.verdict, record.interval) == ("UNDECIDED", None)
        assert "costs, tokens and latency need at least 20 different examples" in record.message
        free = result("a", share(5, 10), cost=0.0)
        assert sure("cost(a) <= 0.001", a=free).verdict == "PASS"

    def test_one_example(self):
        assert sure("a >= 50%", a=[1.0]).verdict == "UNDECIDED"
        assert sure("a >= 50%", a=[0.7]).verdict == "UNDECIDED"
        record = sure("tokens(a) <= 500", a=[1.0])
        assert (record.verdict, record.interval) == ("UNDECIDED", None)

    def test_large_samples(self):
        draw = random.Random(0)
        stages = {name: result(name, [float(draw.random() < 0.8) for _ in range(5000)]) for name in "abcde"}
        record = sure("a >= max(b, c) * d / e", **stages)
        assert record.interval is not None


def test_coverage_of_an_unsmooth_gate():
    """``a >= max(b, c)`` with b and c equally good, where a resampled maximum is biased."""
    generator = np.random.default_rng(4)
    held, runs = 0, 300
    for _ in range(runs):
        luck = generator.random((60, 1)) * 0.5 + generator.random((60, 3)) * 0.5
        scores = (luck < np.array([0.7, 0.6, 0.6])).astype(float)
        truth = 0.82 - 0.68  # P(u + v < 2p) for two uniforms
        low, high = margin_interval(scores, lambda m: m[:, 0] - np.maximum(m[:, 1], m[:, 2]), resamples=2000)
        held += low <= truth <= high
    assert held / runs > 0.95 - 4 * (0.95 * 0.05 / runs) ** 0.5
