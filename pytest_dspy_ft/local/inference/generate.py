"""Generating a batch's replies: which token comes next, and when a row is done."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from pytest_dspy_ft.local.inference.requests import DecodingRow, Sampling
from pytest_dspy_ft.local.inference.runner import Runner

# Beyond this many most likely tokens, nucleus sampling sorts the whole vocabulary.
_NUCLEUS_CANDIDATES = 256


class Detokenizer:
    """Token ids to text, with what is needed to find stop strings cheaply."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._piece = functools.lru_cache(maxsize=None)(lambda token: self.text([token]))

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens, leaving out special ones."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def ends_with_stop(self, row: DecodingRow) -> bool:
        """Tell whether the row's text now holds a stop string, given that it did not before its last token."""
        if not row.stops:
            return False
        piece = self._piece(row.tokens[-1])
        # A stop string is complete only with its last character. Pieces that are no whole character, or may lose a
        # leading space when decoded alone, are always looked at.
        whole = piece and not piece[0].isspace() and "\ufffd" not in piece
        spaces = any(character.isspace() for character in row.last_characters)
        if whole and not spaces and row.last_characters.isdisjoint(piece):
            return False
        # A character takes at most 4 byte tokens.
        tail = self.text(row.tokens[-(4 * row.longest_stop + 4) :])
        return any(stop in tail for stop in row.stops)


def generate(
    runner: Runner, prefix: Any, rows: Sequence[DecodingRow], end_tokens: frozenset[int], detokenizer: Detokenizer
) -> None:
    """Generate all rows to their ends, filling in `tokens`, `generated` and `finish_reason`.

    Args:
        runner: The model.
        prefix: What `runner.prefix` returned, or None.
        rows: The rows, at least one.
        end_tokens: Tokens that end a turn.
        detokenizer: The model's.
    """
    with torch.inference_mode():
        state, logits = runner.start(prefix, [row.tail for row in rows])
        active = list(rows)
        while True:
            chosen = choose_tokens(logits, active)
            for row, token in zip(active, chosen, strict=True):
                row.generated += 1
                if token in end_tokens:
                    row.finish_reason = "stop"
                    continue
                row.tokens.append(token)
                if row.constraint is not None:
                    row.constraint.accept(token)
                if detokenizer.ends_with_stop(row) or (row.constraint is not None and row.constraint.complete):
                    row.finish_reason = "stop"
                elif row.generated >= row.max_tokens:
                    row.finish_reason = "length"
            order = _surviving_slots([row.finish_reason is None for row in active])
            if not order:
                return
            if len(order) < len(active):
                state.keep(order)
                active = [active[slot] for slot in order]
            logits = state.step([row.tokens[-1] for row in active])


def choose_tokens(logits: torch.Tensor, rows: Sequence[DecodingRow]) -> list[int]:
    """Choose every row's next token from (B, vocabulary) logits.

    A sampled row draws one number from its own generator, so its tokens do not depend on its batch-mates.
    """
    # In bfloat16, `max` takes a sixth of the time that `argmax` takes on the CPU; both give the first of equals.
    chosen: list[int] = logits.max(-1).indices.tolist()
    for slot, row in enumerate(rows):
        if row.constraint is None and not row.sampling.temperature:
            continue
        if row.constraint is not None and (forced := row.constraint.forced()):
            chosen[slot] = forced[0]
            continue
        own = logits[slot] if row.constraint is None else row.constraint.restrict(logits[slot])
        greedy = not row.sampling.temperature
        chosen[slot] = int(own.argmax()) if greedy else _sample(own, row.sampling, row.random.random())
    return chosen


def _sample(logits: torch.Tensor, sampling: Sampling, uniform: float) -> int:
    """Invert the cumulative distribution at `uniform`, most likely tokens first where the tail is cut off."""
    # Less than 1e-3 would overflow to inf - inf; it is greedy in all but name.
    probabilities = torch.softmax(logits.float() / max(sampling.temperature, 1e-3), -1)
    tokens: torch.Tensor | None = None
    if sampling.top_k is not None and sampling.top_k < len(probabilities):
        probabilities, tokens = probabilities.topk(sampling.top_k)
    elif sampling.top_p < 1:
        top, tokens = probabilities.topk(min(_NUCLEUS_CANDIDATES, len(probabilities)))
        if float(top.sum()) < sampling.top_p:
            top, tokens = probabilities.sort(descending=True)
        probabilities = top
    cumulative = probabilities.double().cumsum(-1)
    if sampling.top_p < 1:
        total = float(cumulative[-1]) if sampling.top_k is not None else 1.0
        size = int((cumulative < sampling.top_p * total).sum()) + 1
        cumulative = cumulative[:size]
    index = int(torch.searchsorted(cumulative, uniform * float(cumulative[-1]), right=True))
    index = min(index, len(cumulative) - 1)
    return index if tokens is None else int(tokens[index])


def _surviving_slots(alive: Sequence[bool]) -> list[int]:
    """Fill the holes that ended rows leave with the last rows, so that few rows move.

    Returns:
        For each slot of the smaller batch, the slot its row is in now.
    """
    remaining = sum(alive)
    movers = [slot for slot in range(remaining, len(alive)) if alive[slot]]
    return [slot if alive[slot] else movers.pop() for slot in range(remaining)]
