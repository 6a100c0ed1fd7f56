"""Attention over a batch whose common prefix is there once, exact and with memory linear in its tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pytest_dspy_ft.local.training.batch import PrefixLayout, SharedBatch

ATTENTION = "dspy_ft_shared_prefix"
"""The name under which transformers finds `shared_prefix_attention`."""


def _expand(states: torch.Tensor, groups: int) -> torch.Tensor:
    """[1, heads, N, d] -> [1, heads * groups, N, d], each key/value head repeated for the query heads that read it."""
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


class _FlashOverSharedPrefix(torch.autograd.Function):
    """Exact attention over a `PrefixLayout`, as a few calls of PyTorch's CPU flash kernel; memory is linear in N.

    A tail's softmax runs over two blocks of keys, the prefix and itself. The blocks' outputs o_b with log-sum-exps l_b
    merge to o = sum_b exp(l_b - l) o_b, l = logsumexp_b l_b. The flash backward of a block needs only the softmax's
    *total* l and the *merged* o, so it is run per block with these (the way ring attention does it: Liu et al. 2023,
    arXiv 2310.01889), and the gradients add up.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PrefixLayout, scale: float
    ) -> torch.Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        groups = query.shape[1] // key.shape[1]
        k, v = _expand(key, groups), _expand(value, groups)
        p = layout.prefix
        # Laid out as [1, N, H, d], which is what the model goes on with: no copy to transpose it.
        out = query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3]).transpose(1, 2)
        lse = torch.empty(query.shape[:3], dtype=torch.float32)
        for start, end in layout.spans:
            part = slice(start, end)
            out[:, :, part], lse[:, :, part] = flash(
                query[:, :, part], k[:, :, part], v[:, :, part], 0.0, True, scale=scale
            )
        if p:
            out[:, :, :p], lse[:, :, :p] = flash(query[:, :, :p], k[:, :, :p], v[:, :, :p], 0.0, True, scale=scale)
            seen, seen_lse = flash(query[:, :, p:], k[:, :, :p], v[:, :, :p], 0.0, False, scale=scale)
            own, own_lse = out[:, :, p:], lse[:, :, p:]
            total = torch.logaddexp(own_lse, seen_lse)
            own.mul_((own_lse - total).exp_().unsqueeze(-1).to(own.dtype))
            own.add_(seen.mul_((seen_lse - total).exp_().unsqueeze(-1).to(seen.dtype)))
            own_lse.copy_(total)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, out, lse = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        groups = query.shape[1] // key.shape[1]
        k, v = _expand(key, groups), _expand(value, groups)
        p = layout.prefix
        dq, dk, dv = torch.empty_like(query), torch.empty_like(k), torch.empty_like(v)

        def block(queries: slice, keys: slice, causal: bool) -> Any:
            return flash(
                grad[:, :, queries], query[:, :, queries], k[:, :, keys], v[:, :, keys],
                out[:, :, queries], lse[:, :, queries], 0.0, causal, scale=scale,
            )  # fmt: skip

        for start, end in layout.spans:
            part = slice(start, end)
            dq[:, :, part], dk[:, :, part], dv[:, :, part] = block(part, part, True)
        if p:
            head, tails = slice(0, p), slice(p, None)
            dq[:, :, head], dk[:, :, head], dv[:, :, head] = block(head, head, True)
            more_q, more_k, more_v = block(tails, head, False)
            dq[:, :, tails] += more_q
            dk[:, :, head] += more_k
            dv[:, :, head] += more_v
        if groups > 1:
            shape = (*key.shape[:2], groups, *key.shape[2:])
            dk, dv = dk.view(shape).sum(2), dv.view(shape).sum(2)
        return dq, dk, dv, None, None


def shared_prefix_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared_prefix: PrefixLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' interface: query [1, H, N, d], key and value [1, H / groups, N, d] -> [1, N, H, d].

    The layout arrives as the keyword `shared_prefix` of the model's forward. On the CPU it runs as blocks of flash
    attention; elsewhere as one masked `scaled_dot_product_attention`.
    """
    if shared_prefix is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if query.device.type == "cpu" and not dropout:
        flat = _FlashOverSharedPrefix.apply(query, key, value, shared_prefix, scale)  # type: ignore[no-untyped-call]
    else:
        groups = query.shape[1] // key.shape[1]
        flat = F.scaled_dot_product_attention(
            query,
            _expand(key, groups),
            _expand(value, groups),
            attn_mask=shared_prefix.mask(query.device),
            dropout_p=dropout,
            scale=scale,
        )
    return flat.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, shared_prefix_attention)


def shared_output(model: nn.Module, batch: SharedBatch) -> torch.Tensor:
    """What the model gives at the places that predict a label, [L, ...], with its attention being `ATTENTION`.

    These are logits, or the hidden states if `open_head` took the head off.
    """
    output = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        logits_to_keep=batch.keep,
        shared_prefix=batch.layout,
        use_cache=False,
    )
    logits: torch.Tensor = output.logits[0]
    return logits
