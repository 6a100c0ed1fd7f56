"""Rotary embedding and attention over a batch with a shared prefix, as a few batched products.

The tails are filled up to one length T, so that all heads of all rows are products of equal shape: [B * G, R * T, d]
queries (R query heads read each of G key heads) with [B * G, P + T, d] keys, the prefix's in front of each row's own.
A token sees no later one, so what a tail was filled up with is never seen. In bfloat16 this is several times as fast
as PyTorch's flash kernel for the CPU, backward above all. The scores take memory: B * H * T * (P + T) of them; where
that is more than `MOST_SCORES`, `attention.py` has the flash kernel run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from pytest_dspy_ft.local.compat import softmax_backward
from pytest_dspy_ft.local.training.batch import PrefixLayout

MOST_SCORES = 2**26
"""The most scores of one layer that are made at once: 128 MiB in bfloat16."""

MOST_KEPT = 2**23
"""The most scores of one layer that are kept for the backward pass; more are computed again. The numbers are equal."""


class Heads(NamedTuple):
    """How a row of a joint projection is divided: query heads, then key heads, then value heads, each `width` wide."""

    query: int
    key: int
    width: int


def scores(layout: PrefixLayout, query_heads: int) -> int:
    """How many scores one layer has over a batch, the filled-up tails counted in full."""
    longest = max(layout.tails)
    tails = len(layout.tails) * longest * _places(layout.prefix + longest)
    return query_heads * (tails + layout.prefix * _places(layout.prefix))


def _places(keys: int) -> int:
    """How many places so many keys take: the next multiple of 32, so that vectorized loops over them leave no rest."""
    return -(-keys // 32) * 32


def dense_attention(
    projected: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: PrefixLayout, heads: Heads, scale: float
) -> torch.Tensor:
    """Rotate queries and keys, and attend.

    Args:
        projected: [N, (H + 2 G) * d], queries, keys and values of each token side by side.
        cos: [N, d]; the rotation of x is x * cos + (-x2, x1) * sin, x1 and x2 the halves of x.
        sin: [N, d].
        layout: The batch's; positions go on from the prefix in every tail.
        heads: H, G and d.
        scale: Factor on the scores.

    Returns:
        [N, H * d].
    """
    out: torch.Tensor = _DenseAttention.apply(projected, cos, sin, layout, heads, scale)  # type: ignore[no-untyped-call]
    return out


def _tables(cos: torch.Tensor, sin: torch.Tensor, layout: PrefixLayout, scale: float) -> torch.Tensor:
    """Cos and sin for keys, then for queries, whose turn also scales: [4, P + T, d], the prefix's and one tail's."""
    longest = max(layout.tails)
    start = layout.spans[layout.tails.index(longest)][0]
    both = torch.stack([cos, sin])
    both = torch.cat([both[:, : layout.prefix], both[:, start : start + longest]], 1)
    return torch.cat([both, both * scale])


def _mask(length: int, before: int, places: int, dtype: torch.dtype) -> torch.Tensor:
    """[T, K], to be added to scores: each of T tokens sees the `before` earlier ones, those up to itself, no more."""
    return torch.full((length, places), -torch.inf, dtype=dtype).triu_(before + 1)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> None:
    """Write the rotated x, [..., d], into `out`; cos and sin as broadcast to it."""
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])


def _rotate_back(grad: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> None:
    """Write the gradient with regard to x of `_rotate` into `out`."""
    half = grad.shape[-1] // 2
    torch.mul(grad, cos, out=out)
    out[..., :half].addcmul_(grad[..., half:], sin[..., half:])
    out[..., half:].addcmul_(grad[..., :half], sin[..., :half], value=-1)


def _keys_and_values(like: torch.Tensor, sizes: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for [B, G, K, d] keys and as many values; 0 at the places beyond K."""
    batch, heads, length, width = sizes
    k, v = like.new_empty(2, batch, heads, _places(length), width)
    k[:, :, length:], v[:, :, length:] = 0, 0
    return k, v


class _Part(NamedTuple):
    """Queries, keys and values of one part of the batch: its prefix, or its tails.

    q [B, H, T, d] (scaled), k and v [B, G, K, d]; probabilities are [B * G, R * T, K]. Of the K places for keys, the
    first `before` are of tokens in front of the queries', the next T of these; nothing stands in what is left.
    """

    before: int
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor

    @classmethod
    def empty(cls, like: torch.Tensor, batch: int, heads: Heads, before: int, length: int) -> _Part:
        """Make one to be written into: q [B, H, T, d], k and v whose unused places are 0."""
        q = like.new_empty(batch, heads.query, length, heads.width)
        return cls(before, q, *_keys_and_values(like, (batch, heads.key, before + length, heads.width)))

    def own(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of its own tokens alone, [B, G, T, d] each, which share no memory with it."""
        places = slice(self.before, self.before + self.q.shape[2])
        return self.k[:, :, places].clone(), self.v[:, :, places].clone()

    def behind(self, prefix: _Part | None) -> _Part:
        """The whole part, of one whose k and v are `own`, and the prefix that is in front of it."""
        batch, heads, length, width = self.k.shape
        k, v = _keys_and_values(self.k, (batch, heads, self.before + length, width))
        for whole, mine in ((k, self.k), (v, self.v)):
            whole[:, :, self.before : self.before + length] = mine
        if prefix is not None:
            k[:, :, : self.before], v[:, :, : self.before] = (part[:, :, : self.before] for part in prefix[2:])
        return _Part(self.before, self.q, k, v)

    def probabilities(self) -> torch.Tensor:
        """softmax(q k^T), a query seeing the keys up to its own."""
        length = self.q.shape[2]
        scores = torch.bmm(self._queries(), self.k.flatten(0, 1).transpose(1, 2))
        mask = _mask(length, self.before, scores.shape[2], scores.dtype)
        scores.view(-1, length, scores.shape[2]).add_(mask)
        return torch.softmax(scores, -1)

    def attend(self, probabilities: torch.Tensor) -> torch.Tensor:
        """[B, H, T, d], the mean of the values."""
        return torch.bmm(probabilities, self.v.flatten(0, 1)).view(self.q.shape)

    def backward(
        self, grad: torch.Tensor, probabilities: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The gradients with regard to q, k and v, from one with regard to the output, contiguous."""
        flat = grad.view(*probabilities.shape[:2], -1)
        grad_v = torch.bmm(probabilities.transpose(1, 2), flat)
        wanted = torch.bmm(flat, self.v.flatten(0, 1).transpose(1, 2))
        grad_scores = softmax_backward(wanted, probabilities)
        grad_q = torch.bmm(grad_scores, self.k.flatten(0, 1))
        grad_k = torch.bmm(grad_scores.transpose(1, 2), self._queries())
        return grad_q.view(self.q.shape), grad_k.view(self.k.shape), grad_v.view(self.v.shape)

    def _queries(self) -> torch.Tensor:
        """[B * G, R * T, d]: the queries that read the same keys side by side."""
        return self.q.view(self.k.shape[0] * self.k.shape[1], -1, self.k.shape[3])


class _DenseAttention(torch.autograd.Function):
    """See `dense_attention`."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        layout: PrefixLayout,
        heads: Heads,
        scale: float,
    ) -> torch.Tensor:
        h, g, d = heads
        p, rows, longest = layout.prefix, len(layout.tails), max(layout.tails)
        filled, places = layout.filled_tails
        tables = _tables(cos, sin, layout, scale)
        head, tail = tables[:, :p], tables[:, p:]
        out = projected.new_empty(projected.shape[0], h * d)

        own = projected.index_select(0, filled).view(rows, longest, h + 2 * g, d).transpose(1, 2)
        tails = _Part.empty(projected, rows, heads, p, longest)
        _rotate(own[:, :h], tail[2], tail[3], tails.q)
        _rotate(own[:, h : h + g], tail[0], tail[1], tails.k[:, :, p : p + longest])
        tails.v[:, :, p : p + longest] = own[:, h + g :]
        parts = [tails]
        if p:
            own = projected[:p].view(1, p, h + 2 * g, d).transpose(1, 2)
            prefix = _Part.empty(projected, 1, heads, 0, p)
            _rotate(own[:, :h], head[2], head[3], prefix.q)
            _rotate(own[:, h : h + g], head[0], head[1], prefix.k[:, :, :p])
            prefix.v[:, :, :p] = own[:, h + g :]
            tails.k[:, :, :p], tails.v[:, :, :p] = prefix.k[:, :, :p], prefix.v[:, :, :p]
            parts.append(prefix)
        kept = [part.probabilities() for part in parts]
        attended = tails.attend(kept[0]).transpose(1, 2).reshape(rows * longest, h * d)
        torch.index_select(attended, 0, places, out=out[p:])
        if p:
            out[:p].view(p, h, d).copy_(prefix.attend(kept[1])[0].transpose(0, 1))
        if scores(layout, h) > MOST_KEPT:
            kept = []
        # The prefix's keys and values are not kept once more for every tail: that would be most of a layer's memory.
        saved = [tails.q, *tails.own(), *(tensor for part in parts[1:] for tensor in part[1:])]
        ctx.save_for_backward(tables, *kept, *saved)
        ctx.layout, ctx.heads, ctx.shape = layout, heads, projected.shape
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layout: PrefixLayout = ctx.layout
        h, g, d = ctx.heads
        p, rows, longest = layout.prefix, len(layout.tails), max(layout.tails)
        count = 2 if p else 1
        tables, *saved = ctx.saved_tensors
        tensors = saved[-3 * count :]
        parts = [_Part((p, 0)[i], *tensors[3 * i : 3 * i + 3]) for i in range(count)]
        parts[0] = parts[0].behind(parts[1] if p else None)
        kept = saved[: -3 * count] or [part.probabilities() for part in parts]
        places = layout.filled_tails[1]
        head, tail = tables[:, :p], tables[:, p:]

        # Nothing may come from what the tails were filled up with: its gradient is 0.
        padded = grad.new_zeros(rows * longest, h * d).index_copy_(0, places, grad[p:])
        arranged = padded.view(rows, longest, h, d).transpose(1, 2).contiguous()
        grad_q, grad_k, grad_v = parts[0].backward(arranged, kept[0])
        grad_projected = grad.new_empty(ctx.shape)
        own = grad.new_empty(rows, longest, h + 2 * g, d)
        turned = own.transpose(1, 2)
        _rotate_back(grad_q, tail[2], tail[3], turned[:, :h])
        _rotate_back(grad_k[:, :, p : p + longest], tail[0], tail[1], turned[:, h : h + g])
        turned[:, h + g :] = grad_v[:, :, p : p + longest]
        torch.index_select(own.view(rows * longest, -1), 0, places, out=grad_projected[p:])
        if p:
            arranged = grad[:p].view(1, p, h, d).transpose(1, 2).contiguous()
            grad_q0, grad_k0, grad_v0 = parts[1].backward(arranged, kept[1])
            # The sum over all rows that read the prefix, and itself.
            grad_k0 = torch.cat([grad_k[:, :, :p], grad_k0[:, :, :p]]).sum(0)
            grad_v0 = torch.cat([grad_v[:, :, :p], grad_v0[:, :, :p]]).sum(0)
            turned = grad_projected[:p].view(p, h + 2 * g, d).transpose(0, 1)
            _rotate_back(grad_q0[0], head[2], head[3], turned[:h])
            _rotate_back(grad_k0, head[0], head[1], turned[h : h + g])
            turned[h + g :] = grad_v0
        return grad_projected, None, None, None, None, None
