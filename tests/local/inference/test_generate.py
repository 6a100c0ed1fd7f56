"""Replies of a batch: those of transformers' own generation, whoever else is in the batch."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from pytest_dspy_ft.local import weights
from pytest_dspy_ft.local.compat import can_pack
from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.inference.fused_runner import FusedRunner
from pytest_dspy_ft.local.inference.generate import choose_tokens
from pytest_dspy_ft.local.inference.model import PrefixCache
from pytest_dspy_ft.local.inference.prompts import chat_messages
from pytest_dspy_ft.local.inference.requests import DecodingRow, Sampling, cut_at_stop
from pytest_dspy_ft.local.inference.runner import PlainRunner, PrefixRunner, choose_runner
from tests.local.chats import TEXTS, ask_all, chat, generate_plainly, texts

RUNNERS = {
    "llama": PrefixRunner,
    "qwen2": PrefixRunner,
    "gpt-neox": PrefixRunner,
    "gpt2": PrefixRunner,
    "bloom": PlainRunner,
    "mistral-window": PlainRunner,
}


@pytest.mark.parametrize("kind", RUNNERS)
def test_batched_replies_are_those_of_generate(kind: str, tiny: Any) -> None:
    engine = LocalEngine(tiny(kind), device="cpu", dtype="float32")
    requests = [chat(text, model=f"local:{tiny(kind)}", max_tokens=20) for text in TEXTS]
    got = texts(ask_all(engine, requests))
    assert type(engine._load().base) is RUNNERS[kind]
    plain = weights.load_private(weights.resolve_source(tiny(kind)), device="cpu", dtype="float32")
    assert got == [generate_plainly(plain.model, plain.tokenizer, request) for request in requests]
    assert len(set(got)) > 1
    assert engine.stats()["prefix_misses"] == 1
    assert engine.stats()["generations"] < len(requests)
    engine.shutdown()


@pytest.mark.parametrize(("dtype", "expected"), [("float32", PrefixRunner), ("bfloat16", FusedRunner)])
def test_the_embedded_lm_shares_prefixes_in_either_precision(dtype: str, expected: type) -> None:
    """In bfloat16 special tokens are off by so much that a probe made of them refused the right attention."""
    if not can_pack("cpu", getattr(torch, dtype)):
        expected = PrefixRunner
    loaded = weights.load_private(weights.resolve_source("smollm2-135m"), device="cpu", dtype=dtype)
    assert type(choose_runner(loaded.model, "cpu")) is expected


def test_a_row_does_not_depend_on_its_batch_mates(llama: LocalEngine) -> None:
    """Bit for bit: logits of a prompt alone and among others, while prefilling and decoding."""
    runner = llama._load().base
    generator = random.Random(0)
    prefix_tokens = [generator.randrange(2, 400) for _ in range(75)]
    tails = [[generator.randrange(2, 400) for _ in range(generator.randrange(1, 40))] for _ in range(48)]
    with torch.inference_mode():
        for prefix in (runner.prefix(prefix_tokens), None):
            rows, first = runner.start(prefix, tails)
            second = rows.step(list(range(48)))
            rows.keep([0, 47, 2])
            third = rows.step([5, 6, 7])
            for row in (0, 2, 47):
                alone, logits = runner.start(prefix, [tails[row]])
                assert torch.equal(logits[0], first[row])
                assert torch.equal(alone.step([row])[0], second[row])
                assert torch.equal(alone.step([{0: 5, 47: 6, 2: 7}[row]])[0], third[[0, 47, 2].index(row)])


def test_long_replies_outgrow_the_first_store(llama: LocalEngine, tiny: Any) -> None:
    request = chat(TEXTS[0], model=f"local:{tiny('llama')}", max_tokens=150)
    plain = weights.load_private(weights.resolve_source(tiny("llama")), device="cpu", dtype="float32")
    assert llama.complete(request).text == generate_plainly(plain.model, plain.tokenizer, request)


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, None), (0.7, None), (1.0, 3), (0.7, 3)])
def test_samples_follow_the_distribution(top_p: float, top_k: int | None) -> None:
    logits = torch.log(torch.tensor([0.1, 0.4, 0.15, 0.3, 0.05]))
    rows = [DecodingRow([0], 1, sampling=Sampling(1.0, top_p, top_k, seed)) for seed in range(4000)]
    chosen = torch.tensor(choose_tokens(logits.expand(len(rows), -1), rows))
    share = torch.bincount(chosen, minlength=5) / len(rows)
    kept = {(1.0, None): [0, 1, 2, 3, 4], (0.7, None): [1, 3], (1.0, 3): [1, 2, 3], (0.7, 3): [1, 3]}[top_p, top_k]
    expected = torch.zeros(5)
    expected[kept] = logits.exp()[kept]
    assert torch.allclose(share, expected / expected.sum(), atol=0.03)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("abc", (), "abc"),
        ("a b c", ("b", "a b"), ""),
        ("x [[end]] y", (), "x [[end]]"),
        ("x [[end]] y", ("y",), "x [[end]]"),
        ("x [[end]] y", ("[[",), "x "),
    ],
)
def test_cutting_at_stops(text: str, stops: tuple[str, ...], expected: str) -> None:
    assert cut_at_stop(text, stops, ("[[end]]",)) == expected


def test_the_prefix_cache_is_bounded() -> None:
    class Entry:
        nbytes = 40

    cache = PrefixCache(100)
    for key in "abab":
        cache.get(key, Entry)
    assert cache.get("c", Entry)[1] is False
    assert cache.nbytes == 80
    assert cache.get("b", Entry)[1] is True
    assert cache.get("a", Entry)[1] is False
    assert PrefixCache(1).get("x", Entry)[0].nbytes == 40


@pytest.mark.model
def test_the_bundled_model_answers_as_with_generate() -> None:
    engine = LocalEngine("smollm2-135m", device="cpu", dtype="float32")
    loaded = weights.load(weights.resolve_source("smollm2-135m"), device="cpu", dtype="float32")
    requests = [chat(text, demos=demos) for demos in (0, 4) for text in TEXTS[:3]]
    got = texts(ask_all(engine, requests))
    assert got == [generate_plainly(loaded.model, loaded.tokenizer, request) for request in requests]
    engine.shutdown()


@pytest.mark.model
def test_bfloat16_is_as_near_to_float32_as_with_transformers() -> None:
    """Texts of the two precisions part sooner or later; logits must not be further apart than rounding puts them."""
    source = weights.resolve_source("smollm2-135m")
    engine = LocalEngine(source, device="cpu", dtype="bfloat16")
    served, texts_asked = engine._load(), [chat(text, demos=demos) for demos in (0, 4) for text in TEXTS[:3]]
    prompts = [served.renderer.render(chat_messages(request)) for request in texts_asked]
    logits: dict[str, list[torch.Tensor]] = {"ours": [], "float32": [], "bfloat16": []}
    with torch.inference_mode():
        for prompt in prompts:
            prefix = served.base.prefix(prompt.prefix)
            logits["ours"].append(served.base.start(prefix, [prompt.tail])[1][0].float())
        for dtype in ("float32", "bfloat16"):
            plain = weights.load(source, device="cpu", dtype=dtype).model
            for prompt in prompts:
                whole = torch.tensor([[*prompt.prefix, *prompt.tail]])
                logits[dtype].append(plain(whole, use_cache=False).logits[0, -1].float())
    exact, theirs, ours = (torch.stack(logits[name]) for name in ("float32", "bfloat16", "ours"))
    assert (ours - exact).norm() < 1.25 * (theirs - exact).norm()
    engine.shutdown()


@pytest.mark.model
def test_the_bundled_model_does_not_depend_on_batches(smollm2_engine: LocalEngine) -> None:
    requests = [chat(f"{text} {i}", demos=2) for i, text in enumerate(TEXTS * 2)]
    first = texts(ask_all(smollm2_engine, requests))
    order = list(range(len(requests)))
    random.Random(0).shuffle(order)
    second = texts(ask_all(smollm2_engine, [requests[i] for i in order], threads=7))
    assert [first[i] for i in order] == second
    served = smollm2_engine._load()
    if served.device == "cpu":
        runner, prompts = served.base, [smollm2_engine._job(served, request, "").prompt for request in requests]
        with torch.inference_mode():
            prefix = runner.prefix(prompts[0].prefix)
            _, together = runner.start(prefix, [prompt.tail for prompt in prompts])
            for row in (0, 9, 15):
                assert torch.equal(runner.start(prefix, [prompts[row].tail])[1][0], together[row])
