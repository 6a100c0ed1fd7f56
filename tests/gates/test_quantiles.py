"""Gates on quantiles: order statistics, their exact intervals, and what is refused."""

from __future__ import annotations

import math
from math import comb

import pytest

from benchmarks.quantile_calibration import one, two
from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.power import too_few
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.usage import Usage
from pytest_dspy_ft.statistics.order import fewest_for_quantile, quantile, quantile_interval
from tests.gates.cases import result, sure, verdict


def timed(stage: str, seconds: list[float], failed: tuple[int, ...] = (), **changes: object) -> StageResult:
    plain = result(stage, [1.0] * len(seconds), outcomes=dict.fromkeys(failed, "error"))
    examples = tuple(
        e.model_copy(update={"usage": Usage(lm_calls=1, seconds=s)})
        for e, s in zip(plain.examples, seconds, strict=True)
    )
    return plain.model_copy(update={"examples": examples, **changes})


@pytest.mark.parametrize("percentile", [50, 90, 95, 99])
@pytest.mark.parametrize("n", [1, 20, 72, 400])
def test_the_interval_errs_as_rarely_as_it_says_and_no_end_could_be_nearer(percentile: int, n: int) -> None:
    share, error = percentile / 100, 0.025

    def chance(counts: range) -> float:
        return sum(comb(n, k) * share**k * (1 - share) ** (n - k) for k in counts)

    low, high = quantile_interval([float(k) for k in range(1, n + 1)], percentile, 0.95)
    assert chance(range(int(low))) <= error < chance(range(int(low) + 1))
    if math.isfinite(high):
        assert chance(range(int(high), n + 1)) <= error < chance(range(int(high) - 1, n + 1))
    else:
        assert chance(range(n, n + 1)) > error


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile(range(1, 101), 95) == 95
    assert quantile(range(1, 102), 95) == 96
    assert quantile([3.0, 1.0, 2.0], 50) == 2.0
    assert quantile([3.0, 1.0], 50) == 1.0, "half of them do not exceed it"
    assert quantile([7.0], 99) == 7.0


def test_how_many_it_needs() -> None:
    assert [fewest_for_quantile(p, 0.95) for p in (50, 90, 95, 99)] == [6, 36, 72, 368]
    for percentile in (50, 90, 95, 99):
        n = fewest_for_quantile(percentile, 0.95)
        assert math.isfinite(quantile_interval([1.0] * n, percentile, 0.95)[1])
        assert math.isinf(quantile_interval([1.0] * (n - 1), percentile, 0.95)[1])


def test_verdicts() -> None:
    a = timed("a", [0.1 * k for k in range(1, 201)])
    assert verdict("p95(latency(a)) <= 19", a=a).passed
    assert verdict("p95(latency(a)) <= 18.9", a=a).observed == "19.0 s"
    judged = sure("p95(latency(a)) <= 30", a=a)
    assert judged.passed
    assert judged.interval == pytest.approx((30 - 19.7, 30 - 18.4))
    assert sure("p95(latency(a)) <= 19", a=a).verdict == "UNDECIDED"
    assert sure("p95(latency(a)) <= 10", a=a).verdict == "FAIL"
    assert "p95 latency 19.0 s per call" in sure("p95(latency(a)) <= 10", a=a).message


def test_two_quantiles_share_the_error() -> None:
    a, b = timed("a", [2.0] * 85), timed("b", [1.0] * 85)
    short = sure("p95(latency(a)) <= 3 * p95(latency(b))", a=a, b=b)
    assert short.verdict == "UNDECIDED"
    assert "needs at least 86 different examples" in short.message
    a, b = timed("a", [2.0] * 86), timed("b", [1.0] * 86)
    assert sure("p95(latency(a)) <= 3 * p95(latency(b))", a=a, b=b).passed
    assert sure("p95(latency(a)) / p95(latency(b)) <= 3", a=a, b=b).passed
    assert sure("max(p95(latency(a)), p50(latency(b))) <= 1.5", a=a, b=b).verdict == "FAIL"


def test_too_few_is_said_before_anything_runs() -> None:
    sure_of_it = Gate.parse("p99(latency(a)) <= 2", confidence=0.95)
    assert "needs at least 368 different examples; 'dev' has 100" in too_few(sure_of_it, 100)
    assert too_few(sure_of_it, 368) == ""
    said = too_few(Gate.parse("p95(cost(a)) <= 2"), 19)
    assert "of 19 examples the largest stands for p95(cost(a)); one of 20 could be above it" in said
    assert too_few(Gate.parse("p95(cost(a)) <= 2"), 20) == ""


def test_calls_that_failed_count_as_the_slowest() -> None:
    a = timed("a", [0.01] * 10 + [1.0] * 89 + [5.0], failed=tuple(range(10)))
    assert verdict("p95(latency(a)) <= 2", a=a).verdict == "FAIL"
    assert "those of a as the furthest of the others, so p95(latency(a)) is 5.0 s" in (
        verdict("p95(latency(a)) <= 2", a=a).message
    )


def test_repeats_are_no_further_calls() -> None:
    seconds = [1.0] * 100
    once = timed("a", seconds)
    repeated = tuple(
        e.model_copy(
            update={
                "usage": Usage(lm_calls=2, seconds=10.0),
                "repeats": tuple(
                    e.model_copy(update={"repeat": r, "usage": Usage(lm_calls=1, seconds=s)})
                    for r, s in enumerate((1.0, 9.0))
                ),
            }
        )
        for e in once.examples
    )
    twice = once.model_copy(update={"examples": repeated})
    assert sure("p95(latency(a)) <= 2", a=twice).interval == sure("p95(latency(a)) <= 2", a=once).interval


def test_what_a_call_waits_in_a_batch_is_not_its_latency() -> None:
    here = timed("a", [1.0] * 100, lm="local:smollm2-135m")
    for gate in ("p95(latency(a)) <= 2", "latency(a) <= 2"):
        with pytest.raises(GateError, match=r"several calls of `a` at once.*--dspy-num-threads=1"):
            verdict(gate, a=here)
        assert verdict(gate, a=here.model_copy(update={"batched": False})).passed
        with pytest.raises(GateError, match="waits in a batch"):
            verdict(gate, a=timed("a", [1.0] * 100, batched=True))
    assert verdict("p95(tokens(a)) <= 2", a=here).passed


@pytest.mark.parametrize("shape", ["lognormal, sd 1.5", "whole tokens"])
def test_neither_error_exceeds_its_half(shape: str) -> None:
    """At length in benchmarks/quantile_calibration.py; four standard errors of the simulation are allowed."""
    most = 0.025 + 4 * math.sqrt(0.025 * 0.975 / 300)
    assert max(one(shape, 95, 100, 1.0, 300)) <= most
    assert max(two(shape, 95, 100, 0.8, 1.0, 300)) <= most
    passed, _ = one(shape, 90, 400, 1.6, 300)
    assert passed > 0.8
