"""The engine as DSPy sees it: its contract, its errors, its copies."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.inference.requests import DecodingRow
from pytest_dspy_ft.local.inference.runner import PrefixRunner
from pytest_dspy_ft.local.inference.scheduler import Job
from tests.local.chats import MODEL, TEXTS, Classify, ask_all, chat, texts

SPIN, KERNELS = "GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, ["1000", "128"]),
        ({SPIN: "7", KERNELS: "7"}, ["7", "7"]),
        ({"OMP_WAIT_POLICY": "active"}, ["None", "128"]),
    ],
)
def test_threads_spin_briefly_and_few_kernels_are_kept_unless_the_user_says_so(
    own: dict[str, str], expected: list[str]
) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in (SPIN, KERNELS, "OMP_WAIT_POLICY")} | own
    code = f"import os, pytest_dspy_ft.local.engine; print(os.environ.get({SPIN!r}), os.environ.get({KERNELS!r}))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_order_and_threads_do_not_matter(llama: LocalEngine, tiny: Any) -> None:
    model = f"local:{tiny('llama')}"
    requests = [chat(f"{text} {i}", model=model, temperature=0.8 * (i % 2)) for i, text in enumerate(TEXTS * 4)]
    first = texts(ask_all(llama, requests))
    shuffled = list(range(len(requests)))
    random.Random(1).shuffle(shuffled)
    llama.reset_sampling()
    second = texts(ask_all(llama, [requests[i] for i in shuffled], threads=5))
    assert [first[i] for i in shuffled] == second


def test_sampling(llama: LocalEngine, tiny: Any) -> None:
    model = f"local:{tiny('llama')}"
    hot = chat(TEXTS[0], model=model, temperature=1.0)
    repeated = texts(ask_all(llama, [hot] * 6))
    assert len(set(repeated)) > 3  # the same request again is another sample
    assert len(set(texts(ask_all(llama, [hot] * 6))) - set(repeated)) > 3
    llama.reset_sampling()
    assert sorted(texts(ask_all(llama, [hot] * 6))) == sorted(repeated)
    seeded = [chat(TEXTS[0], model=model, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    one, again, other = texts(ask_all(llama, seeded))
    assert one == again != other
    greedy = [
        chat(TEXTS[0], model=model, **config) for config in ({}, {"temperature": 0}, {"temperature": 1, "top_k": 1})
    ]
    greedy.append(chat(TEXTS[0], model=model, temperature=1, top_p=0))
    assert len(set(texts(ask_all(llama, greedy)))) == 1


def test_stops(llama: LocalEngine, tiny: Any) -> None:
    model = f"local:{tiny('llama')}"
    whole = llama.complete(chat(TEXTS[1], model=model, max_tokens=40)).text
    assert len(whole) > 20
    stop = whole[10:14]
    cut = llama.complete(chat(TEXTS[1], model=model, max_tokens=40, stop=("never there", stop)))
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.usage.output_tokens < 40


def test_the_closing_marker_ends_and_stays(llama: LocalEngine, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served = llama._load()
    script = served.renderer._backend.encode("ab [[ ## completed ## ]] cd", add_special_tokens=False).ids

    def scripted(logits: torch.Tensor, rows: list[DecodingRow]) -> list[int]:
        return [script[row.generated] for row in rows]

    monkeypatch.setattr("pytest_dspy_ft.local.inference.generate.choose_tokens", scripted)
    reply = llama.complete(chat(TEXTS[0], model=f"local:{tiny('llama')}", max_tokens=len(script)))
    assert reply.text == "ab [[ ## completed ## ]]"
    assert reply.finish_reason == "stop"
    assert reply.usage.output_tokens < len(script)


def test_usage_and_finish(llama: LocalEngine, tiny: Any) -> None:
    request = chat(TEXTS[0], model=f"local:{tiny('llama')}", max_tokens=5)
    first, second = llama.complete(request), llama.complete(request)
    prompt = llama._job(llama._load(), request, "").prompt
    assert first.usage.input_tokens == len(prompt)
    assert first.usage.output_tokens == 5
    assert first.finish_reason == "length"
    assert (first.usage.cache_read_tokens, second.usage.cache_read_tokens) == (0, len(prompt.prefix))
    stats = llama.stats()
    assert stats["requests"] == 2
    assert stats["output_tokens"] == 10
    assert (stats["prefix_hits"], stats["prefix_misses"]) == (1, 1)


def test_the_prefix_depends_on_the_request_alone(llama: LocalEngine) -> None:
    served = llama._load()
    prompts = [llama._job(served, chat(text), "").prompt for text in TEXTS]
    assert len({prompt.prefix for prompt in prompts}) == 1
    assert len(prompts[0].prefix) > 3 * len(prompts[0].tail)
    whole = served.renderer._backend.encode(prompts[1].text, add_special_tokens=False).ids
    assert [*prompts[1].prefix, *prompts[1].tail] == whole


def test_a_prompt_that_is_too_long_fails_alone(llama: LocalEngine, tiny: Any) -> None:
    model = f"local:{tiny('llama')}"
    long = chat("word " * 2000, model=model)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(llama.complete, request) for request in (chat(TEXTS[0], model=model), long)]
        assert waiting[0].result().text
        with pytest.raises(lm15.ContextLengthError, match=r"prompt has \d+ tokens.* at most 1024"):
            waiting[1].result()


def test_replies_end_with_the_context(llama: LocalEngine, tiny: Any) -> None:
    model = f"local:{tiny('llama')}"
    shortest = len(llama._job(llama._load(), chat("x", model=model), "").prompt)
    prompt = chat("x" * (1024 - 64 - shortest), model=model, max_tokens=5000)  # at most a token for each letter
    used = len(llama._job(llama._load(), prompt, "").prompt)
    assert used < 1024
    reply = llama.complete(prompt)
    assert reply.finish_reason in ("length", "stop")
    assert used + reply.usage.output_tokens <= 1024


def test_a_request_that_breaks_the_model_fails_alone(
    llama: LocalEngine, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"local:{tiny('llama')}"
    start = PrefixRunner.start

    def fragile(self: PrefixRunner, prefix: Any, tails: Any) -> Any:
        if any(len(tail) > 150 for tail in tails):
            raise MemoryError("too much")
        return start(self, prefix, tails)

    monkeypatch.setattr(PrefixRunner, "start", fragile)
    requests = [chat(text, model=model) for text in (*TEXTS, "very long " * 30)]
    with ThreadPoolExecutor(16) as pool, llama.expect(len(requests)):
        waiting = [pool.submit(llama.complete, request) for request in requests]
        with pytest.raises(MemoryError, match="too much"):
            waiting[-1].result()
        together = [future.result().text for future in waiting[:-1]]
    monkeypatch.undo()
    assert together == [llama.complete(request).text for request in requests[:-1]]


@pytest.mark.parametrize(
    "change",
    [
        {"config": lm15.Config(logprobs=1)},
        {"config": lm15.Config(presence_penalty=1.0)},
        {"tools": (lm15.FunctionTool(name="f", description="d", parameters={"type": "object"}),)},
        {"messages": (lm15.Message.user([lm15.TextPart("a"), lm15.ImagePart(url="https://example.org/a.png")]),)},
    ],
)
def test_what_the_model_cannot_do_is_refused(llama: LocalEngine, tiny: Any, change: dict[str, Any]) -> None:
    fields = {"model": f"local:{tiny('llama')}", "messages": (lm15.Message.user("hi"),)}
    with pytest.raises(lm15.UnsupportedFeatureError):
        llama.complete(lm15.Request(**fields | change))


def test_settings_without_effect_are_reported(llama: LocalEngine, tiny: Any) -> None:
    request = chat(TEXTS[0], model=f"local:{tiny('llama')}", user_id="somebody")
    assert [note.field for note in llama.complete(request).adaptations] == ["config.user_id"]


@pytest.mark.parametrize("model", ["local:other", "smollm2-135m", "local:", "openai/gpt-4o"])
def test_another_models_name_is_refused(llama: LocalEngine, model: str) -> None:
    with pytest.raises(lm15.UnsupportedModelError, match="serves 'local:"):
        llama.complete(chat("x", model=model))


def test_a_closed_engine_says_so(tiny: Any) -> None:
    engine = LocalEngine(tiny("llama"))
    engine.shutdown()
    with pytest.raises(RuntimeError, match="closed"):
        engine._scheduler.submit(Job(0))


def test_state_copies_and_pickles_lead_to_the_same_engine(tiny: Any) -> None:
    engine = LocalEngine.shared(tiny("llama"))
    assert LocalEngine.shared(tiny("llama")) is engine
    assert copy.deepcopy(engine) is engine
    assert pickle.loads(pickle.dumps(engine)) is engine
    assert LocalEngine.load_state(json.loads(json.dumps(engine.dump_state()))) is engine
    other = LocalEngine(tiny("llama"), max_batch_size=3)
    assert LocalEngine.load_state(other.dump_state()).preferred_concurrency == 3
    assert engine.identity() == other.identity()
    engine.shutdown()
    assert LocalEngine.shared(tiny("llama")) is not engine


def test_a_saved_program_finds_its_engine_again(tiny: Any, tmp_path: Path) -> None:
    name = tiny("llama")
    program = dspy.Predict(Classify)
    program.lm = dspy.LM(f"local:{name}", engine=LocalEngine.shared(name), cache=False, max_tokens=8)
    file = tmp_path / "program.json"
    program.save(file)
    loaded = dspy.Predict(Classify)
    loaded.load(file, allow_unsafe_lm_state=True)
    assert loaded.lm.engine is program.lm.engine
    assert loaded.lm("hello") == program.lm("hello")


def test_errors_reach_dspy_as_its_own(tiny: Any) -> None:
    lm = dspy.LM(f"local:{tiny('llama')}", engine=LocalEngine.shared(tiny("llama")), cache=False)
    with pytest.raises(dspy.ContextWindowExceededError):
        lm("word " * 3000)


@pytest.mark.model
def test_a_program_of_demos_runs_from_end_to_end(smollm2_engine: LocalEngine) -> None:
    lm = dspy.LM(MODEL, engine=smollm2_engine, cache=False, max_tokens=32)
    shown = [
        dspy.Example(text=text, category=category).with_inputs("text")
        for text, category in zip(
            TEXTS[:5], ("billing", "technical", "account", "feature_request", "other"), strict=True
        )
    ]
    program = dspy.Predict(Classify)
    program.demos = shown
    devset = [dspy.Example(text=text, category="x").with_inputs("text") for text in TEXTS[5:]]
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        evaluate = dspy.Evaluate(
            devset=devset, metric=lambda example, prediction, trace=None: bool(prediction.category), num_threads=3
        )
        assert evaluate(program).score == 100
