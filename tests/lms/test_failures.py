"""What providers do to an evaluation: rate limits slow it down, refusals end it, and neither is the program's fault."""

from __future__ import annotations

import inspect
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import ProviderError
from pytest_dspy_ft.evaluation.evaluate import Measurement, evaluate_examples
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.lms.patience import Patience
from pytest_dspy_ft.progress import SilentProgress
from tests.lms.chat import ChatServer, failure, last_text, serving
from tests.scripted import CHAT, experiment, fields_of, numbers


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


MADE: list[Any] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Connections end with the test: those of DSPy's engine, and those that LiteLLM keeps."""
    yield
    while MADE:
        MADE.pop().close()
    litellm = sys.modules.get("litellm")
    if litellm is not None:
        for client in litellm.in_memory_llm_clients_cache.cache_dict.values():
            if callable(close := getattr(client, "close", None)) and not inspect.iscoroutinefunction(close):
                close()
        litellm.in_memory_llm_clients_cache.flush_cache()


def hosted(server: ChatServer, model: str = "openai/base", **settings: Any) -> Any:
    defaults = {"api_base": server.address, "api_key": "sk-right", "num_retries": 0, "cache": False}
    given = {name: value for name, value in {**defaults, **settings}.items() if value is not None}
    MADE.append(dspy.LM(model, **given))
    return MADE[-1]


def measured(lm: Any, count: int = 20, *, threads: int = 4, rounds: int = 5) -> tuple[list[Any], list[float]]:
    """Results of ``count`` examples, and the pauses that were made."""
    program, pauses = dspy.Predict("text -> label"), []  # type: ignore[var-annotated]
    program.lm = lm
    runtime = Runtime(lm, CHAT, threads, Patience(rounds=rounds, sleep=pauses.append))
    results = evaluate_examples(program, Measurement(numbers(count), right, runtime, SilentProgress(), "t"))
    return results, pauses


def number_of(body: dict[str, Any]) -> int:
    return int(fields_of(last_text(body))["text"])


class First:
    """Fails the first ``times`` requests about each of some numbers."""

    def __init__(self, fault: Any, times: int = 1, only: Any = lambda number: True) -> None:
        self.fault, self.times, self.only = fault, times, only
        self.seen: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __call__(self, body: dict[str, Any], request: int) -> Any:
        number = number_of(body)
        with self._lock:
            self.seen[number] += 1
            return self.fault if self.only(number) and self.seen[number] <= self.times else None


@pytest.mark.parametrize(
    "fault",
    [failure(429), failure(500), failure(503), failure(408), failure(409), (0, {}, "")],
    ids=["429", "500", "503", "408", "409", "hangs up"],
)
def test_what_the_provider_fails_is_tried_again_at_the_end(fault: Any) -> None:
    with serving(faults=First(fault, only=lambda n: n % 5 == 0)) as server:
        results, pauses = measured(hosted(server))
    assert [r.outcome for r in results] == ["scored"] * 20
    assert [r.score for r in results] == [1.0] * 20
    assert pauses == [2.0]
    # Not before everything else was done.
    asked = [number_of(body) for body in server.calls()]
    assert sorted(asked[:20]) == list(range(20))
    assert sorted(asked[20:]) == [0, 5, 10, 15]


def test_a_storm_slows_it_down_and_fails_nothing() -> None:
    with serving(faults=First(failure(429), times=3)) as server:
        results, pauses = measured(hosted(server))
    assert all(r.score == 1.0 for r in results)
    assert pauses[:3] == [2.0, 4.0, 8.0]
    assert len(server.calls()) == 4 * 20


def test_retry_after_is_honoured() -> None:
    with serving(faults=First(failure(429, Retry_After="37"), only=lambda n: n == 3)) as server:
        results, pauses = measured(hosted(server))
    assert pauses == [37.0]
    assert all(r.score == 1.0 for r in results)


def test_a_provider_that_asks_for_hours_is_not_waited_for() -> None:
    with serving(faults=First(failure(429, Retry_After="7200"), times=9, only=lambda n: n == 3)) as server:
        results, pauses = measured(hosted(server))
    assert pauses == []
    assert [(r.id, r.outcome, r.fault) for r in results if r.outcome != "scored"] == [
        (results[3].id, "error", "provider")
    ]


def test_what_never_comes_back_is_an_error_of_the_provider() -> None:
    with serving(faults=First(failure(503), times=99, only=lambda n: n in (3, 4))) as server:
        results, pauses = measured(hosted(server), rounds=3)
    assert [r.fault for r in results].count("provider") == 2
    assert results[3].fault == results[4].fault == "provider"
    assert pauses == [2.0, 4.0, 8.0]


def test_an_outage_is_not_asked_about_every_example() -> None:
    with serving(faults=lambda body, number: failure(503)) as server:
        results, pauses = measured(hosted(server), count=500, rounds=2)
    assert [r.fault for r in results] == ["provider"] * 500
    assert len(server.calls()) < 60
    assert len(pauses) == 2


def test_errors_of_program_and_metric_are_not_the_providers_and_not_tried_again() -> None:
    class Fragile(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("text -> label")

        def forward(self, text: str) -> Any:
            if text == "2":
                raise KeyError("label")
            return self.predict(text=text)

    def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
        if example.text == "3":
            raise AttributeError("no gold")
        return right(example, prediction)

    with serving(faults=First(failure(400, "too long"), times=9, only=lambda n: n == 1)) as server:
        program, lm = Fragile(), hosted(server)
        program.predict.lm = lm
        runtime = Runtime(lm, CHAT, 2, Patience(sleep=pytest.fail))
        results = evaluate_examples(program, Measurement(numbers(5), metric, runtime, SilentProgress(), "t"))
    assert [r.fault for r in results] == [None, "program", "program", "metric", None]
    assert [r.outcome for r in results] == ["scored", "error", "error", "error", "scored"]


@pytest.mark.parametrize(
    ("settings", "words", "most"),
    [
        (
            {"api_key": "sk-planted-wrong-key"},
            ["HTTP 401", "api_key given to the LM is not accepted", "OPENAI_API_KEY"],
            8,
        ),
        ({"model": "openai/gone"}, ["no such model at http://127.0.0.1", "openai/gone", "404"], 24),
        ({"api_key": None}, ["no key: set OPENAI_API_KEY"], 8),
    ],
    ids=["wrong key", "unknown model", "no key"],
)
def test_a_refusal_ends_it_with_one_message(settings: dict[str, Any], words: list[str], most: int) -> None:
    with serving() as server, pytest.raises(ProviderError) as caught:
        measured(hosted(server, **settings), count=200)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "planted" not in str(caught.value)
    assert len(server.calls()) <= most


def test_a_key_in_the_environment_that_is_refused_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-in-environment")
    with serving() as server, pytest.raises(ProviderError, match="the key in OPENAI_API_KEY is not accepted") as caught:
        measured(hosted(server, api_key=None))
    assert "planted" not in str(caught.value)
    assert "***" in str(caught.value)


def test_a_used_up_quota_is_not_waited_for() -> None:
    with (
        serving(faults=lambda body, number: failure(429, "quota", "insufficient_quota")) as server,
        pytest.raises(ProviderError, match="quota is used up"),
    ):
        measured(hosted(server))


def test_a_refused_evaluation_is_not_asked_for_again(tmp_path: Path) -> None:
    with serving(keys=frozenset({"sk-other"})) as server:
        ladder = Ladder(experiment(dspy.Predict("text -> label"), hosted(server)), tmp_path / "store")
        for _ in range(3):
            with pytest.raises(ProviderError, match=r"stage 'baseline' could not be evaluated on dev: .*HTTP 401"):
                ladder.evaluate("baseline")
        assert len(server.calls()) <= 8


@pytest.mark.parametrize(
    ("model", "settings", "path"),
    [
        ("openai/ft:gpt-4o-mini-2024-07-18:org:tickets:abc123", {}, "/v1/chat/completions"),
        ("openai/ft:gpt-4o-mini-2024-07-18:org::abc123", {}, "/v1/chat/completions"),
        ("openai/ft:gpt-4o-mini-2024-07-18:org::abc123", {"engine": "litellm"}, "/v1/chat/completions"),
        ("openai/ft:gpt-4o-mini-2024-07-18:org::abc123", {"headers": {"x-team": "a"}}, "/v1/chat/completions"),
        ("openai/ft:gpt-4.1-nano-2025-04-14:org::abc123", {"model_type": "responses"}, "/v1/responses"),
    ],
    ids=["native, suffix", "native", "litellm", "litellm by settings", "responses"],
)
def test_a_fine_tuned_model_answers_through_every_engine(model: str, settings: dict[str, Any], path: str) -> None:
    name = model.removeprefix("openai/")
    with serving(models={"base", name}) as server:
        tuned = hosted(server, **settings).copy(model=model)  # as attach_models does
        results, _ = measured(tuned, count=4)
    assert [r.score for r in results] == [1.0] * 4, results[0].error
    assert {body["model"] for body in server.calls(path)} == {name}
    assert results[0].usage.input_tokens == 30


def test_trace_collection_waits_for_the_provider_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    stage = Stage("prompted", taught_by_traces, kind="prompt")
    with serving(faults=First(failure(429), only=lambda n: n % 7 == 0)) as server:
        ladder = Ladder(experiment(dspy.Predict("text -> label"), hosted(server), [stage]), tmp_path / "store")
        assert len(ladder.program("prompted").demos) == 32


def test_an_outage_while_traces_are_collected_trains_on_nothing(tmp_path: Path) -> None:
    from pytest_dspy_ft.finetune.traces import collect_traces

    with serving(faults=First(failure(503), times=99, only=lambda n: n == 3)) as server:
        lm = hosted(server)
        teacher = dspy.Predict("text -> label")
        teacher.lm = lm
        runtime = Runtime(lm, CHAT, 4, Patience(rounds=1, sleep=lambda seconds: None))
        with pytest.raises(ProviderError, match="failed on 1 of 10 examples"):
            collect_traces(teacher, numbers(10), None, runtime, progress=SilentProgress(), title="t")


def taught_by_traces(program: Any, *, trainset: Any, teacher: Any) -> Any:
    """An optimizer that demonstrates what the program itself answered."""
    from pytest_dspy_ft.finetune.traces import collect_traces

    lm = dspy.settings.lm
    runtime = Runtime(lm, CHAT, 4, Patience(sleep=lambda seconds: None))
    traces = collect_traces(program, trainset, right, runtime, progress=SilentProgress(), title="t")
    program.demos = [dspy.Example(**step.inputs, **step.outputs) for trace in traces for step in trace.steps]
    return program


@pytest.mark.parametrize("status", [400, 403, 404, 422, 451])
def test_one_input_that_is_refused_is_its_own_error_and_says_why(status: int, tmp_path: Path) -> None:
    fault = First(failure(status, "this one was blocked"), times=99, only=lambda n: n in (32, 33))
    stage = Stage("shown", dspy.BootstrapFewShot(metric=right))
    with serving(faults=fault) as server:
        ladder = Ladder(experiment(dspy.Predict("text -> label"), hosted(server), [stage]), tmp_path / "store")
        for name in ("baseline", "shown"):  # what comes first on dev is what is refused
            result = ladder.evaluate(name, "dev")
            assert (result.errors, result.score) == (2, 0.5)
            assert all("this one was blocked" in str(e.error) for e in result.examples if e.outcome == "error")
            assert "api_key" not in str(result.examples[0].error)


def test_a_split_that_begins_with_what_is_refused_is_measured(tmp_path: Path) -> None:
    fault = First(failure(403, "blocked"), times=99, only=lambda n: n < 25)
    with serving(faults=fault) as server:
        made = Ladder(experiment(dspy.Predict("text -> label"), hosted(server)), tmp_path / "store", num_threads=2)
        result = made.evaluate("baseline", "train")
    assert (result.errors, result.n) == (25, 32)


def test_requests_that_are_all_wrong_build_nothing(tmp_path: Path) -> None:
    stage = Stage("shown", dspy.BootstrapFewShot(metric=right))
    with serving(faults=lambda body, number: failure(400, "no such parameter")) as server:
        ladder = Ladder(experiment(dspy.Predict("text -> label"), hosted(server), [stage]), tmp_path / "store")
        with pytest.raises(ProviderError, match=r"answered nothing: .*no such parameter"):
            ladder.build("shown")
    assert len(server.calls()) <= 10
