"""Attention over a shared prefix and each row's own tail, without copying the prefix per row.

All rows of a batch begin with the same P tokens, whose keys and values are stored once. A query attends to them and to
its row's own keys separately; the two partial softmaxes are then joined exactly by their log-sum-exps (s, t):

    out = (e^s a + e^t b) / (e^s + e^t) = lerp(b, a, sigmoid(s - t))

Tokens of all rows are laid out as one flat sequence (1, N, hidden), so nothing outside attention is ever padded. Rows
are left-aligned in their key/value store: padding trails, and masked positions add exact zeros. With query counts
rounded up to multiples of 4, a row's result on the CPU does not depend on its batch-mates, bit for bit (MKL switches
kernels below 4 rows); `tests/local/inference` checks this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

from pytest_dspy_ft.local.compat import flash_attention

ATTENTION = "dspy_ft_prefix_attention"
"""The name under which transformers finds `prefix_attention`."""

_QUERY_MULTIPLE = 4
_GROWTH = 64  # positions by which a key/value store grows


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a token prefix: per layer two tensors (1, P, kv_heads, head_dim)."""

    length: int
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Memory of the stored tensors in bytes."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class RowStore:
    """The rows' own keys and values, and where the tokens of the current forward pass belong.

    Attributes:
        count: The number of rows, B.
        width: The longest row's length in tokens, including the current pass.
        lengths: (B,) tokens stored per row, including those of the current pass.
        prefilling: Whether the current pass holds some rows' first tokens (several per row) or one token of each row.
        rows: (N,) the row of each token of the current pass.
        positions: (N,) its place in the row, counted from the end of the prefix.
        span: How many positions of a row the current pass looks at, a multiple of 16.
        first: The first row of a prefilling pass; pass_count: how many rows it has; last: (pass_count,) where in the
            pass each row's last token is.
    """

    def __init__(self, prefix: Prefix | None, count: int, width: int, device: torch.device) -> None:
        """Create an empty store.

        Args:
            prefix: What all rows begin with, or None.
            count: The number of rows.
            width: The longest tail's length in tokens.
            device: Where the model is.
        """
        self.prefix = prefix
        self.device = device
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.count = count
        self.width = width
        self.prefilling = True
        self.first, self.pass_count, self.span = 0, count, 0
        self.rows = torch.empty(0, dtype=torch.long, device=device)
        self.positions = self.last = self.rows
        self.lengths = torch.zeros(count, dtype=torch.long, device=device)
        self.mask: torch.Tensor | None = None

    @property
    def offset(self) -> int:
        """Length of the prefix in tokens."""
        return 0 if self.prefix is None else self.prefix.length

    def begin_prefill(self, first: int, tail_lengths: Sequence[int]) -> None:
        """Prepare for a pass over some rows' tails, concatenated in row order.

        Args:
            first: The first of these rows.
            tail_lengths: Their lengths in tokens, none of them 0.
        """
        count = len(tail_lengths)
        lengths = torch.tensor(tail_lengths, device=self.device)
        local = torch.repeat_interleave(torch.arange(count, device=self.device), lengths)
        starts = torch.cumsum(lengths, 0) - lengths
        self.first, self.rows = first, local + first
        self.positions = torch.arange(len(local), device=self.device) - starts[local]
        self.lengths[first : first + count] = lengths
        self.last = starts + lengths - 1
        self.pass_count = count
        self.span = _round_up(max(tail_lengths), 16)
        self.prefilling = True

    def begin_step(self, dtype: torch.dtype) -> None:
        """Prepare for a pass over one new token of each row, whose attention mask is in `dtype`."""
        self.rows = torch.arange(self.count, device=self.device)
        self.positions = self.lengths
        self.lengths = self.lengths + 1
        self.width += 1
        self.span = _round_up(self.width, 16)
        self.prefilling = False
        visible = torch.arange(self.span, device=self.device) < self.lengths[:, None]
        # (B, 1, 1, span), additive; every row sees at least its own new token.
        self.mask = torch.zeros(visible.shape, dtype=dtype, device=self.device).masked_fill_(~visible, float("-inf"))
        self.mask = self.mask[:, None, None]

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the current pass' keys and values, (1, kv_heads, N, head_dim), and return the layer's store.

        Returns:
            Keys and values, (B, capacity, kv_heads, head_dim); zeros where nothing is stored.
        """
        if layer == len(self.keys):
            shape = (self.count, _round_up(self.width, 16) + _GROWTH, key.shape[1], key.shape[3])
            self.keys.append(key.new_zeros(shape))
            self.values.append(value.new_zeros(shape))
        elif self.width > self.keys[layer].shape[1]:
            self.keys[layer] = self._enlarged(self.keys[layer])
            self.values[layer] = self._enlarged(self.values[layer])
        keys, values = self.keys[layer][: self.count], self.values[layer][: self.count]
        keys[self.rows, self.positions] = key[0].transpose(0, 1)
        values[self.rows, self.positions] = value[0].transpose(0, 1)
        return keys, values

    def keep(self, order: Sequence[int]) -> None:
        """Drop rows: slot i holds afterwards what slot order[i] held. Slots that stay where they are cost nothing."""
        moves = [(new, old) for new, old in enumerate(order) if new != old]
        for store in (*self.keys, *self.values):
            for new, old in moves:
                store[new] = store[old]
        self.lengths = self.lengths[list(order)]
        self.count = len(order)
        self.width = int(self.lengths.max())

    def _enlarged(self, store: torch.Tensor) -> torch.Tensor:
        bigger = store.new_zeros((self.count, store.shape[1] + _GROWTH, *store.shape[2:]))
        bigger[:, : store.shape[1]] = store[: self.count]
        return bigger


def prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    row_store: RowStore | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend over a flat batch; implements the attention interface of transformers.

    Args:
        module: The attention layer; its `layer_idx` is used.
        query: (1, heads, N, head_dim), positions already applied.
        key: (1, kv_heads, N, head_dim).
        value: The same shape as `key`.
        attention_mask: None; what may be seen follows from `row_store`.
        scaling: Factor on the scores.
        dropout: 0.
        row_store: Where the N tokens belong.
        **kwargs: Arguments of attention variants that this function does not know; all must be None or False.

    Returns:
        (1, N, heads, head_dim), and no weights.

    Raises:
        NotImplementedError: The model asks for an attention variant other than plain causal attention.
    """
    unknown = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if row_store is None or attention_mask is not None or dropout or unknown:
        raise NotImplementedError(f"unsupported attention: {unknown or 'mask, dropout or no row store'}")
    keys, values = row_store.write(module.layer_idx, key, value)
    attend_tail = _prefill_tails if row_store.prefilling else _decode_tails
    out, weight = attend_tail(query, keys, values, row_store, scaling)
    if row_store.prefix is not None:
        layer = module.layer_idx
        shared, shared_weight = _attend_prefix(
            query, row_store.prefix.keys[layer], row_store.prefix.values[layer], scaling
        )
        # In float64: torch computes the last few elements of a float32 sigmoid by other code than the rest, so the
        # result would depend, by one rounding, on how many rows there are.
        share = torch.sigmoid((shared_weight - weight).double()).to(out.dtype)[..., None]
        out = torch.lerp(out, shared, share)
    return out[None], None


def _attend_prefix(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let all N queries see the whole prefix; the query heads of one kv head are folded into the query dimension.

    Returns:
        Outputs (N, heads, head_dim) and log-sum-exps (N, heads).
    """
    _, heads, n, dim = query.shape
    kv_heads = keys.shape[2]
    folded = query.new_zeros(1, kv_heads, _round_up(heads // kv_heads * n, _QUERY_MULTIPLE), dim)
    used = heads // kv_heads * n
    folded[:, :, :used] = query.reshape(1, kv_heads, used, dim)
    out, lse = attend(folded, keys.transpose(1, 2), values.transpose(1, 2), scaling)
    out = out[0, :, :used].reshape(heads, n, dim).transpose(0, 1)
    return out, lse[0, :, :used].reshape(heads, n).transpose(0, 1)


def _prefill_tails(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, store: RowStore, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let every tail token see its row's tokens up to itself. Returns as `_attend_prefix`."""
    _, heads, _, dim = query.shape
    kv_heads = keys.shape[2]
    group = heads // kv_heads
    local, positions = store.rows - store.first, store.positions
    padded = query.new_zeros(store.pass_count, store.span, kv_heads, group, dim)
    padded[local, positions] = query[0].transpose(0, 1).view(-1, kv_heads, group, dim)
    part = slice(store.first, store.first + store.pass_count)
    tail_keys, tail_values = (tensor[part, : store.span].transpose(1, 2) for tensor in (keys, values))
    outs, lses = [], []
    for member in range(group):
        out, lse = attend(padded[:, :, :, member].transpose(1, 2), tail_keys, tail_values, scaling, causal=True)
        outs.append(out.transpose(1, 2)[local, positions])
        lses.append(lse.transpose(1, 2)[local, positions])
    return torch.stack(outs, 2).flatten(1, 2), torch.stack(lses, 2).flatten(1, 2)


def _decode_tails(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, store: RowStore, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let one token per row see its row. Returns as `_attend_prefix`."""
    _, heads, n, dim = query.shape
    kv_heads = keys.shape[2]
    group = heads // kv_heads
    folded = query.new_zeros(n, kv_heads, _round_up(group, _QUERY_MULTIPLE), dim)
    folded[:, :, :group] = query[0].transpose(0, 1).view(n, kv_heads, group, dim)
    tail_keys, tail_values = (tensor[:, : store.span].transpose(1, 2) for tensor in (keys, values))
    assert store.mask is not None
    out, lse = attend(folded, tail_keys, tail_values, scaling, mask=store.mask)
    return out[:, :, :group].reshape(n, heads, dim), lse[:, :, :group].reshape(n, heads)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    *,
    mask: torch.Tensor | None = None,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention and its log-sum-exps as `flash_attention` does, but on any device.

    `mask` is broadcastable to (B, heads, Q, K).
    """
    if query.device.type == "cpu":
        if mask is not None:
            mask = mask.expand(query.shape[0], 1, query.shape[2], key.shape[2])
        return flash_attention(query, key, value, scaling, causal=causal, mask=mask)
    scores = torch.matmul(query, key.transpose(-1, -2)).float() * scaling
    if mask is not None:
        scores += mask
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1)
        scores.masked_fill_(hidden, float("-inf"))
    lse = torch.logsumexp(scores, -1)
    return torch.matmul((scores - lse[..., None]).exp_().to(value.dtype), value), lse


def _round_up(number: int, multiple: int) -> int:
    return (number + multiple - 1) // multiple * multiple


AttentionInterface.register(ATTENTION, prefix_attention)
