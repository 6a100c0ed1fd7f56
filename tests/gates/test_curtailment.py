"""Gates decided before all examples are measured: the verdict is that on the whole, whatever the others come to."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import pytest

from pytest_dspy_ft.gates.curtailment import curtailed
from pytest_dspy_ft.gates.evidence import Evidence
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.verdict import judge
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.statistics.shares import exact_interval, judged_difference_interval

GATES = (
    *("a >= 80%", "a > 50%", "a <= 30%", "a < 60%", "a >= 1/3", "1 - a <= 40%"),
    *("errors(a) <= 10%", "unparsed(a) <= 20%", "unparsed(a) < errors(a) + 10%"),
    *("a >= b", "a > b", "b >= a", "a >= b + 10%", "a <= b", "a < b", "a >= 93% * b", "a / b >= 90%"),
    *("a >= max(b, c) + 5%", "min(a, b) >= 40%", "a * b >= 30%", "a * a >= 25%", "a - b >= 2 * c - 50%"),
    *("2 * a >= b + c", "(a + b) / 2 >= 60%"),
)

EASY = (
    *("a >= 10%", "a > 20%", "a <= 95%", "errors(a) <= 60%", "unparsed(a) < 60%"),
    *("a >= b - 70%", "b <= a + 60%", "a > b - 80%", "a - b < 70%", "10% <= a", "b <= a + 90%"),
) * 3
"""Of these some pass for sure at a confidence before all is measured."""


def stage(name: str, examples: list[ExampleResult]) -> StageResult:
    return StageResult(experiment="x", stage=name, on="dev", lm="m", key="k", examples=tuple(examples))


def scores(name: str, *values: float) -> StageResult:
    return stage(name, [ExampleResult(id=f"e{i}", score=value) for i, value in enumerate(values)])


def first(result: StageResult, count: int) -> StageResult:
    return result.part({f"e{i}" for i in range(count)})


def drawn(name: str, ids: list[int], rng: random.Random) -> StageResult:
    """A stage with 0/1 scores, graded ones, or a metric that gives something between only late; with failures."""
    right, failing, unread = rng.choice((0, 0.1, 0.3, 0.5, 0.7, 0.9, 1)), rng.choice((0, 0, 0.05, 0.3)), 0.1
    kind, late = rng.choice(("binary", "binary", "graded", "late")), rng.randrange(len(ids) + 1)
    examples = []
    for place, number in enumerate(ids):
        score = float(rng.random() < right)
        if kind == "graded" or (kind == "late" and place >= late):
            score = rng.choice((score, 0.25, 1 / 3, 0.5, 0.9))
        luck, repeats = rng.random(), {}
        if luck < failing:
            repeats = {"score": 0.0, "outcome": "error", "error": "failed", "fault": "program"}
        elif luck < failing + unread:
            repeats = {"score": 0.0, "outcome": "unparsed"}
        examples.append(ExampleResult(**{"id": f"e{number}", "score": score, **repeats}))
    return stage(name, examples)


def split(rng: random.Random) -> list[int]:
    """Examples; in some splits one has copies, which stand side by side."""
    n = rng.choice((1, 2, 5, 10, 20, 40))
    return sorted(rng.choices(range(n), k=n)) if rng.random() < 0.15 else list(range(n))


def test_of_ten_thousand_cases_every_verdict_is_that_on_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evidence, "interval", lambda self, confidence: None)  # only messages would show one
    check_cases(9_700, GATES, (None,))


def test_of_cases_at_a_confidence_too() -> None:
    check_cases(300, (*GATES, *EASY), (0.5, 0.8, 0.95))


def check_cases(cases: int, gates: Sequence[str], confidences: tuple[float | None, ...]) -> None:
    rng, decided = random.Random(12), Counter[str]()
    for _ in range(cases):
        ids, gate = split(rng), Gate.parse(rng.choice(gates), confidence=rng.choice(confidences))
        whole = {name: drawn(name, ids, rng) for name in sorted(gate.score_stages)}
        max_errors, stopped = rng.choice((1.0, 1.0, 0.5, 0.05)), rng.choice(sorted(whole))
        known = {f"e{i}" for i in ids if i <= ids[rng.randrange(len(ids))]}
        found = curtailed(gate, {**whole, stopped: whole[stopped].part(known)}, max_errors=max_errors)
        if found is not None:
            verdict = judge(gate, whole, max_errors=max_errors)
            assert found.verdict == verdict.verdict, (gate, max_errors, found, whole)
            decided[found.verdict] += 1
    assert min(decided["PASS"], decided["FAIL"]) > cases / 100, f"what decides nothing shows nothing: {decided}"


def test_it_ends_as_soon_as_nothing_can_change_the_verdict_and_not_before() -> None:
    gate, whole = Gate.parse("a >= 80%"), scores("a", *[0, 1, 0, 0, 1, 1, 1, 1, 1, 1])
    assert curtailed(gate, {"a": first(whole, 3)}) is None, "8 of 10 are still possible"
    found = curtailed(gate, {"a": first(whole, 4)})
    assert found is not None
    assert (found.verdict, found.used, found.planned, found.bound) == ("FAIL", 4, 10, Fraction(-1, 10))
    passing = scores("a", *[1] * 10)
    assert curtailed(gate, {"a": first(passing, 7)}) is None
    found = curtailed(gate, {"a": first(passing, 8)})
    assert found is not None
    assert (found.verdict, found.bound) == ("PASS", 0)


def test_a_gate_passes_only_when_the_others_cannot_fail_beyond_the_limit_of_errors() -> None:
    gate, whole = Gate.parse("a >= 50%"), scores("a", *[1] * 100)
    assert curtailed(gate, {"a": first(whole, 94)}, max_errors=0.05) is None
    found = curtailed(gate, {"a": first(whole, 95)}, max_errors=0.05)
    assert found is not None
    assert found.verdict == "PASS"
    failed = [ExampleResult(id=f"e{i}", score=0.0, outcome="error", error="x", fault="program") for i in range(6)]
    found = curtailed(gate, {"a": stage("a", failed).model_copy(update={"planned": 100})}, max_errors=0.05)
    assert found is not None
    assert (found.verdict, found.excess) == ("FAIL", {"a": Fraction(6, 100)})


@pytest.mark.parametrize("expression", ["cost(a) <= 1", "tokens(a) <= 100", "a >= bootstrap_rate(a)"])
def test_what_has_no_limit_is_never_decided_early(expression: str) -> None:
    part = first(scores("a", *[0] * 100), 99)
    assert curtailed(Gate.parse(expression), {"a": part}) is None


def test_a_stage_that_is_not_measured_leaves_its_gates_open() -> None:
    assert curtailed(Gate.parse("a >= b + 50%"), {"a": first(scores("a", *[0] * 10), 9)}) is None


def test_graded_scores_at_a_confidence_and_examples_with_copies_are_measured_whole() -> None:
    gate = Gate.parse("a >= 90%", confidence=0.95)
    assert curtailed(gate, {"a": first(scores("a", *[0] * 40), 30)}) is not None
    assert curtailed(gate, {"a": first(scores("a", *[0, 0.5] * 20), 30)}) is None
    copies = stage("a", [ExampleResult(id=f"e{i // 2}", score=0.0) for i in range(40)])
    assert curtailed(gate, {"a": copies.part({f"e{i}" for i in range(15)})}) is None


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_ends_of_counted_intervals_move_with_every_example(confidence: float) -> None:
    """What curtailing an interval rests on: the worst and the best of the others give the outermost ends."""
    for n in (1, 2, 3, 7, 20):
        shares = [exact_interval(k, n, confidence) for k in range(n + 1)]
        assert shares == sorted(shares)
        ends = {(f, b): judged_difference_interval(f, b, n, confidence) for f in range(n + 1) for b in range(n + 1 - f)}
        for (fixed, broke), (low, high) in ends.items():
            for better in ((fixed + 1, broke), (fixed, broke - 1)):
                if better in ends:
                    assert ends[better][0] >= low - 1e-9, (n, fixed, broke, better)
                    assert ends[better][1] >= high - 1e-9, (n, fixed, broke, better)
