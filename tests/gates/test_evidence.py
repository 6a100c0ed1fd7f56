"""What was measured of the stages in a gate, and which examples are compared."""

from __future__ import annotations

import pytest

from pytest_dspy_ft.errors import GateError
from tests.gates.cases import result, share, sure, verdict


class TestMeasures:
    def test_each(self):
        a = result("a", share(3, 4), input_tokens=212, cost=0.0012, seconds=1.25)
        assert verdict("cost(a) <= 0.0012", a=a).observed == "$0.0012"
        assert verdict("tokens(a) <= 300", a=a).observed == "212 tokens"
        assert verdict("latency(a) <= 2", a=a).observed == "1.2 s"

    def test_unknown_price(self):
        with pytest.raises(GateError, match="no known price"):
            verdict("cost(a) <= 1", a=result("a", [1.0], cost=None))

    @pytest.mark.parametrize("measure", ["cost", "tokens", "latency"])
    def test_cached_answers_are_not_measured(self, measure):
        with pytest.raises(GateError, match="response cache"):
            verdict(f"{measure}(a) <= 1", a=result("a", [1.0], cached_calls=1))

    def test_bootstrap_rate(self):
        assert verdict("bootstrap_rate(a) >= 60%", rates={"a": 0.43}).verdict == "FAIL"
        record = sure("bootstrap_rate(a) >= 60%", rates={"a": 0.61})
        assert (record.verdict, record.interval, record.observed) == ("PASS", None, "61.0%")

    @pytest.mark.parametrize("rates", [None, {}, {"a": None}])
    def test_no_bootstrap_rate(self, rates):
        with pytest.raises(GateError, match="fine-tuned"):
            verdict("bootstrap_rate(a) >= 60%", rates=rates)

    def test_division_by_zero_never_passes(self):
        for expression in ("a / b >= 2", "a / b <= 2", "a / b < 2", "a >= b / b"):
            for confidence in (None, 0.95):
                record = sure(expression, confidence, a=share(3, 4), b=share(0, 4))
                assert record.verdict == "FAIL"
                assert not record.passed
                assert record.margin < 0
                assert record.observed == "division by zero"
                assert "multiply instead of dividing" in record.message


class TestPairing:
    def test_by_id_not_by_position(self):
        a = result("a", [1, 0, 1, 0], ids=["p", "q", "r", "s"])
        b = result("b", [0, 1, 0, 1], ids=["s", "r", "q", "p"])
        assert "0 fixed, 0 broke" in verdict("a >= b", a=a, b=b).message

    def test_different_examples(self):
        a = result("a", [1, 0, 1], ids=["p", "q", "r"])
        b = result("b", [0, 1], ids=["p", "x"])
        with pytest.raises(GateError) as error:
            verdict("a >= b", a=a, b=b)
        assert "2 only in `a` (q, r)" in str(error.value)
        assert "1 only in `b` (x)" in str(error.value)

    def test_repeated_examples(self):
        a = result("a", [1, 0, 1], ids=["p", "p", "q"])
        assert verdict("a >= b - 40%", a=a, b=result("b", [1, 1, 1], ids=["p", "q", "p"])).verdict == "PASS"
        with pytest.raises(GateError, match="not evaluated on the same examples"):
            verdict("a >= b", a=a, b=result("b", [1, 1, 1], ids=["p", "q", "q"]))

    def test_absurd_numbers(self):
        expression = "a >= " + " * ".join(["1e15"] + ["a * 1e15"] * 20)
        with pytest.raises(GateError, match="too large"):
            verdict(expression, a=[1.0, 0.0])

    def test_missing_result(self):
        with pytest.raises(GateError, match="`b` has not been evaluated on dev"):
            verdict("a >= b", a=[1.0])

    def test_other_split(self):
        with pytest.raises(GateError, match="is on test"):
            verdict("a >= 50%", a=result("a", [1.0], on="test"))

    def test_no_examples(self):
        with pytest.raises(GateError, match="no examples"):
            verdict("a >= 1%", a=[])
