"""From chats to batches: rows in tokens, some held out, the others in the order in which they are trained on."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

from transformers import PreTrainedTokenizerBase

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.local.training.batch import EncodedRow
from pytest_dspy_ft.text import short_line, well_formed

if TYPE_CHECKING:
    from pytest_dspy_ft.local.training.config import LoraTrainingConfig


class ChatMessage(TypedDict):
    """One chat message."""

    role: str
    content: str


class ChatRow(TypedDict):
    """One training example in DSPy's chat format; the last message is the assistant's reply."""

    messages: list[ChatMessage]


def encode_rows(
    rows: Sequence[ChatRow], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int | None = None
) -> list[EncodedRow]:
    """Turn chats into tokens: exactly the prompt that inference sees, then the reply and its end-of-turn token.

    Prompt and reply are tokenized apart, as they are at inference, where the reply follows a finished prompt.

    Raises:
        TrainingError: A row is not of the format, or longer than `max_tokens`; the message has its number (from 0),
            and how what is asked begins.
    """
    if not rows:
        raise TrainingError("no rows to train on: no trace was kept; look at the metric and at the stage's accept=")
    end = end_of_turn(tokenizer)
    encoded = []
    for number, row in enumerate(rows):
        messages = _checked_messages(number, row)
        prompt = tokenizer.apply_chat_template(
            cast(Any, messages[:-1]), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        reply = tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"]
        ids = (*cast(list[int], prompt), *cast(list[int], reply), end)
        if max_tokens is not None and len(ids) > max_tokens:
            asked = short_line(messages[-2]["content"] if len(messages) > 1 else "", 80)
            raise TrainingError(
                f"training row {number} ({asked!r}) has {len(ids)} tokens, more than {max_tokens} (the model's "
                "context, or max_tokens): shorten the prompt, use fewer demos, or leave the row out"
            )
        head = messages[0]["content"] if messages[0]["role"] == "system" else ""
        encoded.append(EncodedRow(ids, len(cast(list[int], prompt)), hashlib.sha256(head.encode()).hexdigest(), number))
    return encoded


def _checked_messages(number: int, row: object) -> list[ChatMessage]:
    def bad(what: str) -> TrainingError:
        return TrainingError(
            f"training row {number}: {what}; a row is {{'messages': [{{'role': ..., 'content': ...}}, ...]}} whose "
            "last message is the assistant's reply, as dspy.ChatAdapter().format_finetune_data writes it"
        )

    if not isinstance(row, Mapping) or "messages" not in row:
        raise bad("no 'messages'")
    messages = row["messages"]
    if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) < 2:
        raise bad("'messages' must be a list of at least two, a prompt and a reply")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise bad(f"message {place} lacks 'role' or 'content'")
        if message["role"] not in ("system", "user", "assistant"):
            raise bad(f"message {place} has the role {message['role']!r}, not system, user or assistant")
        if not isinstance(message["content"], str):
            raise bad(f"message {place} has a content that is not text")
    if messages[-1]["role"] != "assistant":
        raise bad(f"the last message is the {messages[-1]['role']}'s")
    if not messages[-1]["content"].strip():
        raise bad("the reply is empty")
    return [ChatMessage(role=m["role"], content=well_formed(m["content"])) for m in messages]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that the chat template closes an assistant's turn with; else the tokenizer's eos."""
    mark = "reply"
    chat = [{"role": "user", "content": "prompt"}, {"role": "assistant", "content": mark}]
    text = cast(str, tokenizer.apply_chat_template(cast(Any, chat), tokenize=False))
    after = cast(list[int], tokenizer(text[text.rindex(mark) + len(mark) :], add_special_tokens=False)["input_ids"])
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    for token in after:
        if token in special:
            return token
    if tokenizer.eos_token_id is None:
        raise TrainingError(
            "the tokenizer has no end-of-turn token: neither its chat template writes one nor is eos set"
        )
    return int(cast(int, tokenizer.eos_token_id))


def split_validation(
    rows: Sequence[EncodedRow], config: LoraTrainingConfig, seed: int
) -> tuple[list[EncodedRow], list[EncodedRow]]:
    """Hold out a share of the rows: (to train on, to validate on). Rows with one prompt stay on one side."""
    if not config.validation_fraction or len(rows) < config.validation_min_rows:
        return list(rows), []
    by_prompt: dict[tuple[int, ...], list[EncodedRow]] = {}
    for row in rows:
        by_prompt.setdefault(row.ids[: row.prompt_length], []).append(row)
    families = list(by_prompt.values())
    random.Random(f"validation-{seed}").shuffle(families)
    wanted = round(len(rows) * config.validation_fraction)
    held: list[EncodedRow] = []
    for family in families:
        if len(held) + len(family) <= wanted:
            held.extend(family)
    numbers = {row.number for row in held}
    return [row for row in rows if row.number not in numbers], sorted(held, key=lambda row: row.number)


def plan_epoch(rows: Sequence[EncodedRow], batch_size: int, seed: int, epoch: int) -> list[list[EncodedRow]]:
    """One epoch's batches: every row once, rows of one group together where that fills a batch, in a shuffled order.

    A group is cut into batches of even size, so that no batch is a lone left-over row with a full step's weight. Groups
    too small for half a batch are pooled.
    """
    rng = random.Random(f"epoch-{seed}-{epoch}")
    groups: dict[str, list[EncodedRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    pool: list[EncodedRow] = []
    batches: list[list[EncodedRow]] = []

    def cut(some: list[EncodedRow]) -> None:
        parts = math.ceil(len(some) / batch_size)
        batches.extend(some[len(some) * i // parts : len(some) * (i + 1) // parts] for i in range(parts))

    for group in groups.values():
        rng.shuffle(group)
        if 2 * len(group) < batch_size:
            pool.extend(group)
        else:
            cut(group)
    if pool:
        cut(pool)
    rng.shuffle(batches)
    return batches
