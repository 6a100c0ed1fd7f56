"""A gate in slices: pooled where they are small, corrected for their number, and never passed by one alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks import slice_calibration
from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.sliced import SlicedGate
from pytest_dspy_ft.gates.slices import Slice, grouped_ids, pooled_slices, slices_too_few
from pytest_dspy_ft.gates.verdict import judge
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.gate import VerdictRecord
from tests.gates.cases import result, share


def parts(sizes: Sequence[int]) -> tuple[Slice, ...]:
    """Slices ``s0``, ``s1``, ... of so many examples of :func:`tests.gates.cases.result`, one after the other."""
    ends = np.cumsum([0, *sizes])
    return tuple(Slice(f"s{k}", tuple(f"ex{i}" for i in range(ends[k], ends[k + 1]))) for k in range(len(sizes)))


def sliced(
    expression: str,
    slices: Sequence[Slice],
    confidence: float | None = None,
    max_errors: float = 1.0,
    undecided: str = "fail",
    **stages: Any,
) -> VerdictRecord:
    gate = Gate.parse(expression, confidence=confidence, by="kind", undecided=undecided)
    results = {name: s if isinstance(s, StageResult) else result(name, s) for name, s in stages.items()}
    found = SlicedGate(gate, slices, results, {}, max_errors=max_errors)
    return found.judge(found.own_divisors())


def outcomes(verdict: VerdictRecord) -> dict[str, str]:
    return {part.name: part.verdict for part in verdict.slices}


def test_passes_only_where_all_slices_do() -> None:
    good = sliced("a >= 60%", parts([10, 10]), a=share(6, 10) * 2)
    assert (good.verdict, good.passed, good.observed) == ("PASS", True, "60.0% in s0")
    bad = sliced("a >= 60%", parts([10, 10]), a=share(10, 10) + share(5, 10))
    assert (bad.verdict, bad.observed, bad.margin) == ("FAIL", "50.0% in s1", -0.1)
    assert outcomes(bad) == {"s1": "FAIL", "s0": "PASS"}


def test_undecided_where_none_fails() -> None:
    scores = share(60, 60) + share(15, 20)
    for undecided, passed in (("fail", False), ("warn", True)):
        verdict = sliced("a >= 70%", parts([60, 20]), 0.95, undecided=undecided, a=scores)
        assert (verdict.verdict, verdict.passed) == ("UNDECIDED", passed)
        assert outcomes(verdict) == {"s1": "UNDECIDED", "s0": "PASS"}
    failing = sliced("a >= 70%", parts([60, 20, 60]), 0.95, a=scores + share(20, 60))
    assert (failing.verdict, failing.slices[0].name) == ("FAIL", "s2")


def test_corrected_by_holm() -> None:
    """15 of 20 above 50 % is clear at 95 % and not at 97.5 %: it passes as the last of two, not as one of three."""
    clear, close = share(40, 40), share(16, 20)
    last = sliced("a >= 55%", parts([40, 20]), 0.95, a=clear + close)
    assert outcomes(last) == {"s1": "PASS", "s0": "PASS"}
    assert {part.name: part.tried for part in last.slices} == {"s0": 2, "s1": 1}
    several = sliced("a >= 55%", parts([40, 20, 20]), 0.95, a=clear + close + close)
    assert outcomes(several) == {"s1": "UNDECIDED", "s2": "UNDECIDED", "s0": "PASS"}
    assert {part.name: part.tried for part in several.slices} == {"s0": 3, "s1": 2, "s2": 2}
    assert several.slices[0].confidence == pytest.approx(0.975)
    assert "corrected by Holm's method for 3 trials: error 0.05 / 3 or 2" in several.message


def test_each_slice_is_paired_and_judged_as_a_gate_of_its_own() -> None:
    generator = np.random.default_rng(5)
    a, b = (generator.integers(0, 2, 90).astype(float) for _ in range(2))
    slices = parts([30, 60])
    verdict = sliced("a >= b - 10%", slices, 0.95, a=list(a), b=list(b))
    for part, cut in zip(slices, (slice(0, 30), slice(30, 90)), strict=True):
        own = next(p for p in verdict.slices if p.name == part.name)
        gate = Gate.parse("a >= b - 10%", confidence=own.confidence)
        alone = judge(gate, {"a": result("a", a[cut]), "b": result("b", b[cut])})
        assert (own.verdict, own.margin, own.interval) == (alone.verdict, alone.margin, alone.interval)
        assert own.broke == tuple(i for i, new, old in zip(part.ids, a[cut], b[cut], strict=True) if new < old)


def test_too_many_errors_in_one_slice_fail_it() -> None:
    scores = share(100, 100)
    few = result("a", scores, outcomes={0: "error", 1: "error"})
    assert judge(Gate.parse("a >= 50%"), {"a": few}, max_errors=0.05).passed
    verdict = sliced("a >= 50%", parts([20, 80]), max_errors=0.05, a=few)
    assert outcomes(verdict) == {"s0": "FAIL", "s1": "PASS"}
    assert "TOO MANY ERRORS in a: 10.0% of its examples could not be measured" in verdict.message


def test_errors_count_against_the_claim_in_their_slice() -> None:
    before = result("b", share(0, 40), outcomes=dict.fromkeys(range(10), "error"))
    verdict = sliced("a >= b", parts([20, 20]), a=share(5, 20) + share(5, 20), b=before)
    assert outcomes(verdict) == {"s0": "FAIL", "s1": "PASS"}


def test_copies_are_one_observation() -> None:
    ids = ["ex0"] * 30 + ["ex1"] * 30
    scores = share(30, 60)
    [one, other] = (Slice(f"s{k}", (f"ex{k}",)) for k in range(2))
    verdict = sliced("a >= 20%", [one, other], 0.95, a=result("a", scores, ids=ids))
    assert outcomes(verdict) == {"s0": "UNDECIDED", "s1": "UNDECIDED"}
    assert [part.n for part in verdict.slices] == [1, 1]


def test_small_slices_are_pooled() -> None:
    groups = grouped_ids({f"ex{i}": label for i, label in enumerate("a" * 30 + "b" * 5 + "c" * 3 + "d" * 20)})
    found = pooled_slices(groups, 20)
    assert [(part.name, len(part.ids), part.pooled) for part in found] == [
        ("a", 30, ()),
        ("d", 20, ()),
        ("(pooled: b, c)", 8, ("b", "c")),
    ]
    verdict = sliced("a >= 50%", found, a=share(30, 38) + share(20, 20))
    assert verdict.slices[0].pooled == ("b", "c")
    assert "(pooled: b, c): 2 slices of fewer than 20 examples, as one" in verdict.message
    assert "(pooled: b, c) has 8, fewer than min_n=20: judged all the same" in verdict.message


def test_one_small_slice_stays_itself_and_is_said() -> None:
    found = pooled_slices({"a": tuple(map(str, range(30))), "b": ("x", "y")}, 20)
    assert [part.name for part in found] == ["a", "b"]
    gate = Gate.parse("a >= 50%", by="kind")
    assert "'b' has 2 examples, fewer than min_n=20, with nothing to pool it with" in slices_too_few(gate, found)
    assert slices_too_few(gate, found[:1]).endswith("all examples are in one slice, 'a', which is the gate without by=")
    many = pooled_slices({str(k): (f"{k}",) for k in range(9)}, 20)
    assert [part.name for part in many] == ["(pooled: 0, 1, 2, 3, 4, 5, 3 more)"]
    assert "each of the 9 slices has fewer than min_n=20 examples" in slices_too_few(gate, many)


def test_what_slices_cannot_tell_is_said() -> None:
    note = slices_too_few(Gate.parse("a >= 95%", confidence=0.95, by="kind"), parts([100, 30]))
    assert note == (
        "gate `a >= 95%` by 'kind' on 'dev': 's1': 30 examples cannot pass it even if a is 100%, 6.6 points short; "
        "at least 72 would tell"
    )


def test_groups_come_in_an_order_to_read() -> None:
    assert list(grouped_ids({"x": "10", "y": "9", "z": "-1.5"})) == ["-1.5", "9", "10"]
    assert list(grouped_ids(dict(zip("abcdef", ["q", "p", "r", "r", "(none)", "(none)"], strict=True)))) == [
        "r",
        "p",
        "q",
        "(none)",
    ]


def test_a_gate_in_slices_is_not_judged_as_a_whole() -> None:
    with pytest.raises(GateError, match="is judged in slices"):
        judge(Gate.parse("a >= 50%", by="kind"), {"a": result("a", share(5, 10))})
    with pytest.raises(GateError, match="counted on the traces"):
        Gate.parse("bootstrap_rate(a) >= 50%", by="kind")


@pytest.mark.parametrize("on_boundary", [None, 2, 4])
@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_neither_error_exceeds_its_half(on_boundary: int | None, rho: float) -> None:
    """Four standard errors of the simulation are allowed."""
    runs = 300
    most = slice_calibration.NOMINAL + 4 * (slice_calibration.NOMINAL / runs) ** 0.5
    assert max(slice_calibration.errors(0, on_boundary, rho, runs)) <= most


def test_the_simulation_judges_as_gates_do() -> None:
    generator = np.random.default_rng(1)
    slices = parts(slice_calibration.SIZES)
    seen = set()
    for _ in range(15):
        a = (generator.random(210) < 0.85).astype(float)
        b = np.where(generator.random(210) < 0.5, a, generator.random(210) < 0.4).astype(float)
        ends = np.cumsum([0, *slice_calibration.SIZES])
        columns = [[column[ends[k] : ends[k + 1], None] for column in (a, b)] for k in range(5)]
        gate = Gate.parse("a >= b", confidence=0.95)
        expected = slice_calibration.decide(slice_calibration._counted(gate, columns)(0), 5)
        found = outcomes(sliced("a >= b", slices, 0.95, a=list(a), b=list(b)))
        assert [found[part.name] for part in slices] == expected
        seen |= set(expected)
    assert seen >= {"PASS", "UNDECIDED"}
