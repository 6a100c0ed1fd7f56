"""That a served adapter is the trained one: a server that answers with its base model in its place is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.lms.adapter_probe import HereReplies, ProbeReply, ThereReplies, difference
from pytest_dspy_ft.lms.serving import Serving
from tests.lms.chat import Answer, Body, failure, last_text, serving
from tests.lms.model_server import ModelServer
from tests.lms.served_world import ladder, local_lm, parity, rule
from tests.scripted import fields_of, reply


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPY_CACHEDIR", str(tmp_path / "dspy_cache"))
    monkeypatch.setenv("DSPY_SERVE_API_KEY", "sk-right")
    return tmp_path


def always_odd(body: Body) -> str:
    return reply(label="odd")


def by_model(base: float, adapter: float) -> Callable[[str], list[float]]:
    return lambda model: [base, base] if model == "base" else [base, adapter]


def test_a_server_that_answers_with_its_base_model_is_an_error() -> None:
    with serving(ModelServer, rule=rule(), silent=True) as a, Serving(a.address) as group:
        one = ladder(group)
        with pytest.raises(ServingError, match=r"answers with its base model where the adapter .* is asked for"):
            one.evaluate("tuned")
        assert a.completions == [], "nothing was measured"
        assert one.evaluate("baseline").score == 0.5, "the base model is asked for as such"
    assert a.loaded == [{}]


def test_equal_probabilities_give_it_away_where_texts_are_alike() -> None:
    with serving(ModelServer, rule=always_odd, logprobs=by_model(-0.5, -0.5)) as a, Serving(a.address) as group:
        one = ladder(group)
        with pytest.raises(ServingError, match="answers with its base model"):
            one.evaluate("tuned")
    with serving(ModelServer, rule=always_odd, logprobs=by_model(-0.5, -0.51)) as a, Serving(a.address) as group:
        assert ladder(group).evaluate("tuned").score == 0.5


def test_an_adapter_that_changes_nothing_may_answer_as_the_base_model() -> None:
    tensors = {"x.lora_A.weight": [0, 4], "x.lora_B.weight": [4, 8]}
    header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": at} for name, at in tensors.items()})
    lora = len(header).to_bytes(8, "little") + header.encode() + b"\x01\x02\x03\x04" + bytes(4)
    with serving(ModelServer, rule=always_odd, logprobs=by_model(-0.5, -0.5)) as a, Serving(a.address) as group:
        one = ladder(group)
        one.build("tuned")
        adapter = next(iter(one.experiment.lm.engine.adapters.values())) / "adapter_model.safetensors"
        adapter.write_bytes(lora)
        assert one.evaluate("tuned").score == 0.5
    adapter.write_bytes(lora[:-1] + b"\x01")
    with serving(ModelServer, rule=always_odd, logprobs=by_model(-0.5, -0.5)) as a, Serving(a.address) as group:
        built = one.build("tuned").program.predictors()[0].lm
        with pytest.raises(ServingError, match="answers with its base model"):
            group.served(built)


def test_what_cannot_be_told_is_said() -> None:
    lm = local_lm()
    lm.engine.rule = lambda fields, request: reply(label="odd")
    with serving(ModelServer, rule=always_odd) as a, Serving(a.address) as group:
        one = ladder(group, lm)
        assert one.evaluate("tuned").score == 0.5
        (said,) = one.record().cautions
        assert said.startswith("it cannot be told whether the server at")


def test_an_adapter_that_is_lost_without_a_word_makes_the_evaluation_void() -> None:
    with serving(ModelServer, rule=rule()) as a, Serving(a.address) as group:

        def falls_silent(body: Body, number: int) -> Answer | None:
            a.silent = a.silent or len(a.completions) >= 2
            return None

        a.faults = falls_silent
        one = ladder(group)
        with pytest.raises(ServingError, match="lost the adapter during the evaluation"):
            one.evaluate("tuned")
    with serving(ModelServer, rule=rule()) as a, Serving(a.address) as group:
        group.identity = lambda: {"address": "x", "model": ""}  # type: ignore[method-assign]
        result = ladder(group).evaluate("tuned")
        assert result.score == 1.0
        assert not result.loaded


def test_another_reply_than_here_is_said_with_the_dtype() -> None:
    def other(body: Body) -> str:
        return reply(label="odd") if body["model"] == "base" else reply(label=f"{parity(fields_of(last_text(body)))} ")

    lm = local_lm()
    lm.engine.dtype = "bfloat16"
    lm.engine.rule = lambda fields, request: reply(label="odd" if "+" not in request.model else "none")
    with serving(ModelServer, rule=other) as a, Serving(a.address) as group:
        one = ladder(group, lm)
        one.evaluate("tuned")
        (said,) = one.record().cautions
        assert "otherwise than this machine does in bfloat16" in said
        assert "--dtype" in said


def test_a_large_model_is_not_loaded_here_for_a_probe() -> None:
    lm = local_lm()
    lm.engine.quickly_asked = False
    with serving(ModelServer, rule=rule()) as a, Serving(a.address) as group:
        assert ladder(group, lm).evaluate("tuned").score == 1.0
    assert lm.engine.requests == []


def test_a_server_that_tells_no_probabilities_is_asked_without() -> None:
    with serving(ModelServer, rule=rule()) as a, Serving(a.address) as group:
        a.faults = lambda body, number: failure(400, "logprobs is not supported") if body.get("logprobs") else None
        assert ladder(group).evaluate("tuned").score == 1.0


def test_examples_that_are_too_long_for_a_server_are_no_reason_to_measure_nothing() -> None:
    with serving(ModelServer, rule=rule()) as a, Serving(a.address) as group:

        def too_long(body: Body, number: int) -> Answer | None:
            text = fields_of(last_text(body))["text"] if "messages" in body else ""
            return failure(400, "This model's maximum context length is 8 tokens") if text in ("32", "33") else None

        a.faults = too_long
        result = ladder(group).evaluate("tuned")
        assert (result.n, sum(example.score for example in result.examples)) == (4, 2.0)


def replies(*texts: str) -> tuple[ProbeReply, ...]:
    return tuple(map(ProbeReply, texts))


def test_the_dtype_that_answers_alike_is_named() -> None:
    here = HereReplies("bfloat16", ("b",), ("the same beginning, then one",))
    there = ThereReplies(replies("b"), ProbeReply("b"), replies("the same beginning, then two"))
    asked: list[str] = []

    def in_dtype(name: str) -> HereReplies | None:
        asked.append(name)
        return HereReplies(name, ("b",), ("the same beginning, then two",))

    said = difference(here, there, in_dtype, "http://a/v1")
    assert asked == ["float32"]
    assert "it answers as this machine would in float32" in said
    assert "then two' there" in said
    assert "then one' here" in said
    unknown = difference(here, there, lambda name: None, "http://a/v1")
    assert "another dtype" in unknown
    assert "other weights" in unknown
    same: Any = HereReplies("bfloat16", ("b",), ("the same beginning, then two",))
    assert difference(same, there, in_dtype, "http://a/v1") == ""


def test_noise_of_a_server_is_no_adapter() -> None:
    def answered(base: float, again: float, adapter: float) -> str:
        def said(number: float) -> ProbeReply:
            return ProbeReply("odd", (number,))

        return ThereReplies((said(base),), said(again), (said(adapter),)).answered_by()

    assert answered(-0.5, -0.5, -0.5) == "base"
    assert answered(-0.5, -0.5, -0.501) == "adapter"
    assert answered(-0.5, -0.501, -0.502) == "base"
    assert answered(-0.5, -0.501, -0.6) == "adapter"
    assert ThereReplies(replies("a"), ProbeReply("b"), replies("c")).answered_by() == "unknown"
