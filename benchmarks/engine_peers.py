"""Servers that the engine is measured against, and the limit that this machine's matrix products set to both."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

ADDRESSES = {"vllm": "http://127.0.0.1:8000", "llama.cpp": "http://127.0.0.1:8080"}
"""Where each listens unless ``--peer NAME=ADDRESS`` says otherwise."""


def addresses(peers: Sequence[str]) -> dict[str, str]:
    """Names and addresses of ``--peer`` options.

    Raises:
        SystemExit: A name without an address is none of `ADDRESSES`, or nothing answers there.
    """
    found = {}
    for peer in peers:
        name, _, address = peer.partition("=")
        address = address or ADDRESSES.get(name, "")
        if not address:
            raise SystemExit(f"--peer {peer}: expected NAME=ADDRESS or one of {', '.join(ADDRESSES)}")
        try:
            urllib.request.urlopen(f"{address}/v1/models", timeout=10).close()
        except OSError as exc:
            raise SystemExit(
                f"--peer {peer}: nothing answers at {address} ({exc}); start it as this script says"
            ) from exc
        found[name] = address
    return found


def run_peer(address: str, prompts: Sequence[Sequence[int]], max_tokens: int, stop: str) -> tuple[float, int]:
    """Have a server continue prompts greedily, all at once; return seconds and generated tokens."""
    with urllib.request.urlopen(f"{address}/v1/models", timeout=60) as reply:
        model = json.load(reply)["data"][0]["id"]

    def ask(prompt: Sequence[int]) -> int:
        body = {"model": model, "prompt": list(prompt), "max_tokens": max_tokens, "temperature": 0, "stop": [stop]}
        request = urllib.request.Request(
            f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as reply:
            return int(json.load(reply)["usage"]["completion_tokens"])

    start = time.perf_counter()
    with ThreadPoolExecutor(len(prompts)) as pool:
        tokens = sum(pool.map(ask, prompts))
    return time.perf_counter() - start, tokens


def measured_flops(model_config: Any, dtype: Any) -> float:
    """FLOP/s of oneDNN's packed products in the shapes of a decoder layer, 512 rows at a time, the best of 20."""
    import torch

    from pytest_dspy_ft.local.compat import pack_weight, packed_linear

    best = 0.0
    with torch.inference_mode():
        layer = []
        for outputs, inputs in layer_shapes(model_config):
            packed = pack_weight(torch.randn(outputs, inputs).to(dtype))
            layer.append((torch.randn(512, inputs).to(dtype), packed, 2 * 512 * outputs * inputs))
        for _ in range(20):
            start = time.perf_counter()
            for rows, packed, _ in layer:
                packed_linear(rows, packed, None)
            best = max(best, sum(work for *_, work in layer) / (time.perf_counter() - start))
    return best


def layer_shapes(config: Any) -> list[tuple[int, int]]:
    """(out_features, in_features) of a Llama-type decoder layer's products, those of one input joined."""
    hidden, wide, size = config.hidden_size, config.intermediate_size, config.head_dim
    joint = (config.num_attention_heads + 2 * config.num_key_value_heads) * size
    return [(joint, hidden), (hidden, config.num_attention_heads * size), (2 * wide, hidden), (hidden, wide)]


def needed_flops(config: Any, unique_tokens: int, generated: int, replies: int) -> float:
    """FLOPs of the products that nobody can leave out; attention is not counted.

    Args:
        config: The model's.
        unique_tokens: Prompt tokens, a shared prefix once.
        generated: Tokens of all replies; the last of each is not read again.
        replies: How many.
    """
    read = unique_tokens + generated - replies
    layers = config.num_hidden_layers * sum(outputs * inputs for outputs, inputs in layer_shapes(config))
    return 2.0 * (read * layers + generated * config.vocab_size * config.hidden_size)
