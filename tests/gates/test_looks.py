"""Gates that are looked at several times: each look sees its own examples; all err hardly more often than one."""

from __future__ import annotations

import random
from statistics import NormalDist

import numpy as np
import pytest

from benchmarks.stopping_calibration import ABOVE, BOUNDARY, CONFIDENCE, look, run
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.looks import look_sizes, order_of, replayed
from pytest_dspy_ft.gates.stopping import Decision
from pytest_dspy_ft.gates.verdict import judge_decided
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.statistics.sequential import crossing, early_boundary, look_confidences
from tests.gates.test_curtailment import scores, stage

TENTHS = tuple(k / 10 for k in range(1, 11))


@pytest.mark.parametrize(("looks", "two_sided", "published"), [
    (1, 0.05, 1.960), (2, 0.05, 1.977), (3, 0.05, 2.004), (5, 0.05, 2.040), (10, 0.05, 2.087),
    (2, 0.01, 2.580), (5, 0.01, 2.621), (10, 0.01, 2.660),
])  # fmt: skip
def test_constants_are_the_published_ones(looks: int, two_sided: float, published: float) -> None:
    """C. Jennison, B. W. Turnbull (2000), Group sequential methods, table 2.3."""
    shares = tuple(k / looks for k in range(1, looks + 1))
    assert crossing(shares, published, published) == pytest.approx(two_sided / 2, rel=4e-3)


@pytest.mark.parametrize(("shares", "confidence"), [((0.2, 0.35, 0.8, 1.0), 0.9), (TENTHS, 0.95), (TENTHS, 0.5)])
def test_looks_at_any_shares_err_hardly_more_often_than_one(shares: tuple[float, ...], confidence: float) -> None:
    error = (1 - confidence) / 2
    early, last = early_boundary(shares, error), NormalDist().inv_cdf(1 - error)
    critical = [*(early / share**0.5 for share in shares[:-1]), last]
    steps = np.diff((0.0, *shares)) ** 0.5
    walks = np.cumsum(np.random.default_rng(1).standard_normal((200_000, len(shares))) * steps, axis=1)
    crossed = (walks / np.sqrt(shares) > critical).any(axis=1).mean()
    assert crossed == pytest.approx(1.05 * error, abs=0.0015)
    levels = look_confidences(shares, confidence)
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == confidence, "what no look decides is judged as it always is"
    assert look_confidences([1.0], confidence) == [confidence]
    for wrong in ((), (0.5,), (0.5, 0.5, 1.0), (0.0, 1.0)):
        with pytest.raises(ValueError, match="rising shares"):
            look_confidences(wrong, confidence)


def decide(gate: str, results: list[StageResult], seed: int = 0, **settings: float) -> Decision | None:
    ids = [f"e{i}" for i in range(results[0].planned_n)]
    parsed = Gate.parse(gate, confidence=0.95)
    return replayed(parsed, {result.stage: result for result in results}, order_of(ids, seed), **settings)


def test_the_look_that_decides_is_the_same_however_many_examples_there_are_by_now() -> None:
    ids = order_of([f"e{i}" for i in range(100)], 0)
    a, b = scores("a", *[1] * 100), scores("b", *[0, 1] * 50)
    whole = decide("a >= b", [a, b])
    assert whole is not None
    assert (whole.verdict, whole.early, whole.look) == ("PASS", True, "4 of 10")
    assert whole.used == 40
    for count in range(40, 100, 7):
        again = decide("a >= b", [a.part(frozenset(ids[:count])), b])
        assert again == whole
    assert decide("a >= b", [a.part(frozenset(ids[:39])), b]) is None, "that look lacks an example"
    record = judge_decided(
        Gate.parse("a >= b", confidence=0.95), {r.stage: r.part(whole.examples) for r in (a, b)}, whole
    )
    assert (record.verdict, record.confidence, record.level) == ("PASS", 0.95, whole.level)
    assert record.level is not None
    assert record.level > 0.999
    assert "decided after 40 of 100 examples (sequential)" in record.message
    assert "interval of the margin at look 4 of 10 (O'Brien-Fleming)" in record.message
    assert "95% interval" not in record.message


def test_the_last_look_is_judged_as_without_looks() -> None:
    decision = decide("a >= 50%", [scores("a", *[0, 1] * 50)])
    assert decision is not None
    assert (decision.verdict, decision.early, decision.look) == ("UNDECIDED", False, "10 of 10")
    assert decision.level == 0.95


def test_a_look_at_failures_does_not_decide() -> None:
    failed = [ExampleResult(id=f"e{i}", score=0.0, outcome="error", error="x", fault="program") for i in range(100)]
    decision = decide("a >= 80%", [stage("a", failed)], max_errors=0.05)
    assert decision is not None
    assert (decision.verdict, decision.early) == ("FAIL", False)
    assert decision.excess
    early = decide("a >= 80%", [stage("a", failed)])
    assert early is not None
    assert early.early


@pytest.mark.parametrize("expression", ["cost(a) <= 1", "latency(a) <= 10"])
def test_costs_and_seconds_are_judged_on_the_whole(expression: str) -> None:
    assert decide(expression, [scores("a", *[1] * 40)]) is None


def test_the_order_is_shuffled_by_the_seed_and_stays_when_examples_come_and_go() -> None:
    ids = [f"e{i}" for i in range(50)]
    order = order_of(ids, 0)
    assert order != ids
    assert sorted(order) == sorted(ids)
    assert order_of(ids, 1) != order
    assert [one for one in order if one in ids[:30]] == order_of(ids[:30][::-1], 0)
    assert (look_sizes(200)[:2], look_sizes(4), look_sizes(25)[-1]) == ([20, 40], [1, 2, 3, 4], 25)


@pytest.mark.parametrize("name", ["threshold 80%", "two stages at 90%", "two graded stages"])
def test_what_is_simulated_is_what_gates_do(name: str) -> None:
    scene, rng = BOUNDARY[name], np.random.default_rng(5)
    for _ in range(3 if scene.costly else 15):
        n = random.Random(int(rng.integers(1000))).choice((20, 45, 60))
        columns = scene.draw(n, rng)
        order = order_of([f"e{i}" for i in range(n)], 0)
        places = {identity: place for place, identity in enumerate(order)}
        results = {s: scores(s, *[float(column[places[f"e{i}"]]) for i in range(n)]) for s, column in columns.items()}
        decision = replayed(Gate.parse(scene.gate, confidence=CONFIDENCE), results, order)
        assert decision is not None
        sizes = look_sizes(n)
        for size, level in zip(sizes, look_confidences([size / n for size in sizes], CONFIDENCE), strict=True):
            part = {name: column[:size] for name, column in columns.items()}
            verdict = look(scene, part, level, last=size == n)
            if verdict != "UNDECIDED" or size == n:
                assert (verdict, size) == (decision.verdict, decision.used)
                break


def test_wrong_verdicts_are_rare_and_large_effects_take_a_third() -> None:
    for name in ("threshold 80%", "two stages at 50%"):
        _, found, _ = run(BOUNDARY[name], 60, runs=400, seed=3)
        assert max(found["PASS"], found["FAIL"]) <= 0.025 + 2.5 * (0.025 * 0.975 / 400) ** 0.5
    whole, found, used = run(ABOVE["two stages, +40 points"], 200, runs=60, seed=3)
    assert used < 0.37
    assert found["PASS"] >= whole["PASS"] - 0.03
