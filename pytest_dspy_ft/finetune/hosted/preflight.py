"""Checks before anything is paid: the data, its length, the cost, and that the service still takes new jobs."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.finetune.hosted.job_request import JobRequest
from pytest_dspy_ft.finetune.hosted.port import ServiceLimits
from pytest_dspy_ft.finetune.rows import ChatRow

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
BYTES_PER_TOKEN = 3.0
"""Of English text, on the safe side; used where the tokenizer's table is not on this machine."""
TOKENS_PER_MESSAGE = 4
"""Role and separators around each message's text."""


@dataclass(frozen=True)
class JobEstimate:
    """The tokens and dollars that a job is expected to take."""

    tokens: int
    """Of all training rows, once."""
    epochs: int
    cost: float | None
    """US dollars; None where no price is known."""

    @property
    def trained_tokens(self) -> int:
        """Tokens as the service will count them: each row as often as it is trained on."""
        return self.tokens * self.epochs


def check_request(request: JobRequest, limits: ServiceLimits, *, price: float | None) -> JobEstimate:
    """Check a request for a job before anything is uploaded.

    Args:
        request: The job that is about to be asked for.
        limits: What the service takes for its model.
        price: US dollars for a million trained tokens, None where it is not known.

    Raises:
        TrainingError: Saying what is wrong with which row, or why no job can be started.
    """
    if limits.closed is not None:
        raise TrainingError(f"{request.model} cannot be fine-tuned at {request.address}: {limits.closed}")
    if len(request.rows) < limits.min_rows:
        raise TrainingError(
            f"{len(request.rows)} training rows, and the API takes no fewer than {limits.min_rows}: add train "
            "examples, use a stronger teacher, or accept more traces"
        )
    for kind, rows in (("training", request.rows), ("validation", request.validation)):
        for number, row in enumerate(rows, start=1):
            if problem := row_problem(row):
                raise TrainingError(f"{kind} row {number} is not what the API takes: {problem}")
    count = token_counter(request.model)
    lengths = [row_tokens(row, count) for row in request.rows]
    context = limits.context
    if context is not None and max(lengths) > context:
        over = [i for i, length in enumerate(lengths, start=1) if length > context]
        raise TrainingError(
            f"{len(over)} of {len(lengths)} training rows are longer than the {context:,} tokens that "
            f"{request.model} is trained on at most (row {over[0]}: about {lengths[over[0] - 1]:,}); the service would "
            "cut off their end, which is the answer: use fewer or shorter demos"
        )
    epochs, tokens = request.settings.epochs(len(request.rows)), sum(lengths)
    cost = None if price is None else tokens * epochs * price / 1e6
    return JobEstimate(tokens, epochs, cost)


def row_problem(row: ChatRow) -> str | None:
    """Why a row is not in the chat format, or None."""
    messages = row.get("messages")
    if set(row) - {"messages", "tools", "parallel_tool_calls"} or not isinstance(messages, list) or not messages:
        return "it must be {'messages': [...]} with at least one message"
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            return f"each message needs a role, one of {', '.join(sorted(ROLES))}"
        content = message.get("content")
        if not (isinstance(content, str) or (isinstance(content, list) and content) or message.get("tool_calls")):
            return f"the {message['role']} message has no content"
    last = messages[-1]
    if last["role"] != "assistant":
        return f"the last message must be the assistant's, it is the {last['role']}'s"
    if not last.get("content") and not last.get("tool_calls"):
        return "the assistant's message is empty, so there is nothing to learn"
    return None


def row_tokens(row: ChatRow, count: Callable[[str], int]) -> int:
    """About how many tokens a row is."""
    return sum(TOKENS_PER_MESSAGE + count(_text(message.get("content"))) for message in row["messages"])


def _text(content: Any) -> str:
    if isinstance(content, Sequence) and not isinstance(content, str):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content or "")


def token_counter(model: str) -> Callable[[str], int]:
    """A function from a text to its tokens for a model: a count, or a guess from its length."""
    name = "cl100k_base" if model.removeprefix("ft:").startswith(("gpt-3.5", "gpt-35", "gpt-4-")) else "o200k_base"
    encoding = _encoding(name)
    if encoding is None:
        return lambda text: round(len(text.encode()) / BYTES_PER_TOKEN)
    return lambda text: len(encoding.encode_ordinary(text))


@functools.cache
def _encoding(name: str) -> Any:
    """A tokenizer from the tables that litellm brings along; tiktoken would fetch them, without a time limit."""
    package = importlib.util.find_spec("litellm")
    if package is None or package.origin is None or importlib.util.find_spec("tiktoken") is None:
        return None
    tables = Path(package.origin).parent / "litellm_core_utils" / "tokenizers"
    address = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
    if not (tables / hashlib.sha1(address.encode()).hexdigest()).is_file():  # how tiktoken names its files
        return None
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    import tiktoken

    os.environ["TIKTOKEN_CACHE_DIR"] = str(tables)
    try:
        return tiktoken.get_encoding(name)
    except Exception:  # a damaged table: guess
        return None
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before
