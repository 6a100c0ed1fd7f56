"""The way of an LM call: in which order it passes budget, recording, cache, retries and meters; whose calls pass."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMRateLimitError

from pytest_dspy_ft.errors import BudgetError, RecordingError
from pytest_dspy_ft.lms.budget import Budget
from pytest_dspy_ft.lms.cache import KeptResponses, NoResponses, responses_from
from pytest_dspy_ft.lms.calls import guarded, recording
from pytest_dspy_ft.lms.patience import Patience
from pytest_dspy_ft.lms.prices import Price, Prices
from pytest_dspy_ft.lms.usage import measure
from tests.scripted import reply, scripted_lm

PRICES = Prices([("toy/*", Price(1000.0, 1000.0))])
CALL = 0.107
"""A call of the scripted engine: 100 tokens in, 7 out, at a dollar for a thousand."""


def yes(fields: Any, request: Any) -> str:
    return reply(label="x")


def lm_of(rule: Any = yes, **settings: Any) -> Any:
    lm = scripted_lm(rule, max_tokens=20, num_retries=0, **settings)
    lm.cache = True
    return lm


# --- order -----------------------------------------------------------------------------------------------------------


def test_a_refused_call_is_neither_made_nor_counted() -> None:
    lm = lm_of()
    budget = Budget(0.01, PRICES)
    with measure() as meter, pytest.raises(BudgetError, match="stopped before"), budget.active():
        lm("1")
    assert (meter.usage.lm_calls, budget.spent, lm.engine.requests) == (0, 0.0, [])


def test_a_call_is_charged_once_and_what_was_recorded_or_kept_is_counted_and_free(tmp_path: Path) -> None:
    lm, budget = lm_of(), Budget(1.0, PRICES)
    with measure() as outer, budget.active(), responses_from(KeptResponses(tmp_path / "kept", "scope")):
        with recording(tmp_path / "recordings"), measure() as first:
            lm("1")
        with recording(tmp_path / "recordings", "none"), measure() as replayed:
            lm("1")
            with pytest.raises(RecordingError):
                lm("2")  # before any cache is asked, and never counted
        with measure() as kept:
            lm("1")
    assert len(lm.engine.requests) == 1
    assert budget.spent == pytest.approx(CALL)
    calls = [(m.usage.lm_calls, m.usage.cached_calls, m.usage.replayed_calls) for m in (first, replayed, kept, outer)]
    assert calls == [(1, 0, 0), (1, 0, 1), (1, 1, 0), (3, 1, 1)]
    assert [m.usage.tokens for m in (first, replayed, kept, outer)] == [107, 107, 0, 214]


def test_what_is_set_aside_is_given_back_when_a_call_fails() -> None:
    def down(fields: Any, request: Any) -> str:
        raise RuntimeError("down")

    budget = Budget(0.2, PRICES)
    with budget.active():
        for _ in range(5):
            with pytest.raises(Exception, match="down"):
                lm_of(down)("1")
    assert budget.spent == 0.0


def test_a_call_that_is_made_again_is_one_call() -> None:
    asked = []

    def busy(fields: Any, request: Any) -> str:
        asked.append(request)
        if len(asked) < 3:
            raise LMRateLimitError("wait", status=429)
        return reply(label="x")

    waited: list[float] = []
    with guarded("work", Patience(sleep=waited.append)), measure() as meter:
        lm_of(busy)("1")
    assert (len(asked), len(waited), meter.usage.lm_calls, meter.usage.tokens) == (3, 2, 1, 107)


def test_asynchronous_calls_pass_the_same_way() -> None:
    asked = []

    class Engine:
        async def complete(self, request: Any) -> Any:
            asked.append(request)
            if len(asked) == 1:
                raise LMRateLimitError("wait", status=429)
            return lm_of().engine.complete(request)

    lm = lm_of()
    lm, budget, waited = lm.copy(engine=lm.engine, async_engine=Engine()), Budget(1.0, PRICES), list[float]()
    guard = guarded("work", Patience(sleep=waited.append))
    with guard, responses_from(NoResponses()), budget.active(), measure() as meter:
        asyncio.run(lm.acall("1"))
    assert (len(asked), len(waited), meter.usage.lm_calls, meter.usage.tokens) == (2, 1, 1, 107)
    assert budget.spent == pytest.approx(CALL)


# --- whose calls -----------------------------------------------------------------------------------------------------


def test_tokens_of_a_call_that_was_billed_and_failed_count() -> None:
    asked = []

    def second_fails(fields: Any, request: Any) -> str:
        asked.append(request)
        if len(asked) == 2:
            raise RuntimeError("down")
        return reply(label="x")

    with dspy.track_usage() as tracker, measure() as meter, pytest.raises(Exception, match="down"):
        lm_of(second_fails)("1", n=2)
    assert (meter.usage.lm_calls, meter.usage.tokens) == (0, 107)
    assert tracker.get_total_tokens()["toy/scripted"]["prompt_tokens"] == 100, "DSPy's own tracking sees them, too"


def provider_response(text: str) -> Any:
    message = SimpleNamespace(content=text, reasoning_content=None, tool_calls=None)
    usage = {"prompt_tokens": 100, "completion_tokens": 7}
    return SimpleNamespace(choices=[SimpleNamespace(message=message)], usage=usage, model="toy/own")


class ForwardLM(dspy.BaseLM):  # type: ignore[misc]
    """A user's own LM, as DSPy documented it up to 3.3."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return provider_response("x")


class CallLM(dspy.BaseLM):  # type: ignore[misc]
    """An LM that answers ``__call__`` by itself, and tells DSPy of it."""

    def __call__(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return self._process_lm_response(provider_response("x"), prompt, messages, **kwargs)


class PickyLM(dspy.LM):  # type: ignore[misc]
    """An LM that changes what it asks, and leaves the asking to DSPy."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return super().forward(prompt=prompt, messages=messages, **{**kwargs, "stop": ["."]})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [ForwardLM, CallLM, lambda name: PickyLM(name, engine=lm_of().engine, cache=False)])
def test_an_lm_of_the_users_own_class_is_counted_and_charged_once(make: Any) -> None:
    lm, budget = make("toy/own"), Budget(5.0, PRICES)
    with budget.active(), measure() as meter:
        assert lm("1") == ["x"] or "completed" in lm.history[-1]["outputs"][0]
    assert (meter.usage.lm_calls, meter.usage.input_tokens, meter.usage.output_tokens) == (1, 100, 7)
    assert budget.spent == pytest.approx(CALL)


def test_embedders_use_the_cache_of_the_block(tmp_path: Path) -> None:
    asked = []

    def embed(texts: list[str]) -> list[list[float]]:
        asked.extend(texts)
        return [[1.0] for _ in texts]

    embedder = dspy.Embedder(embed)
    with responses_from(NoResponses()):
        embedder(["a"])
        embedder(["a"])
    assert asked == ["a", "a"]
