"""Models of this machine evaluated on a server: a real HTTP server that loads adapters as vLLM and SGLang do."""

from __future__ import annotations

from pathlib import Path

import dspy
import pytest

from pytest_dspy_ft import Ladder
from pytest_dspy_ft.errors import ProviderError, ServingError
from pytest_dspy_ft.lms.serving import Serving
from tests.lms.chat import ChatServer, failure, serving
from tests.lms.served_world import ladder, rule


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPY_CACHEDIR", str(tmp_path / "dspy_cache"))
    monkeypatch.setenv("DSPY_SERVE_API_KEY", "sk-right")
    return tmp_path


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_base_and_adapter_are_evaluated_on_the_server(dialect: str) -> None:
    with serving(dialect=dialect, rule=rule()) as running:
        with Serving(running.address) as server:
            one = ladder(server)
            assert one.evaluate("baseline").score == 0.5
            assert one.evaluate("tuned").score == 1.0
            assert one.evaluate("tuned", on="test").score == 1.0
            assert len(running.adapters) == 1, "loaded once"
            (folder,) = running.adapters.values()
            assert Path(folder).is_dir()
            assert Path(folder).is_relative_to(Path("store").resolve())
        assert running.adapters == {}, "and unloaded"
    prefix = {"vllm": "/v1", "sglang": ""}[dialect]
    assert len(running.calls(f"{prefix}/load_lora_adapter")) == 1
    models = {body["model"] for body in running.calls()}
    assert len(models) == 2
    assert "base" in models
    asked = {body["messages"][-1]["content"] for body in running.calls() if body.get("logprobs")}
    here = {request.messages[-1].parts[0].text for request in one.experiment.lm.engine.requests}
    assert here == asked, "nothing was answered here but what tells the adapter from the base model"
    assert len(asked) == 2
    result = one.evaluate("tuned")
    assert result.lm == "local:toy+tuned"
    assert result.usage.input_tokens == 30 * result.n
    assert result.cost == 0.0
    body = next(body for body in running.calls() if not body.get("logprobs"))
    assert body["temperature"] == 0.0
    assert body["stop"] == ["[[ ## completed ## ]]"]
    assert body.get("max_tokens", body.get("max_completion_tokens")) == 256


def test_an_evaluation_there_is_kept_apart_from_one_here() -> None:
    with serving(rule=rule()) as running, Serving(running.address) as server:
        there = ladder(server).evaluate("tuned")
        here = ladder(None).evaluate("tuned")
        assert there.key != here.key
        assert not here.loaded
        asked = len(running.requests)
        again = ladder(server).evaluate("tuned")
        assert again.loaded
        assert again.key == there.key
        assert len(running.requests) == asked, "a stored evaluation needs no server"
    frozen = Ladder(ladder(None).experiment, "store", serving=Serving(running.address), frozen=True)
    assert frozen.evaluate("tuned").score == 1.0


def test_rate_limits_of_the_server_are_waited_out() -> None:
    busy = iter([True] * 3)
    with (
        serving(
            rule=rule(), faults=lambda body, n: failure(429) if "messages" in body and next(busy, None) else None
        ) as running,
        Serving(running.address) as server,
    ):
        assert ladder(server).evaluate("baseline").errors == 0


def test_hosted_models_stay_where_they_are() -> None:
    lm = dspy.LM("openai/base", api_key="k")
    assert Serving("http://127.0.0.1:9/v1").served(lm) is lm


def refused(running: ChatServer, words: list[str], address: str | None = None) -> None:
    with Serving(address or running.address) as server:
        one = ladder(server)
        one.build("tuned")
        with pytest.raises((ServingError, ProviderError)) as caught:
            one.evaluate("tuned")
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "sk-right" not in message
    assert not [body for body in running.calls() if "messages" in body]


def test_a_server_that_loads_no_adapters_says_how_to_start_one() -> None:
    with serving(dialect="none") as running:
        refused(running, ["loads no LoRA", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", "--enable-lora"])


def test_a_server_that_does_not_see_the_store() -> None:
    refusal = failure(404, "Loading lora failed: No adapter found for /work/store")
    with serving(faults=lambda body, n: refusal if "lora_path" in body else None) as running:
        refused(running, ["did not load the adapter", "No adapter found", "must lie where both see it"])
    echo = failure(400, "we know your key sk-right; rank 16 is greater than max_lora_rank 8")
    with serving(faults=lambda body, n: echo if "lora_path" in body else None) as running:
        refused(running, ["HTTP 400", "max_lora_rank 8", "***"])


def test_a_server_that_is_not_there_or_wants_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as running:
        address = running.address
        monkeypatch.setenv("DSPY_SERVE_API_KEY", "sk-other-key")
        refused(running, ["no OpenAI-compatible server answers at", "401", "DSPY_SERVE_API_KEY"])
    refused(running, ["no OpenAI-compatible server answers at", "/v1/models"], address)


def test_a_server_with_several_models_needs_one_named() -> None:
    with serving(models={"base", "other"}, rule=rule()) as running:
        refused(running, ["has not one base model but: base, other", "#MODEL"])
        with Serving(f"{running.address}#base") as server:
            assert ladder(server).evaluate("baseline").score == 0.5


def test_what_is_no_address() -> None:
    with pytest.raises(ServingError, match="'gpu:8000' is no address"):
        Serving("gpu:8000")
