"""Servers that say nothing: no call takes longer than it may, and no session waits for them again and again."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import ProviderError, ProviderWarning
from pytest_dspy_ft.ladder.recipe import evaluation_key
from pytest_dspy_ft.lms import asking
from pytest_dspy_ft.lms.patience import Patience
from pytest_dspy_ft.lms.providers import Providers
from tests.lms.chat import failure, serving
from tests.lms.silent import quiet
from tests.scripted import experiment, scripted_lm

LIMIT = 0.4
SOON = 10.0
"""Generous: without limits these take minutes."""


@contextlib.contextmanager
def giving_up() -> Iterator[list[str]]:
    """What is said of providers that are given up, for after the block."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ProviderWarning)
        yield said
    said += [str(one.message) for one in caught if issubclass(one.category, ProviderWarning)]


def lm_at(server: Any, **settings: Any) -> Any:
    given = {"api_base": server.address, "api_key": "sk-right", "num_retries": 0, "cache": False, **settings}
    return dspy.LM("openai/base", **given)


def ladder(lm: Any, stages: Any = (), *, store: str = "store", providers: Providers | None = None, **more: Any) -> Any:
    declared = experiment(dspy.Predict("text -> label"), lm, stages, **more)
    patience = Patience(sleep=lambda seconds: None)
    return Ladder(declared, store, providers=providers or Providers(LIMIT), patience=patience, num_threads=4)


@pytest.mark.parametrize("engine", ["lm15", "litellm"])
@pytest.mark.parametrize("manner", ["silent", "stalls", "drips"])
def test_a_call_takes_no_longer_than_it_may(manner: str, engine: str) -> None:
    started = time.monotonic()
    with quiet(manner) as server, giving_up() as said:
        result = ladder(lm_at(server, engine=engine)).evaluate("baseline", "train")
        asked = len(server.requests)
    assert time.monotonic() - started < SOON
    assert {example.fault for example in result.examples} == {"provider"}
    assert len(said) == 1
    assert "--dspy-lm-timeout=SECONDS" in said[0]
    assert asked <= 2, "once, and once more before it counts as silent"


def test_an_lms_own_timeout_wins_and_bounds_what_drips() -> None:
    started = time.monotonic()
    with quiet("drips") as server, giving_up() as said:
        result = ladder(lm_at(server, timeout=0.2), providers=Providers(60.0)).evaluate("baseline", "train")
    assert time.monotonic() - started < SOON
    assert result.errors == result.n
    assert "no answer within" in str(result.examples[0].error)
    assert said


def test_an_engine_of_the_users_own_is_limited_where_that_is_asked_for() -> None:
    def slow(fields: Any, request: Any) -> str:
        time.sleep(1.0)
        raise AssertionError("nobody waits for it any more")

    with giving_up() as said:
        result = ladder(scripted_lm(slow, num_retries=0), providers=Providers(0.2)).evaluate("baseline", "dev")
    assert {example.fault for example in result.examples} == {"provider"}
    assert said


def test_the_limit_is_no_part_of_a_key() -> None:
    lm = scripted_lm(lambda fields, request: "")
    declared = [ladder(lm, providers=Providers(limit)) for limit in (1.0, 600.0, None)]
    assert len({evaluation_key(one.experiment, {"program": "x"}, "dev") for one in declared}) == 1
    assert len({one.recipe("baseline").key for one in declared}) == 1


def test_one_lost_request_is_not_a_silent_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "SHORTEST_PROBE", 10.0)  # so that a busy machine is not taken for a silent one
    with quiet(lambda number: "silent" if number == 0 else "answers") as server:
        result = ladder(lm_at(server)).evaluate("baseline", "dev")
    assert result.score == 1.0


def test_some_that_are_lost_later_are_asked_again() -> None:
    with quiet(lambda number: "silent" if 5 <= number < 8 else "answers") as server:
        result = ladder(lm_at(server), providers=Providers(1.0)).evaluate("baseline", "train")
    assert (result.errors, result.score) == (0, 1.0)


def test_who_was_silent_once_is_not_asked_for_the_next_evaluation_and_stage_and_is_by_the_next_session() -> None:
    stages = [Stage("shown", dspy.BootstrapFewShot(metric=right))]
    with quiet("silent") as server, giving_up() as said:
        session = ladder(lm_at(server), stages)
        session.evaluate("baseline", "dev")
        asked = len(server.requests)
        session.evaluate("baseline", "train")
        with pytest.raises(ProviderError, match="did not come back"):
            session.evaluate("shown", "dev")
        assert len(server.requests) == asked
    assert len(said) == 1
    with serving() as server:
        assert ladder(lm_at(server), stages).evaluate("baseline", "dev").score == 1.0


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def test_patience_is_one_for_all_calls_and_stages_of_a_session() -> None:
    """Two hundred calls that each wait their turn would hold it for hours."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(0.05)

    stages = [Stage("shown", dspy.BootstrapFewShot(metric=right)), Stage("other", dspy.BootstrapFewShot(metric=right))]
    down = lambda body, number: failure(503)  # noqa: E731
    with serving(faults=down) as server, giving_up() as said:
        declared = experiment(dspy.Predict("text -> label"), lm_at(server), stages)
        session = Ladder(declared, "store", providers=Providers(patience=0.1), patience=Patience(sleep=pause, first=0))
        for name in ("shown", "other"):
            with pytest.raises(ProviderError):
                session.build(name)
        for on in ("train", "dev"):
            assert session.evaluate("baseline", on).errors
    assert len(pauses) <= 4, pauses
    assert len(said) == 1
    assert "--dspy-patience=SECONDS" in said[0]


def test_whoever_answers_is_waited_for_as_ever() -> None:
    seen: list[int] = []

    def now_and_then(body: Any, number: int) -> Any:
        seen.append(number)
        return failure(429) if number % 3 else None

    with serving(faults=now_and_then) as server, warnings.catch_warnings():
        warnings.simplefilter("error", ProviderWarning)
        assert ladder(lm_at(server), providers=Providers(patience=30.0)).evaluate("baseline", "dev").score == 1.0


def test_embeddings_are_limited_too() -> None:
    class Looking(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("text -> label")

        def forward(self, text: str) -> Any:
            dspy.Embedder("openai/embedding", api_base=address[0], api_key="sk-right", max_retries=0, caching=False)(
                text
            )
            return self.predict(text=text)

    address: list[str] = []
    started = time.monotonic()
    with quiet("silent") as server:
        address.append(server.address)
        declared = experiment(Looking(), scripted_lm(lambda fields, request: "no"), count=10)
        made = Ladder(
            declared, "store", providers=Providers(0.2), patience=Patience(rounds=0, sleep=lambda seconds: None)
        )
        assert made.evaluate("baseline", "train").errors
    assert time.monotonic() - started < 30
