"""Small random models of several architectures, made on the spot, and engines that serve them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_dspy_ft.local.engine import LocalEngine
from tests.local.chats import TEXTS, Classify


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
    from transformers import (
        BloomConfig,
        GPT2Config,
        GPTNeoXConfig,
        LlamaConfig,
        MistralConfig,
        Qwen2Config,
        Qwen3Config,
    )

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
    if kind == "qwen3":  # norms of queries and keys
        return Qwen3Config(**sizes, num_key_value_heads=2, head_dim=16)
    if kind == "mistral":
        return MistralConfig(**sizes, num_key_value_heads=2, sliding_window=None)
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
    import torch
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


@pytest.fixture(scope="session")
def smollm2_engine() -> Iterator[LocalEngine]:
    engine = LocalEngine("smollm2-135m")
    yield engine
    engine.shutdown()
