"""From training rows to the batches of a loop: the same ones in the same order, whichever session asks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import TrainingError

if TYPE_CHECKING:
    from pytest_dspy_ft.finetune.hosted.job_request import JobRequest

Weighted = tuple[list[int], list[float]]
"""Tokens, and how much each counts: 0 for the prompt's, 1 for the answer's."""


def order_of_rows(order: JobRequest) -> list[list[int]]:
    """The rows of each step, by their place in the order's rows; shuffled anew in each epoch."""
    size = order.settings.batch_size  # type: ignore[attr-defined]
    steps: list[list[int]] = []
    for epoch in range(order.settings.epochs(len(order.rows))):
        places = list(range(len(order.rows)))
        random.Random(f"{order.seed}-{epoch}").shuffle(places)
        steps += [places[start : start + size] for start in range(0, len(places), size)]
    return steps


def weighted_tokens(tokenizer: Any, rows: Sequence[Any], context: int | None) -> list[Weighted]:
    """Rows as tokens by the model's own chat template, of which the answer's count.

    Raises:
        TrainingError: A row is longer than the model takes, or its answer is nothing after the template.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        messages, tools = [dict(message) for message in row["messages"]], row.get("tools")
        more = {} if tools is None else {"tools": tools}
        prompt = _ids(tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=True, **more))
        tokens = _ids(tokenizer.apply_chat_template(messages, tokenize=True, **more))
        # A template may write an answer otherwise than the prompt for it ends: what both begin with is the prompt.
        same = next((i for i, (a, b) in enumerate(zip(prompt, tokens, strict=False)) if a != b), len(prompt))
        if same >= len(tokens):
            raise TrainingError(f"training row {number} has no answer left after the model's chat template")
        if context is not None and len(tokens) > context:
            raise TrainingError(
                f"training row {number} has {len(tokens):,} tokens, and the model is trained on {context:,} at most: "
                "use fewer or shorter demos"
            )
        found.append((tokens, [0.0] * same + [1.0] * (len(tokens) - same)))
    return found


def _ids(encoded: Any) -> list[int]:
    """Token ids, from whichever shape a tokenizer's version gives them in."""
    ids = encoded["input_ids"] if hasattr(encoded, "keys") else encoded
    return [int(token) for token in (ids[0] if ids and isinstance(ids[0], (list, tuple)) else ids)]
