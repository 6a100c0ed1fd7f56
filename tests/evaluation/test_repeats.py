"""Repeats: every example several times, each its own sample, and an example still one observation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder
from pytest_dspy_ft.evaluation.repeats import samples
from pytest_dspy_ft.gates.gate import Gate
from tests.scripted import experiment, reply, scripted_lm

STORE = Path("store")


def moody(inputs: Any, request: Any) -> str:
    """Right at the first and third asking of each question, unreadable at the second; its seed is the asking."""
    asked = request.config.seed or 0
    if asked % 3 == 1:
        return "hm"
    return reply(label="even" if int(inputs["text"]) % 2 == 0 else "odd")


def counting() -> Any:
    """An LM that answers by how often it was asked the same."""
    asked: dict[str, int] = {}

    def rule(inputs: Any, request: Any) -> str:
        count = asked[inputs["text"]] = asked.get(inputs["text"], -1) + 1
        if count == 1:
            return "hm"
        if count == 2 and inputs["text"] == "33":
            raise RuntimeError("down")
        return reply(label="even" if int(inputs["text"]) % 2 == 0 else "odd")

    return rule


def ladder(lm: Any, repeats: int, **settings: Any) -> Ladder:
    settings.setdefault("num_threads", 1)
    return Ladder(experiment(dspy.Predict("text -> label"), lm), STORE, repeats=repeats, **settings)


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_each_example_is_asked_so_often_and_scores_its_mean() -> None:
    lm = scripted_lm(counting(), temperature=1.0)
    result = ladder(lm, 3).evaluate("baseline")
    assert (result.n, result.calls, result.repeats) == (4, 12, 3)
    assert len(lm.engine.requests) == 12
    assert result.scores == pytest.approx([2 / 3, 1 / 3, 2 / 3, 2 / 3])  # dev is 32 to 35
    assert [[r.outcome for r in e.repeats] for e in result.examples][:2] == [
        ["scored", "unparsed", "scored"],
        ["scored", "unparsed", "error"],
    ]
    assert [e.outcome for e in result.examples] == ["unparsed", "error", "unparsed", "unparsed"]
    assert (result.unparsed, result.errors) == (4, 1)
    assert result.tokens == pytest.approx(11 * 107 / 12), "per call of the program; the failed one took none"


def test_gates_count_calls_and_resample_examples() -> None:
    it = ladder(scripted_lm(counting(), temperature=1.0), 3, max_errors=0.1)
    for claim, passed in [
        ("unparsed(baseline) >= 33.3%", True),  # 4 calls of 12
        ("unparsed(baseline) >= 33.4%", False),
        ("unparsed(baseline) <= 41.7%", True),  # and the one that failed, which may not speak for a claim
        ("unparsed(baseline) <= 41.6%", False),
    ]:
        assert it.judge(Gate.parse(claim)).passed == passed, claim
    assert it.judge(Gate.parse("errors(baseline) <= 8.4%")).passed
    assert it.judge(Gate.parse("baseline >= 58.3%")).passed
    assert not it.judge(Gate.parse("baseline >= 58.4%")).passed
    low, high = it.judge(Gate.parse("baseline >= 50%", confidence=0.95)).interval or (0, 0)
    assert high - low > 0.3, "four examples, not twelve"


def test_a_seed_moves_with_the_repeat_and_so_does_the_rollout() -> None:
    lm = scripted_lm(moody, temperature=1.0, seed=0)
    result = ladder(lm, 3).evaluate("baseline")
    assert [r.config.seed for r in lm.engine.requests] == [0] * 4 + [1] * 4 + [2] * 4
    assert [r.outcome for r in result.examples[0].repeats] == ["scored", "unparsed", "scored"]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}])
def test_greedy_lms_are_asked_once_and_the_record_says_so(settings: dict[str, float]) -> None:
    lm = scripted_lm(lambda inputs, request: reply(label="even"), **settings)
    it = ladder(lm, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = it.evaluate("baseline")
    assert (len(lm.engine.requests), result.repeats, result.examples[0].repeats) == (4, 1, ())
    assert any("--dspy-repeats=5 changes nothing for toy/scripted" in text for text in it.record().cautions)
    assert ladder(lm, 1).evaluate("baseline").key == result.key, "the same evaluation as without repeats"


def test_repeats_are_an_evaluation_of_their_own_and_are_loaded_again() -> None:
    lm = scripted_lm(lambda inputs, request: reply(label="even"), temperature=0.5)
    once = ladder(lm, 1).evaluate("baseline")
    twice = ladder(lm, 2).evaluate("baseline")
    assert once.key != twice.key
    before = len(lm.engine.requests)
    again = ladder(lm, 2).evaluate("baseline")
    assert again.loaded
    assert again.examples == twice.examples
    assert len(lm.engine.requests) == before == 12


def test_an_interrupted_evaluation_goes_on_where_it_was() -> None:
    asked: list[str] = []

    def rule(inputs: Any, request: Any) -> str:
        asked.append(inputs["text"])
        if len(asked) == 6:
            raise KeyboardInterrupt
        return reply(label="even")

    lm = scripted_lm(rule, temperature=1.0)
    with pytest.raises(KeyboardInterrupt):
        ladder(lm, 3).evaluate("baseline")
    result = ladder(lm, 3).evaluate("baseline")
    assert asked == ["32", "33", "34", "35", "32", "33", "33", "34", "35", "32", "33", "34", "35"]
    assert [len(e.repeats) for e in result.examples] == [3, 3, 3, 3]


def test_only_the_repeats_that_failed_are_made_again() -> None:
    lm = scripted_lm(counting(), temperature=1.0)
    assert ladder(lm, 3).evaluate("baseline").errors == 1
    before = len(lm.engine.requests)
    result = ladder(lm, 3).evaluate("baseline")
    assert (result.errors, len(lm.engine.requests) - before) == (0, 1)


def test_what_samples() -> None:
    def program(lm: Any, **config: Any) -> Any:
        made = dspy.Predict("text -> label", **config)
        made.set_lm(lm)
        return made

    greedy = scripted_lm(moody)
    assert not samples(program(greedy))
    assert samples(program(greedy, temperature=0.7))
    assert not samples(program(scripted_lm(moody, temperature=1.0), temperature=0.0))
    assert samples(program(dspy.LM("openai/gpt-4o-mini", api_key="none"))), "its provider's default is 1.0"
    best = dspy.BestOfN(dspy.Predict("text -> label"), N=2, reward_fn=lambda args, pred: 1.0, threshold=1.0)
    best.set_lm(greedy)
    assert samples(best)
