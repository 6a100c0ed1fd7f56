"""PASS, FAIL and UNDECIDED."""

from __future__ import annotations

import json

import pytest

from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.verdict import judge
from pytest_dspy_ft.records.gate import VerdictRecord
from tests.gates.cases import result, share, sure, verdict


class TestExactness:
    def test_thirds(self):
        assert verdict("a >= b", a=share(1, 3), b=[0.0, 1.0, 0.0]).verdict == "PASS"
        assert verdict("a > b", a=share(1, 3), b=[0.0, 1.0, 0.0]).verdict == "FAIL"

    @pytest.mark.parametrize("expression", ["a >= 80%", "a >= 0.8", "a >= 70% + 10%", "a >= b + 10%", "80% <= a"])
    def test_ties_pass(self, expression):
        record = verdict(expression, a=share(8, 10), b=share(7, 10))
        assert record.verdict == "PASS"
        assert record.margin == 0.0

    def test_strict_ties_fail(self):
        assert verdict("a > 80%", a=share(8, 10)).verdict == "FAIL"
        assert verdict("a < 80%", a=share(8, 10)).verdict == "FAIL"
        assert verdict("a <= 80%", a=share(8, 10)).verdict == "PASS"

    def test_no_rounding_error_where_all_is_counted(self):
        assert verdict("a >= 80.0000000000001%", a=share(8, 10)).verdict == "FAIL"

    def test_float_scores_tie_with_decimals(self):
        """0.3 is a hair below 3/10 in binary; three graded scores of 1/3 add up to a hair below 1."""
        assert verdict("a >= 30%", a=[0.3] * 7).verdict == "PASS"
        assert verdict("a > 30%", a=[0.3] * 7).verdict == "FAIL"
        assert verdict("a >= b", a=[1 / 3] * 3, b=share(1, 3)).verdict == "PASS"
        assert verdict("a - b >= 0.2", a=[0.7] * 3, b=[0.5] * 3).verdict == "PASS"
        assert verdict("a >= 30.00001%", a=[0.3] * 7).verdict == "FAIL"
        assert verdict("bootstrap_rate(a) >= 60%", rates={"a": 0.6}).verdict == "PASS"
        assert verdict(
            "cost(a) <= cost(b) / 15", a=result("a", [1] * 9, cost=1e-4), b=result("b", [1] * 9, cost=1.5e-3)
        ).passed

    def test_errors_and_unparsed_stay_in_the_denominator(self):
        a = result("a", [1, 1, 0, 0], outcomes={2: "unparsed", 3: "error"})
        assert verdict("a >= 50%", a=a).verdict == "PASS"
        assert verdict("a >= 51%", a=a).verdict == "FAIL"
        assert verdict("errors(a) <= 25%", a=a).verdict == "PASS"
        assert verdict("unparsed(a) < 25%", a=a).verdict == "FAIL"


class TestVerdicts:
    def test_three_verdicts(self):
        assert sure("a >= 70%", a=share(90, 100)).verdict == "PASS"
        assert sure("a >= 85%", a=share(90, 100)).verdict == "UNDECIDED"
        assert sure("a >= 97%", a=share(90, 100)).verdict == "FAIL"
        assert sure("a <= 97%", a=share(90, 100)).verdict == "PASS"
        assert sure("a <= 70%", a=share(90, 100)).verdict == "FAIL"

    def test_strictness_at_the_edge(self):
        free = result("a", share(3, 9), cost=0.0)
        assert sure("cost(a) <= 0", a=free).verdict == "PASS"
        assert sure("cost(a) < 0.0001", a=free).verdict == "PASS"
        assert sure("cost(a) > 0", a=free).verdict == "FAIL"

    @pytest.mark.parametrize(("undecided", "passed"), [("fail", False), ("pass", True), ("warn", True)])
    def test_undecided(self, undecided, passed):
        gate = Gate.parse("a >= 85%", confidence=0.95, undecided=undecided)
        record = judge(gate, {"a": result("a", share(90, 100))})
        assert (record.verdict, record.passed, record.undecided) == ("UNDECIDED", passed, undecided)

    def test_undecided_never_saves_a_fail(self):
        gate = Gate.parse("a >= 97%", confidence=0.95, undecided="pass")
        assert not judge(gate, {"a": result("a", share(50, 100))}).passed

    def test_records_survive_json(self):
        for record in (sure("a >= 85%", a=share(9, 10)), verdict("a / b >= 2", a=share(1, 2), b=share(0, 2))):
            assert VerdictRecord.model_validate_json(record.model_dump_json()) == record
            json.loads(record.model_dump_json(), parse_constant=pytest.fail)
