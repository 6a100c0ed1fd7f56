"""Attention of rows that share a prefix as batched matrix products, over keys and values kept row by row.

What oneDNN multiplies in bfloat16 by `torch.bmm` costs a third of PyTorch's flash kernel for the CPU at the lengths of
DSPy's prompts. Queries of one key/value head are folded into one matrix. Prefilling, a row's keys are laid behind a
copy of the prefix's; decoding, the prefix is multiplied once for all rows, and one softmax covers both parts.

A row's result does not depend on its batch-mates, bit for bit, as long as the products' do not (`products_are_stable`
tries that out): everything else that differs with the batch is trailing padding, whose masked positions add exact
zeros. Lengths are rounded up to multiples of 32, so that the vectors of a softmax fall alike.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_MULTIPLE = 32
_SUM_BLOCK = 1024
"""oneDNN adds up sums of at most so many products in one go, and longer ones otherwise."""
_LEAST_PRODUCT = 16**3
"""torch hands products with fewer multiplications than this, or as many, to code of its own."""


@dataclass(frozen=True)
class AttentionShape:
    """Sizes that all layers have in common: `group` query heads to each of `kv_heads` of `head_dim`; `layers`."""

    layers: int
    kv_heads: int
    group: int
    head_dim: int
    scaling: float

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_heads * self.group

    @property
    def least_rows(self) -> int:
        """The fewest decoded rows whose product with a prefix is oneDNN's."""
        return _LEAST_PRODUCT // (self.group * self.head_dim * _MULTIPLE) + 1

    @property
    def step(self) -> int:
        """The positions by which rows grow: the fewest with which their decoding products are oneDNN's."""
        return round_up(_LEAST_PRODUCT // (self.group * self.head_dim) + 1, _MULTIPLE)


@dataclass(frozen=True)
class PrefixKeys:
    """Keys and values of `length` tokens: per layer two tensors (1, kv_heads, length rounded up, head_dim)."""

    length: int
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @property
    def width(self) -> int:
        """The length with its padding, which is zeros."""
        return self.keys[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Memory of the stored tensors in bytes."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class RowKeys:
    """The keys and values of every row's own tokens: per layer two tensors (count, kv_heads, width, head_dim).

    Attributes:
        shape: Sizes of the model.
        prefix: What all rows begin with, or None.
        count: The number of rows.
        width: Positions that there is room for.
        lengths: (count,) tokens of each row.
    """

    def __init__(
        self, shape: AttentionShape, prefix: PrefixKeys | None, count: int, width: int, dtype: torch.dtype
    ) -> None:
        """Create an empty store with room for `width` tokens a row, or a few more."""
        self.shape = shape
        self.prefix = prefix
        self.count = count
        self.width = round_up(width, shape.step)
        self.lengths = torch.zeros(count, dtype=torch.long)
        sizes = (count, shape.kv_heads, self.width, shape.head_dim)
        self.keys = [torch.zeros(sizes, dtype=dtype) for _ in range(shape.layers)]
        self.values = [torch.zeros(sizes, dtype=dtype) for _ in range(shape.layers)]

    @property
    def offset(self) -> int:
        """Length of the prefix in tokens."""
        return 0 if self.prefix is None else self.prefix.length

    def make_room(self, width: int) -> None:
        """See to it that rows of `width` tokens fit."""
        if width > self.width:
            wider = round_up(width, self.shape.step)
            more = (0, 0, 0, wider - self.width)
            for side in (self.keys, self.values):
                for layer, tensor in enumerate(side):
                    side[layer] = torch.nn.functional.pad(tensor, more)
            self.width = wider

    def keep(self, order: Sequence[int], count: int) -> None:
        """Drop rows: slot i holds afterwards what slot order[i] held; slots beyond, up to `count`, are empty."""
        moves = [(new, old) for new, old in enumerate(order) if new != old]
        for side in (self.keys, self.values):
            for layer, tensor in enumerate(side):
                for new, old in moves:
                    tensor[new] = tensor[old]
                side[layer] = tensor[:count]
        lengths = self.lengths[list(order)]
        self.lengths = torch.cat([lengths, lengths.new_zeros(count - len(order))])
        self.count = count


class PrefillPass:
    """Several tokens of some rows, laid out one row after the other without padding.

    Attributes:
        positions: (N,) the tokens' places, counted from the beginning of the prefix.
        last: (rows,) where in the pass each row's last token is.
    """

    def __init__(self, store: RowKeys, rows: Sequence[int], counts: Sequence[int], tokens: int) -> None:
        """Prepare for a pass.

        Args:
            store: Where keys and values are kept.
            rows: The rows, in the order of the pass; of several, none has tokens yet.
            counts: How many tokens of each follow those it has.
            tokens: N, at least the sum of `counts`; what is beyond them belongs to nobody.
        """
        self._store = store
        self._rows = torch.tensor(rows)
        self._done = int(store.lengths[rows[0]])
        self._span = span = round_up(max(counts), _MULTIPLE)
        lengths = torch.tensor(counts)
        first = torch.cumsum(lengths, 0) - lengths
        row_of = torch.repeat_interleave(torch.arange(len(counts)), lengths)
        within = torch.arange(len(row_of)) - first[row_of]
        unused = torch.zeros(tokens - len(row_of), dtype=torch.long)
        self.positions = torch.cat([within + store.offset + self._done, unused])
        self.last = first + lengths - 1
        # Padding repeats tokens of the pass: as keys they lie in their row's future, as queries nobody reads them.
        self._padded = (first[:, None] + torch.arange(span)).clamp_(max=tokens - 1).flatten()
        self._flat = torch.cat([row_of * span + within, unused])
        before = 0 if store.prefix is None else store.prefix.width
        mask = torch.zeros(span, before + self._done + span)
        mask[:, store.offset : before] = float("-inf")
        mask[:, before + self._done :].masked_fill_(torch.ones(span, span, dtype=torch.bool).triu_(1), float("-inf"))
        self._mask = mask.to(store.keys[0].dtype).repeat_interleave(store.shape.group, 0)
        store.lengths[self._rows] += lengths
        store.make_room(self._done + span)

    def attend(self, layer: int, joint: torch.Tensor) -> torch.Tensor:
        """See `fused_model.Attend`."""
        store, shape = self._store, self._store.shape
        rows, span = len(self._rows), self._span
        padded = joint.index_select(0, self._padded).view(rows, span, -1, shape.head_dim)
        query, keys, values = padded.split_with_sizes([shape.heads, shape.kv_heads, shape.kv_heads], 2)
        # Queries that see the same keys: (rows * kv_heads, span * group, head_dim).
        folded = (
            query.view(rows, span, shape.kv_heads, shape.group, shape.head_dim)
            .transpose(1, 2)
            .reshape(rows * shape.kv_heads, span * shape.group, shape.head_dim)
        )
        seen_keys = self._seen(layer, keys.transpose(1, 2), store.keys[layer], 0)
        seen_values = self._seen(layer, values.transpose(1, 2), store.values[layer], 1)
        mask = self._mask.expand(len(folded), -1, -1)
        scores = torch.baddbmm(mask, folded, seen_keys.transpose(1, 2), alpha=shape.scaling)
        out = torch.bmm(torch.softmax(scores, -1), seen_values)
        out = out.view(rows, shape.kv_heads, span, -1).transpose(1, 2).reshape(rows * span, -1)
        return out.index_select(0, self._flat)

    def _seen(self, layer: int, new: torch.Tensor, kept: torch.Tensor, side: int) -> torch.Tensor:
        """Keep new keys or values, (rows, kv_heads, span, head_dim); return them behind all that comes before."""
        prefix, end = self._store.prefix, self._done + self._span
        kept[self._rows, :, self._done : end] = new
        seen = [new] if not self._done else [kept[self._rows, :, :end]]
        if prefix is not None:
            of_layer = (prefix.keys, prefix.values)[side][layer]
            seen.insert(0, of_layer.expand(len(self._rows), -1, -1, -1))
        return torch.cat(seen, 2).flatten(0, 1)


class DecodePass:
    """One new token of every row.

    Attributes:
        positions: (count,) the tokens' places, counted from the beginning of the prefix.
    """

    def __init__(self, store: RowKeys) -> None:
        """Prepare for a pass."""
        self._store = store
        shape, places = store.shape, store.lengths
        self.positions = places + store.offset
        store.lengths = places + 1
        store.make_room(int(store.lengths.max()))
        # Where the new keys go, with all rows, heads and places in one dimension.
        heads = torch.arange(store.count * shape.kv_heads)
        self._places = heads * store.width + places.repeat_interleave(shape.kv_heads)
        before = 0 if store.prefix is None else store.prefix.width
        mask = torch.zeros(store.count, 1, 1, before + store.width)
        mask[..., store.offset : before] = float("-inf")
        hidden = torch.arange(store.width) >= store.lengths[:, None]
        mask[:, 0, 0, before:].masked_fill_(hidden, float("-inf"))
        self._mask = mask.to(store.keys[0].dtype)

    def attend(self, layer: int, joint: torch.Tensor) -> torch.Tensor:
        """See `fused_model.Attend`."""
        store, shape = self._store, self._store.shape
        query, key, value = joint.split_with_sizes([shape.heads, shape.kv_heads, shape.kv_heads], 1)
        kept = []
        for side, new in ((store.keys, key), (store.values, value)):
            tensor = side[layer].view(-1, shape.head_dim)
            tensor.index_copy_(0, self._places, new.reshape(-1, shape.head_dim))
            kept.append(side[layer].flatten(0, 1))
        queries = query.reshape(-1, shape.group, shape.head_dim)
        scores = self._of_rows(torch.bmm(queries, kept[0].transpose(1, 2)))
        prefix = store.prefix
        if prefix is None:
            shares = self._softmax(scores)
            return self._weighted(shares.flatten(0, 1), kept[1]).view(store.count, -1)
        by_head = self._by_head(self._of_rows(queries))
        shared = torch.bmm(by_head, prefix.keys[layer][0].transpose(1, 2))
        shares = self._softmax(torch.cat([self._by_row(shared), scores], -1))
        shared, own = shares.split_with_sizes([prefix.width, store.width], -1)
        out = self._weighted(own.flatten(0, 1), kept[1]).view(-1, shape.kv_heads, shape.group, shape.head_dim)
        out += self._by_row(torch.bmm(self._by_head(shared), prefix.values[layer][0]))
        return out.view(store.count, -1)

    def _softmax(self, scores: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.add(self._mask, scores, alpha=self._store.shape.scaling), -1)

    def _of_rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """(count * kv_heads, group, any) to (count, kv_heads, group, any)."""
        return tensor.view(self._store.count, self._store.shape.kv_heads, *tensor.shape[1:])

    def _by_head(self, tensor: torch.Tensor) -> torch.Tensor:
        """(count, kv_heads, group, any) to (kv_heads, count * group, any)."""
        return tensor.transpose(0, 1).flatten(1, 2)

    def _by_row(self, tensor: torch.Tensor) -> torch.Tensor:
        """Undo `_by_head`."""
        return tensor.view(len(tensor), self._store.count, self._store.shape.group, -1).transpose(0, 1)

    def _weighted(self, shares: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Multiply (B, group, width) by (B, width, head_dim), with the same rounding whatever zeros end the width."""
        step = self._store.shape.step
        block = max(1, _SUM_BLOCK // step) * step
        if shares.shape[2] <= block:
            return torch.bmm(shares, values)
        parts = (slice(first, first + block) for first in range(0, shares.shape[2], block))
        return functools.reduce(torch.add, (torch.bmm(shares[:, :, part], values[:, part]) for part in parts))


@functools.cache
def products_are_stable(shape: AttentionShape, dtype: torch.dtype, threads: int) -> bool:
    """Try out, on one layer of made-up numbers, whether a row's results depend on its batch-mates on this machine.

    Args:
        shape: Sizes; only one of the layers is tried.
        dtype: The dtype.
        threads: How many threads multiply; the answer holds for so many.
    """
    one = dataclasses.replace(shape, layers=1)
    made = torch.Generator().manual_seed(threads)
    sizes = (shape.heads + 2 * shape.kv_heads, shape.head_dim)
    lengths = [1, 31, 40, 97]
    tails = [torch.randn(length, *sizes, generator=made).to(dtype) for length in lengths]
    after = torch.randn(max(len(lengths), shape.least_rows), *sizes, generator=made).to(dtype)
    kept = [torch.randn(1, shape.kv_heads, 160, shape.head_dim, generator=made).to(dtype) for _ in range(2)]
    for tensor in kept:
        tensor[:, :, 137:] = 0

    def outputs(rows: Sequence[int], prefix: PrefixKeys | None) -> list[torch.Tensor]:
        store = RowKeys(one, prefix, max(len(rows), shape.least_rows), max(lengths[row] for row in rows), dtype)
        counts = [lengths[row] for row in rows]
        first = PrefillPass(store, range(len(rows)), counts, sum(counts)).attend(0, torch.cat([tails[r] for r in rows]))
        others = range(len(rows), store.count)
        second = DecodePass(store).attend(0, torch.stack([after[row] for row in (*rows, *others)]))
        return [torch.cat(pair) for pair in zip(first.split_with_sizes(counts), second[:, None], strict=False)]

    for prefix in (PrefixKeys(137, (kept[0],), (kept[1],)), None):
        together = outputs(range(len(lengths)), prefix)
        if not all(torch.equal(outputs([row], prefix)[0], together[row]) for row in range(len(lengths))):
            return False
    return True


def padded_width(length: int) -> int:
    """The width of a prefix of this length."""
    return round_up(length, _MULTIPLE)


def summed_alike(prefix: PrefixKeys | None, length: int) -> bool:
    """Tell of which kind a prefilled row of this length is: rows of both kinds may not share a pass."""
    return (0 if prefix is None else prefix.width) + padded_width(length) <= _SUM_BLOCK


def round_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return (number + multiple - 1) // multiple * multiple
