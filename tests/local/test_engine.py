from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import random
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15

from pytest_dspy_ft.errors import LMError

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from pytest_dspy_ft.local import weights
from pytest_dspy_ft.local.engine import AsyncLocalEngine, LocalEngine
from pytest_dspy_ft.local.inference.generate import Row, Sampling, choose_tokens, cut_at_stop
from pytest_dspy_ft.local.inference.prefix_cache import PrefixCache
from pytest_dspy_ft.local.inference.runner import PlainRunner, PrefixRunner, choose_runner
from pytest_dspy_ft.local.inference.scheduler import Job, Scheduler

MODEL = "local:smollm2-135m"
TEXTS = [
    "I was charged twice this month.",
    "The app crashes when I upload a file, and has done so since the last update came out on Monday.",
    "How do I change my e-mail address?",
    "Please add a dark mode.",
    "Where is your office?",
    "My invoice shows the wrong VAT number; I need a corrected one before the end of the quarter, please.",
    "Login fails.",
    "Could reports be exported to CSV?",
]


class Classify(dspy.Signature):
    """Classify the support ticket into a category."""

    text: str = dspy.InputField()
    category: str = dspy.OutputField(desc="one of: billing, technical, account, feature_request, other")


def chat(text: str, *, demos: int = 2, model: str = MODEL, **config: Any) -> lm15.Request:
    """A request as DSPy's ChatAdapter makes it."""
    shown = [{"text": f"Question {i} about an invoice", "category": "billing"} for i in range(demos)]
    system, *turns = dspy.ChatAdapter().format(Classify, shown, {"text": text})
    messages = [
        (lm15.Message.user if turn["role"] == "user" else lm15.Message.assistant)(turn["content"]) for turn in turns
    ]
    return lm15.Request(
        model=model,
        system=system["content"],
        messages=tuple(messages),
        config=lm15.Config(**{"max_tokens": 12} | config),
    )


def ask_all(engine: LocalEngine, requests: list[lm15.Request], threads: int = 32) -> list[lm15.Response]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(engine.complete, requests))


def texts(responses: list[lm15.Response]) -> list[str]:
    return [response.text or "" for response in responses]


# --- small random models of several architectures, made on the spot


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*TEXTS, Classify.instructions, "[[ ## completed ## ]]"], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", bos_token="<|im_start|>")
    made.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return made


def tiny_config(kind: str) -> Any:
    from transformers import BloomConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig, Qwen2Config

    sizes = {
        "vocab_size": 400,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "max_position_embeddings": 1024,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "initializer_range": 0.3,
    }
    if kind == "llama":
        return LlamaConfig(**sizes, num_key_value_heads=2)
    if kind == "qwen2":  # biases on the projections
        return Qwen2Config(**sizes, num_key_value_heads=3)
    if kind == "mistral-window":
        return MistralConfig(**sizes, num_key_value_heads=2, sliding_window=200)
    if kind == "gpt-neox":
        return GPTNeoXConfig(**sizes)
    if kind == "gpt2":
        return GPT2Config(
            vocab_size=400, n_embd=48, n_layer=3, n_head=6, bos_token_id=0, eos_token_id=1, initializer_range=0.3
        )
    if kind == "bloom":  # adds position biases to the scores by itself
        return BloomConfig(
            vocab_size=400,
            hidden_size=48,
            n_layer=3,
            n_head=6,
            bos_token_id=0,
            eos_token_id=1,
            initializer_range=0.3,
            max_position_embeddings=1024,
        )
    raise ValueError(kind)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Any:
    """Returns the folder of a tiny model of a kind, made once per session."""
    from transformers import AutoModelForCausalLM

    made: dict[str, str] = {}

    def folder(kind: str) -> str:
        if kind not in made:
            torch.manual_seed(0)
            place = tmp_path_factory.mktemp("tiny") / kind
            AutoModelForCausalLM.from_config(tiny_config(kind)).save_pretrained(place)
            tokenizer.save_pretrained(place)
            made[kind] = str(place)
        return made[kind]

    return folder


@pytest.fixture
def llama(tiny: Any) -> Iterator[LocalEngine]:
    engine = LocalEngine(tiny("llama"), device="cpu", dtype="float32")
    yield engine
    engine.shutdown()


def generate_plainly(model: Any, tokenizer: Any, request: lm15.Request) -> str:
    """What transformers' own greedy generation answers."""
    messages = [{"role": "system", "content": request.system}]
    messages += [{"role": message.role, "content": message.text} for message in request.messages]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    output = model.generate(
        input_ids=ids["input_ids"],
        attention_mask=ids["attention_mask"],
        max_new_tokens=request.config.max_tokens,
        do_sample=False,
        pad_token_id=model.generation_config.eos_token_id,
    )
    reply = tokenizer.decode(
        output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return cut_at_stop(reply, (), ("[[ ## completed ## ]]",))


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_embedded_lm_shares_prefixes_in_either_precision(dtype: str) -> None:
    """In bfloat16 special tokens are off by so much that a probe made of them refused the right attention."""
    loaded = weights.load_private(weights.resolve_source("smollm2-135m"), device="cpu", dtype=dtype)
    assert type(choose_runner(loaded.model, "cpu")) is PrefixRunner


@pytest.mark.parametrize(
    ("setting", "own", "expected"),
    [
        ("GOMP_SPINCOUNT", {}, "1000"),
        ("GOMP_SPINCOUNT", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("GOMP_SPINCOUNT", {"OMP_WAIT_POLICY": "active"}, "None"),
        ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", {}, "128"),
        ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7"}, "7"),
    ],
)
def test_threads_spin_briefly_and_few_kernels_are_kept_unless_the_user_says_so(
    setting: str, own: dict[str, str], expected: str
) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in (setting, "OMP_WAIT_POLICY")} | own
    code = f"import os, pytest_dspy_ft.local.engine; print(os.environ.get({setting!r}))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


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


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, None), (0.7, None), (1.0, 3), (0.7, 3)])
def test_samples_follow_the_distribution(top_p: float, top_k: int | None) -> None:
    logits = torch.log(torch.tensor([0.1, 0.4, 0.15, 0.3, 0.05]))
    rows = [Row([0], 1, sampling=Sampling(1.0, top_p, top_k, seed)) for seed in range(4000)]
    chosen = torch.tensor(choose_tokens(logits.expand(len(rows), -1), rows))
    share = torch.bincount(chosen, minlength=5) / len(rows)
    kept = {(1.0, None): [0, 1, 2, 3, 4], (0.7, None): [1, 3], (1.0, 3): [1, 2, 3], (0.7, 3): [1, 3]}[top_p, top_k]
    expected = torch.zeros(5)
    expected[kept] = logits.exp()[kept]
    assert torch.allclose(share, expected / expected.sum(), atol=0.03)


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
    runtime = llama._load()
    script = runtime.renderer._backend.encode("ab [[ ## completed ## ]] cd", add_special_tokens=False).ids

    def scripted(logits: torch.Tensor, rows: list[Row]) -> list[int]:
        return [script[row.generated] for row in rows]

    monkeypatch.setattr("pytest_dspy_ft.local.inference.generate.choose_tokens", scripted)
    reply = llama.complete(chat(TEXTS[0], model=f"local:{tiny('llama')}", max_tokens=len(script)))
    assert reply.text == "ab [[ ## completed ## ]]"
    assert reply.finish_reason == "stop"
    assert reply.usage.output_tokens < len(script)


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
    runtime = llama._load()
    prompts = [llama._job(runtime, chat(text), "").prompt for text in TEXTS]
    assert len({prompt.prefix for prompt in prompts}) == 1
    assert len(prompts[0].prefix) > 3 * len(prompts[0].tail)
    whole = runtime.renderer._backend.encode(prompts[1].text, add_special_tokens=False).ids
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
    prompt = chat("x" * 100, model=model, max_tokens=5000)
    used = len(llama._job(llama._load(), prompt, "").prompt)
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
    request = chat(TEXTS[0], model=f"local:{tiny('llama')}", response_format={"type": "json_object"})
    assert [note.field for note in llama.complete(request).adaptations] == ["config.response_format"]


@pytest.mark.parametrize("model", ["local:other", "smollm2-135m", "local:", "openai/gpt-4o"])
def test_another_models_name_is_refused(llama: LocalEngine, model: str) -> None:
    with pytest.raises(lm15.UnsupportedModelError, match="serves 'local:"):
        llama.complete(chat("x", model=model))


# --- adapters


def make_adapter(base: str, place: Path, seed: int, **config: Any) -> str:
    """Train nothing: a LoRA with random factors. Returns peft's own merged reply to TEXTS[0]."""
    from peft import LoraConfig, get_peft_model

    loaded = weights.load_private(weights.resolve_source(base), device="cpu", dtype="float32")
    torch.manual_seed(seed)
    targets = ["q_proj", "v_proj", "down_proj"]
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=targets, init_lora_weights=False, **config)
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5 for a property that goes away in 6
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.* is deprecated", FutureWarning)
        model: Any = get_peft_model(loaded.model, lora)
    model.save_pretrained(place)
    name = "smollm2-135m" if base == "smollm2-135m" else base
    return generate_plainly(model.merge_and_unload(), loaded.tokenizer, chat(TEXTS[0], model=f"local:{name}"))


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"rank_pattern": {"v_proj": 8}}])
def test_an_adapter_answers_as_pefts_merged_model(
    llama: LocalEngine, tiny: Any, tmp_path: Path, config: dict[str, Any]
) -> None:
    base = f"local:{tiny('llama')}"
    expected = make_adapter(tiny("llama"), tmp_path, 1, **config)
    before = llama.complete(chat(TEXTS[0], model=base)).text
    llama.add_adapter("tuned", tmp_path)
    tuned, plain = ask_all(llama, [chat(TEXTS[0], model=f"{base}+tuned"), chat(TEXTS[0], model=base)])
    assert tuned.text == expected != before
    assert tuned.model == f"{base}+tuned"
    assert plain.text == before


def test_adapters_share_what_they_do_not_change(llama: LocalEngine, tiny: Any, tmp_path: Path) -> None:
    make_adapter(tiny("llama"), tmp_path, 1)
    llama.add_adapter("tuned", tmp_path)
    llama.complete(chat(TEXTS[0], model=f"local:{tiny('llama')}+tuned"))
    runtime = llama._load()
    base, merged = runtime.base.model.model, runtime.merged["tuned"].model.model
    assert merged.embed_tokens.weight is base.embed_tokens.weight
    assert merged.layers[0].self_attn.k_proj.packed is base.layers[0].self_attn.k_proj.packed
    assert merged.layers[0].self_attn.q_proj.packed is not base.layers[0].self_attn.q_proj.packed


def test_few_merged_models_are_kept_and_replaced_adapters_are_read_again(
    llama: LocalEngine, tiny: Any, tmp_path: Path
) -> None:
    base = f"local:{tiny('llama')}"
    expected = [make_adapter(tiny("llama"), tmp_path / str(i), i) for i in range(3)]
    for i in range(3):
        llama.add_adapter(f"a{i}", tmp_path / str(i))
    for i in (0, 1, 2, 0):
        assert llama.complete(chat(TEXTS[0], model=f"{base}+a{i}")).text == expected[i]
    assert len(llama._load().merged) == 1
    assert llama.stats()["adapter_merges"] == 4
    llama.add_adapter("a0", tmp_path / "2")
    assert llama.complete(chat(TEXTS[0], model=f"{base}+a0")).text == expected[2]


def test_the_folder_of_an_adapter(tmp_path: Path) -> None:
    engine = LocalEngine("smollm2-135m")  # nothing is loaded
    with pytest.raises(LMError, match=r"no adapter 'tuned' .*known: none"):
        engine.adapter_path("tuned")
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (folder / "adapter_model.safetensors").touch()
        engine.add_adapter("tuned", folder)
        assert engine.adapter_path("tuned") == folder
    with pytest.raises(LMError, match=r"no adapter 'other' .*known: tuned"):
        engine.adapter_path("other")


def test_adapters_that_cannot_be_served(llama: LocalEngine, tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(lm15.UnsupportedModelError, match=r"no adapter 'none' .*known: none"):
        llama.complete(chat("x", model=f"local:{tiny('llama')}+none"))
    with pytest.raises(LMError, match=r"adapter_config\.json"):
        llama.add_adapter("empty", tmp_path)
    make_adapter(tiny("llama"), tmp_path, 1)
    with pytest.raises(LMError, match="adapter name"):
        llama.add_adapter("a/b", tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(LMError, match="use_dora=True"):
        llama.add_adapter("dora", tmp_path)
    file.write_text(json.dumps(config))
    make_adapter(tiny("qwen2"), tmp_path, 1)  # other shapes
    llama.add_adapter("other", tmp_path)
    with pytest.raises(LMError, match="v_proj is"):
        llama.complete(chat("x", model=f"local:{tiny('llama')}+other"))
    assert llama.complete(chat("x", model=f"local:{tiny('llama')}")).text


# --- scheduling


def echo_scheduler(enough: int = 64) -> tuple[Scheduler, list[list[int]]]:
    batches: list[list[int]] = []

    def answer(jobs: Any) -> None:
        batches.append([job.sort_key for job in jobs])
        for job in jobs:
            job.result = job.sort_key

    return Scheduler(answer, enough), batches


def test_expected_workers_are_batched_exactly() -> None:
    scheduler, batches = echo_scheduler()

    def work(worker: int) -> None:
        with expected.worker():
            for turn in range(worker + 1):  # workers end at different times
                time.sleep(random.random() * 0.05)
                assert scheduler.submit(Job(10 * turn + worker)) == 10 * turn + worker

    with scheduler.expect(4) as expected, ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert batches == [[0, 1, 2, 3], [11, 12, 13], [22, 23], [33]]
    assert scheduler.timeouts == 0


def test_a_worker_that_raises_is_not_waited_for() -> None:
    scheduler, batches = echo_scheduler()

    def work(worker: int) -> None:
        with expected.worker():
            if worker == 0:
                raise RuntimeError("broken")
            scheduler.submit(Job(worker))

    started = time.monotonic()
    with scheduler.expect(3) as expected, ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(work, worker) for worker in range(3)]
        with pytest.raises(RuntimeError, match="broken"):
            futures[0].result()
        assert [future.result() for future in futures[1:]] == [None, None]
    assert batches == [[1, 2]]
    assert time.monotonic() - started < 2


def test_a_worker_that_never_asks_only_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_dspy_ft.local.inference.scheduler.EXPECTED_SECONDS", 0.2)
    scheduler, batches = echo_scheduler()
    with scheduler.expect(2):
        assert scheduler.submit(Job(1)) == 1
    assert batches == [[1]]
    assert scheduler.timeouts == 1


def test_nested_expectations_do_not_deadlock() -> None:
    scheduler, batches = echo_scheduler()

    def inner(value: int) -> None:
        with nested.worker():
            scheduler.submit(Job(value))

    started = time.monotonic()
    with scheduler.expect(2) as outer:

        def work(worker: int) -> None:
            nonlocal nested
            with outer.worker():
                if worker == 0:
                    with scheduler.expect(2) as nested, ThreadPoolExecutor(2) as pool:
                        list(pool.map(inner, (10, 11)))
                else:
                    time.sleep(0.1)
                    scheduler.submit(Job(1))

        nested: Any = None
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, range(2)))
    with scheduler.expect(5), scheduler.expect(1):  # in one thread the inner one counts
        scheduler.submit(Job(99))
    assert sorted(key for batch in batches for key in batch) == [1, 10, 11, 99]
    assert scheduler.timeouts == 0
    assert time.monotonic() - started < 4


def test_without_expectations_callers_run_in_lock_step() -> None:
    scheduler, batches = echo_scheduler()

    def work(worker: int) -> None:
        for turn in range(5):
            scheduler.submit(Job(100 * turn + worker))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert sum(map(len, batches)) == 80
    assert len(batches) < 20


def test_an_answer_that_raises_reaches_its_callers_and_the_thread_survives() -> None:
    calls = []

    def answer(jobs: Any) -> None:
        calls.append(len(jobs))
        if len(calls) == 1:
            raise KeyError("oops")
        for job in jobs:
            job.result = "fine"

    scheduler = Scheduler(answer, 1)
    with pytest.raises(RuntimeError, match=r"engine failed: KeyError: 'oops'"):
        scheduler.submit(Job(0))
    assert scheduler.submit(Job(0)) == "fine"


def test_an_interrupted_caller_withdraws(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, batches = echo_scheduler()
    job = Job(1)

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job.done, "wait", interrupt)
    with scheduler.expect(2):
        with pytest.raises(KeyboardInterrupt):
            scheduler.submit(job)
        assert scheduler._pending == []
    assert batches == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_gets_a_thread_of_its_own() -> None:
    scheduler, _ = echo_scheduler(1)
    assert scheduler.submit(Job(1)) == 1
    child = os.fork()
    if child == 0:
        answered = threading.Event()
        threading.Thread(target=lambda: scheduler.submit(Job(2)) == 2 and answered.set(), daemon=True).start()
        os._exit(0 if answered.wait(5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_closed_engine_says_so(tiny: Any) -> None:
    engine = LocalEngine(tiny("llama"))
    engine.shutdown()
    with pytest.raises(RuntimeError, match="closed"):
        engine._scheduler.submit(Job(0))


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


# --- with dspy


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


def test_asynchronous_calls(tiny: Any) -> None:
    engine = LocalEngine.shared(tiny("llama"))
    lm = dspy.LM(
        f"local:{tiny('llama')}", engine=engine, async_engine=AsyncLocalEngine(engine), cache=False, max_tokens=8
    )
    assert asyncio.run(lm.acall("hello")) == lm("hello")


def test_errors_reach_dspy_as_its_own(tiny: Any) -> None:
    lm = dspy.LM(f"local:{tiny('llama')}", engine=LocalEngine.shared(tiny("llama")), cache=False)
    with pytest.raises(dspy.ContextWindowExceededError):
        lm("word " * 3000)


# --- the bundled model


@pytest.fixture(scope="session")
def smollm2() -> Iterator[LocalEngine]:
    engine = LocalEngine("smollm2-135m")
    yield engine
    engine.shutdown()


@pytest.mark.model
def test_the_bundled_model_answers_as_with_generate(smollm2: LocalEngine) -> None:
    loaded = weights.load(weights.resolve_source("smollm2-135m"), device="cpu", dtype="float32")
    requests = [chat(text, demos=demos) for demos in (0, 4) for text in TEXTS[:3]]
    got = texts(ask_all(smollm2, requests))
    assert got == [generate_plainly(loaded.model, loaded.tokenizer, request) for request in requests]
    assert type(smollm2._load().base) is PrefixRunner


@pytest.mark.model
def test_the_bundled_model_does_not_depend_on_batches(smollm2: LocalEngine) -> None:
    requests = [chat(f"{text} {i}", demos=2) for i, text in enumerate(TEXTS * 2)]
    first = texts(ask_all(smollm2, requests))
    order = list(range(len(requests)))
    random.Random(0).shuffle(order)
    second = texts(ask_all(smollm2, [requests[i] for i in order], threads=7))
    assert [first[i] for i in order] == second
    if smollm2._load().device == "cpu":
        runner, prompts = smollm2._load().base, [smollm2._job(smollm2._load(), r, "").prompt for r in requests]
        with torch.inference_mode():
            prefix = runner.prefix(prompts[0].prefix)
            _, together = runner.start(prefix, [prompt.tail for prompt in prompts])
            for row in (0, 9, 15):
                assert torch.equal(runner.start(prefix, [prompts[row].tail])[1][0], together[row])


@pytest.mark.model
def test_a_program_of_demos_runs_from_end_to_end(smollm2: LocalEngine) -> None:
    lm = dspy.LM(MODEL, engine=smollm2, cache=False, max_tokens=32)
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
