"""A training batch whose common prefix is computed once.

Every row of one DSPy predictor begins with the same system text and demos. A batch of B rows is laid out as one
sequence

    prefix (P tokens) | tail 0 | tail 1 | ... | tail B-1          N = P + sum(tails) tokens

where each tail's position ids go on from P and attention lets a tail see the prefix and itself, nothing else. Hidden
states, loss and gradients are those of the padded batch (B x longest row), up to float noise: the prefix's gradient is
the sum over the rows that read it, which is what autograd does with a value used B times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

IGNORED = -100
"""The label of a token that carries no loss (Hugging Face's convention)."""


@dataclass(frozen=True)
class EncodedRow:
    """One training row in tokens.

    Attributes:
        ids: All token ids: the prompt as inference sees it, the reply, the end-of-turn token.
        prompt_length: How many of them are the prompt. The others, never none, carry the loss.
        group: What the row's prefix is expected to share with others; rows of one group are batched together.
        number: The row's place in the caller's list, from 0.
    """

    ids: tuple[int, ...]
    prompt_length: int
    group: str = ""
    number: int = 0


@dataclass(frozen=True)
class PrefixLayout:
    """The lengths of a flat batch's parts: `prefix` tokens, then tails of `tails[i]` tokens each."""

    prefix: int
    tails: tuple[int, ...]

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """(start, end) of each tail in the flat sequence."""
        spans, start = [], self.prefix
        for length in self.tails:
            spans.append((start, start + length))
            start += length
        return tuple(spans)

    @cached_property
    def filled_tails(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For the tails filled up to the longest one's length T, as [B * T] places one after the other.

        Returns:
            Of each such place, the token of the flat sequence that stands there (any one where there is none), [B * T];
            and of each token of a tail, its place, [N - prefix].
        """
        longest = max(self.tails)
        tokens: list[int] = []
        places: list[int] = []
        for i, (start, end) in enumerate(self.spans):
            tokens += [*range(start, end), *[end - 1] * (longest - end + start)]
            places += range(i * longest, i * longest + end - start)
        return torch.tensor(tokens), torch.tensor(places)

    def mask(self, device: torch.device) -> torch.Tensor:
        """Return a boolean [N, N]: True where the token of the row (query) may see the token of the column (key)."""
        owner = torch.cat(
            [torch.full((n,), i - 1, device=device) for i, n in enumerate((self.prefix, *self.tails))]
        )  # -1 is the prefix
        same = owner[:, None] == owner[None, :]
        place = torch.arange(len(owner), device=device)
        return (same | (owner[None, :] == -1)) & (place[:, None] >= place[None, :])


@dataclass(frozen=True)
class SharedBatch:
    """A flat batch. `keep[j]` is the place whose logits predict `targets[j]`; a place may occur more than once."""

    input_ids: torch.Tensor  # [1, N] int64
    position_ids: torch.Tensor  # [1, N] int64
    keep: torch.Tensor  # [L] int64
    targets: torch.Tensor  # [L] int64
    layout: PrefixLayout

    @property
    def tokens(self) -> int:
        """The number of tokens that the model computes, the prefix counted once."""
        return int(self.input_ids.shape[1])

    def to(self, device: torch.device) -> SharedBatch:
        """Copy the batch to `device`."""
        ids, positions = self.input_ids.to(device), self.position_ids.to(device)
        return SharedBatch(ids, positions, self.keep.to(device), self.targets.to(device), self.layout)


def common_prefix_length(rows: Sequence[EncodedRow]) -> int:
    """Count the leading tokens that all rows share, leaving at least one token of each row to its tail."""
    first = min((row.ids for row in rows), key=len)
    limit = len(first) - 1
    for row in rows:
        ids = row.ids
        if ids[:limit] != first[:limit]:
            limit = next(i for i in range(limit) if ids[i] != first[i])
    return limit


def shared_batch(rows: Sequence[EncodedRow]) -> SharedBatch:
    """Lay `rows` out with their longest common prefix once; without one (a lone row, mixed prompts) P is 0."""
    prefix = common_prefix_length(rows) if len(rows) > 1 else 0
    ids = list(rows[0].ids[:prefix])
    positions = list(range(prefix))
    keep: list[int] = []
    targets: list[int] = []
    for row in rows:
        start = len(ids)
        ids.extend(row.ids[prefix:])
        positions.extend(range(prefix, len(row.ids)))
        for place in range(row.prompt_length, len(row.ids)):
            before = place - 1  # the token at `place` is predicted from the one before it, which may be in the prefix
            keep.append(before if before < prefix else start + before - prefix)
            targets.append(row.ids[place])
    return SharedBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        keep=torch.tensor(keep),
        targets=torch.tensor(targets),
        layout=PrefixLayout(prefix, tuple(len(row.ids) - prefix for row in rows)),
    )


def plain_batch(rows: Sequence[EncodedRow], pad_id: int) -> dict[str, torch.Tensor]:
    """The usual padded batch: input_ids, attention_mask and labels, each [B, longest row], padded on the right."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.int64)
    labels = torch.full((len(rows), width), IGNORED)
    for i, row in enumerate(rows):
        n = len(row.ids)
        ids[i, :n] = torch.tensor(row.ids)
        mask[i, :n] = 1
        labels[i, row.prompt_length : n] = ids[i, row.prompt_length : n]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
