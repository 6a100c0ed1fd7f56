"""Counting LM calls: every call once, in whatever thread, cached and failed ones included."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from pytest_dspy_ft.errors import StoreWarning
from pytest_dspy_ft.lms.cache import KeptResponses, NoResponses, responses_from
from pytest_dspy_ft.lms.prices import Prices
from pytest_dspy_ft.lms.usage import SETTING, measure
from tests.scripted import CHAT, numbers, reply, scripted_lm


def rule(fields: Any, request: Any) -> str:
    if fields["text"] == "13":
        raise RuntimeError("down")
    return reply(label="x") if fields["text"] != "14" else "unreadable"


@pytest.fixture
def program() -> Any:
    predict = dspy.Predict("text -> label")
    predict.lm = scripted_lm(rule, num_retries=0)
    return predict


def test_calls_and_tokens(program: Any) -> None:
    with dspy.context(adapter=CHAT), measure() as meter:
        for text in "123":
            program(text=text)
    usage = meter.usage
    assert (usage.lm_calls, usage.cached_calls, usage.input_tokens, usage.output_tokens) == (3, 0, 300, 21)
    assert usage.seconds > 0
    assert meter.calls == 3


def test_nothing_counts_before_or_after(program: Any) -> None:
    with dspy.context(adapter=CHAT):
        program(text="1")
        with measure() as meter:
            program(text="2")
        program(text="3")
    assert meter.usage.lm_calls == 1
    assert meter.usage.tokens == 107


def test_an_inner_block_counts_in_the_outer_too(program: Any) -> None:
    with dspy.context(adapter=CHAT), measure() as outer:
        program(text="1")
        with measure() as inner:
            program(text="2")
            with measure() as innermost:
                program(text="3")
        program(text="4")
    for meter, calls in ((outer, 4), (inner, 2), (innermost, 1)):
        assert (meter.usage.lm_calls, meter.usage.input_tokens, meter.usage.output_tokens) == (
            calls,
            100 * calls,
            7 * calls,
        )


def test_threads_count(program: Any) -> None:
    evaluate = dspy.Evaluate(
        devset=numbers(12), metric=lambda e, p, trace=None: 1.0, num_threads=4, display_progress=False
    )
    with dspy.context(adapter=CHAT), measure() as meter:
        evaluate(program)
    assert (meter.usage.lm_calls, meter.usage.input_tokens, meter.usage.output_tokens) == (12, 1200, 84)


def test_dspys_own_tracking_still_sees_the_calls(program: Any) -> None:
    with dspy.context(adapter=CHAT), dspy.track_usage() as tracker:
        with measure() as meter:
            program(text="1")
        program(text="2")
    assert meter.usage.input_tokens == 100
    [total] = tracker.get_total_tokens().values()
    assert total["prompt_tokens"] == 200


def test_tracking_of_predictions_inside_a_block(program: Any) -> None:
    with dspy.context(adapter=CHAT, track_usage=True), measure() as meter:
        program(text="1")
        program(text="2")
    assert (meter.usage.lm_calls, meter.usage.input_tokens) == (2, 200)


def test_answers_that_fail_later_count(program: Any) -> None:
    with dspy.context(adapter=CHAT), measure() as meter:
        with pytest.raises(Exception, match="down"):
            program(text="13")
        with pytest.raises(dspy.utils.exceptions.AdapterParseError):
            program(text="14")
    assert meter.usage.lm_calls == 1, "the call that the engine never answered is not one"
    assert meter.usage.input_tokens == 100, "the answer that cannot be read was paid for"


def test_cached_calls_use_no_tokens(program: Any, tmp_path: Any) -> None:
    program.lm = program.lm.copy(cache=True)
    with dspy.context(adapter=CHAT), responses_from(KeptResponses(tmp_path, "scope")), measure() as meter:
        for _ in range(3):
            program(text="1")
    assert (meter.usage.lm_calls, meter.usage.cached_calls) == (3, 2)
    assert meter.usage.tokens == 107
    assert len(program.lm.engine.requests) == 1


def test_a_price_nobody_knows_is_not_zero(program: Any) -> None:
    with dspy.context(adapter=CHAT), measure() as meter:
        assert meter.usage.cost == 0.0
        program(text="1")
    assert meter.usage.cost is None


def test_a_local_lm_costs_nothing() -> None:
    predict = dspy.Predict("text -> label")
    predict.lm = scripted_lm(rule, model="local:toy")
    with dspy.context(adapter=CHAT), measure() as meter:
        predict(text="1")
    assert meter.usage.cost == 0.0


def test_a_model_of_the_price_list_that_dspy_put_no_price_on() -> None:
    predict = dspy.Predict("text -> label")
    predict.lm = scripted_lm(rule, model="openai/ft:gpt-4o-mini-2024-07-18:acme::9abc")
    with dspy.context(adapter=CHAT), measure() as meter:
        predict(text="1")
    assert meter.usage.cost == pytest.approx(100 * 0.30e-6 + 7 * 1.20e-6)


@pytest.mark.parametrize("model", ["local:toy", "toy/scripted", "openai/gpt-4o"])
def test_the_users_price_counts_whatever_the_model(model: str) -> None:
    predict = dspy.Predict("text -> label")
    predict.lm = scripted_lm(rule, model=model)
    prices = Prices.from_lines(["* = 2 10"])
    with dspy.context(adapter=CHAT, **{SETTING: prices}), measure() as outer:
        predict(text="1")
        with measure() as inner:
            predict(text="2")
            with pytest.raises(dspy.utils.exceptions.AdapterParseError):
                predict(text="14")
    one = 100 * 2e-6 + 7 * 10e-6
    assert inner.usage.cost == pytest.approx(2 * one)
    assert outer.usage.cost == pytest.approx(3 * one)


def test_a_price_for_one_of_two_models_leaves_the_other_unknown() -> None:
    predictors = [dspy.Predict("text -> label") for _ in range(2)]
    predictors[0].lm, predictors[1].lm = scripted_lm(rule, model="toy/a"), scripted_lm(rule, model="toy/b")
    with dspy.context(adapter=CHAT, **{SETTING: Prices.from_lines(["toy/a = 2 10"])}), measure() as meter:
        predictors[0](text="1")
        assert meter.usage.cost == pytest.approx(100 * 2e-6 + 7 * 10e-6)
        predictors[1](text="1")
    assert meter.usage.cost is None
    assert {name: m.input_tokens for name, m in meter.usage.models.items()} == {"toy/a": 100, "toy/b": 100}


# --- which answers come from a cache --------------------------------------------------------------------------------


def ask(lm: Any, *texts: str) -> int:
    """How many calls really reach the engine."""
    predict = dspy.Predict("text -> label")
    predict.lm = lm
    before = len(lm.engine.requests)
    with dspy.context(adapter=CHAT):
        for text in texts:
            assert predict(text=text).label == "x"
    return len(lm.engine.requests) - before


def test_no_responses_forgets_everything() -> None:
    lm = scripted_lm(rule).copy(cache=True)
    with responses_from(NoResponses()):
        assert ask(lm, "1", "1") == 2


def test_kept_responses_count_for_their_scope_alone(tmp_path: Any) -> None:
    lm = scripted_lm(rule).copy(cache=True)
    with responses_from(KeptResponses(tmp_path, "one")):
        assert ask(lm, "1", "2", "1") == 2
    with responses_from(KeptResponses(tmp_path, "one")):
        assert ask(lm, "1", "2", "3") == 1
    with responses_from(KeptResponses(tmp_path, "two")):
        assert ask(lm, "1") == 1


def test_half_a_kept_response_is_asked_for_again(tmp_path: Any) -> None:
    lm = scripted_lm(rule).copy(cache=True)
    with responses_from(KeptResponses(tmp_path, "one")):
        assert ask(lm, "1") == 1
        [path] = tmp_path.rglob("*.json")
        path.write_text(path.read_text()[:20])
        with pytest.warns(StoreWarning, match="a kept answer is not as it was written"):
            assert ask(lm, "1") == 1
        assert ask(lm, "1") == 0


def test_the_cache_of_before_is_back_afterwards(tmp_path: Any) -> None:
    before = vars(dspy).get("cache", "none")

    def fail() -> None:
        with responses_from(NoResponses()):
            with responses_from(KeptResponses(tmp_path, "x")):
                pass
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert vars(dspy).get("cache", "none") is before
