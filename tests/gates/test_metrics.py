"""Gates on further metrics: their scores, their errors, and the examples by them."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.verdict import judge
from pytest_dspy_ft.records.evaluation import MetricScore, StageResult
from tests.gates.cases import caret, result, share, sure, verdict


def scored(stage: str, main: list[float], f1: list[Any], **more: Any) -> StageResult:
    """A stage's evaluation with two scores for each example; an exception stands for a metric that raised."""
    plain = result(stage, main, **more)
    examples = []
    for example, score in zip(plain.examples, f1, strict=True):
        if isinstance(score, Exception):
            said = {"f1": MetricScore(score=0.0, error=f"metric: {score!r}", fault="metric")}
        else:
            said = {} if score is None else {"f1": MetricScore(score=score, feedback=f"overlap {score:.2f}")}
        examples.append(example.model_copy(update={"further": said}))
    return plain.model_copy(update={"examples": tuple(examples), "metrics": {"f1": "key"}})


def test_the_score_by_the_metric_is_judged() -> None:
    a = scored("a", share(5, 10), [0.75] * 10)
    assert verdict("f1(a) >= 75%", a=a).passed
    assert verdict("f1(a) >= 76%", a=a).observed == "75.0%"
    assert verdict("f1(a) >= a + 25%", a=a).passed, "both are exact"
    assert verdict("min(f1(a), a) >= 51%", a=a).verdict == "FAIL"


def test_paired_intervals_are_those_of_the_metric() -> None:
    b = scored("b", share(20, 40), share(10, 40))
    a = scored("a", share(20, 40), share(30, 40))
    same = sure("a >= b", a=result("a", share(30, 40)), b=result("b", share(10, 40)))
    assert sure("f1(a) >= f1(b)", a=a, b=b).interval == same.interval
    assert sure("a >= b", a=a, b=b).interval != same.interval


def test_a_failing_gate_shows_the_examples_by_the_metric() -> None:
    b = scored("b", share(10, 10), [0.9] * 10)
    a = scored("a", share(10, 10), [0.9] * 8 + [0.4, 0.2])
    message = verdict("f1(a) >= f1(b)", a=a, b=b).message
    assert "0 fixed, 2 broke of 10" in message
    assert message.index("broke ex9") < message.index("broke ex8"), "the largest loss first"
    assert "feedback: overlap 0.20" in message
    alone = verdict("f1(a) >= 90%", a=a).message
    assert "wrong ex9" in alone
    assert "f1 78.0%" in alone


def test_its_errors_count_against_the_claim() -> None:
    wrong = ValueError("odd")
    a, b = scored("a", share(10, 10), [1.0] * 10), scored("b", share(10, 10), [0.9] * 9 + [wrong])
    assert not verdict("f1(a) >= f1(b) + 15%", a=a, b=b).passed, "what failed counts as right on the small side"
    assert "errors count against the gate: those of b as right, so f1(b) is 91.0%" in (
        verdict("f1(a) >= f1(b) + 15%", a=a, b=b).message
    )
    assert verdict("errors(b) <= 1%", b=b).passed, "errors(stage) are those of the experiment's own metric"


def test_too_many_of_its_errors_fail_the_gates_that_name_it() -> None:
    b = scored("b", share(10, 10), [1.0] * 9 + [ValueError("odd")])

    def judged(expression: str) -> str:
        return judge(Gate.parse(expression), {"b": b}, max_errors=0.05).message

    assert "TOO MANY ERRORS in b: 10.0%" in judged("f1(b) >= 50%")
    assert "TOO MANY" not in judged("b >= 50%")
    assert "TOO MANY" in judged("b >= 50% * f1(b)")
    main = scored("b", [1.0] * 9 + [0.0], [1.0] * 10, outcomes={9: "error"})
    assert "TOO MANY" not in judge(Gate.parse("f1(b) >= 50%"), {"b": main}, max_errors=0.05).message
    assert "TOO MANY" in judge(Gate.parse("cost(b) <= 50"), {"b": main}, max_errors=0.05).message


def test_what_the_program_failed_is_failed_by_every_metric() -> None:
    b = scored("b", [0.0, 0.0, 1.0], [None, None, 0.5], outcomes={0: "unparsed", 1: "error"})
    seen = b.metric("f1")
    assert [(e.score, e.outcome) for e in seen.examples] == [(0.0, "unparsed"), (0.0, "error"), (0.5, "scored")]
    assert (seen.unparsed, seen.errors, seen.score) == (1, 1, 0.5 / 3)
    with pytest.raises(KeyError, match="no metric 'f2' has scored 'b' on dev; f1 have"):
        b.metric("f2")


def test_names_are_checked() -> None:
    def complaint(expression: str) -> GateError:
        with pytest.raises(GateError) as error:
            Gate.parse(expression).check_names(["baseline", "tuned"], ["token_f1"])
        return error.value

    Gate.parse("token_f1(tuned) >= 80%").check_names(["baseline", "tuned"], ["token_f1"])
    assert "no function `f2`\n    functions: cost, tokens, latency" in str(complaint("f2(tuned) >= 80%"))
    assert "metrics: token_f1" in str(complaint("f2(tuned) >= 80%"))
    assert "did you mean `token_f1`?" in str(complaint("tuned >= tokenf1(tuned)"))
    assert caret(complaint("tuned >= tokenf1(tuned)")) == "tokenf1(tuned)"
    assert "write `token_f1(stage)`" in str(complaint("token_f1 >= 80%"))


def test_a_metric_that_did_not_score_the_stage() -> None:
    with pytest.raises(GateError, match="no metric 'f1' has scored 'a'"):
        verdict("f1(a) >= 75%", a=result("a", share(5, 10)))
