"""Requests as DSPy makes them, and what transformers itself answers to them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
from dspy import lm15

from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.inference.requests import cut_at_stop

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
