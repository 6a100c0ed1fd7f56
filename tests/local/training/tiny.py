"""Tiny models, their tokenizer and rows to train on."""

from __future__ import annotations

import random
from typing import Any

import torch

from pytest_dspy_ft.local.training.batch import EncodedRow
from pytest_dspy_ft.local.weights import LoadedModel

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> Any:
    """One token per byte, and the three special ones of ChatML."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers import decoders

    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|eos|>", pad_token="<|eos|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def tiny_model(kind: str = "llama") -> Any:
    """A random model of about 50 000 weights."""
    import transformers
    from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig

    shape = {"vocab_size": 272, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "max_position_embeddings": 512}
    grouped = {"num_key_value_heads": 2, "initializer_range": 0.2}
    config: Any = {
        "llama": lambda: LlamaConfig(**shape, **grouped),
        "windowed": lambda: MistralConfig(**shape, **grouped, sliding_window=16),
        "tied": lambda: LlamaConfig(**shape, **grouped, tie_word_embeddings=True, head_dim=16),
        "mistral": lambda: MistralConfig(**shape, **grouped, sliding_window=None),
        "qwen2": lambda: transformers.Qwen2Config(**shape, **grouped),  # biases
        "qwen3": lambda: transformers.Qwen3Config(**shape, **grouped, head_dim=16),  # norms of queries and keys
        "gemma": lambda: transformers.GemmaConfig(**shape, num_key_value_heads=1, head_dim=16, initializer_range=0.2),
        "gemma2": lambda: transformers.Gemma2Config(**shape, **grouped, head_dim=16),
        "gemma3": lambda: transformers.Gemma3TextConfig(**shape, **grouped, head_dim=16),
        "granite": lambda: transformers.GraniteConfig(**shape, **grouped, residual_multiplier=0.5),
        "phi3": lambda: transformers.Phi3Config(**shape, **grouped, pad_token_id=0),
        "neox": lambda: GPTNeoXConfig(**shape, initializer_range=0.2),
        "gpt2": lambda: GPT2Config(vocab_size=272, n_embd=32, n_layer=2, n_head=4, n_positions=512),
    }[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def tiny(kind: str = "llama") -> LoadedModel:
    return LoadedModel(tiny_model(kind), tiny_tokenizer(), "cpu", "float32", "tiny")


def chat(text: str, reply: str, system: str = "Sort the ticket.") -> Any:
    roles = ("system", "user", "assistant")
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, (system, text, reply), strict=True)]}


def tickets(n: int, system: str = "Sort the ticket.") -> list[Any]:
    """A task of two answers; `texts` differ in all rows."""
    rng = random.Random(7)
    rows = []
    for i in range(n):
        about, answer = rng.choice([("I was charged twice", "billing"), ("The app crashes", "technical")])
        rows.append(chat(f"Ticket {i}: {about}.", f"[[ ## category ## ]]\n{answer}\n\n[[ ## completed ## ]]\n", system))
    return rows


def random_rows(n: int, prefix: int, seed: int = 0, vocabulary: int = 256) -> list[EncodedRow]:
    rng = random.Random(seed)

    def draw(k: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(k))

    head = draw(prefix)
    rows = []
    for number in range(n):
        prompt, reply = draw(rng.randrange(1, 9)), draw(rng.randrange(1, 7))
        rows.append(EncodedRow(head + prompt + reply, prefix + len(prompt), number=number))
    return rows
