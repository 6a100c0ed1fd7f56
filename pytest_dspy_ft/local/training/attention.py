"""Attention over a batch whose common prefix is there once, exact and with memory linear in its tokens."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pytest_dspy_ft.local.compat import attention_name, flash_attention, flash_attention_backward
from pytest_dspy_ft.local.training.batch import (
    IGNORED,
    EncodedRow,
    PrefixLayout,
    SharedBatch,
    plain_batch,
    shared_batch,
)

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
        groups = query.shape[1] // key.shape[1]
        k, v = _expand(key, groups), _expand(value, groups)
        p = layout.prefix
        # Laid out as [1, N, H, d], which is what the model goes on with: no copy to transpose it.
        out = query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3]).transpose(1, 2)
        lse = torch.empty(query.shape[:3], dtype=torch.float32)
        for start, end in layout.spans:
            part = slice(start, end)
            out[:, :, part], lse[:, :, part] = flash_attention(
                query[:, :, part], k[:, :, part], v[:, :, part], scale, causal=True
            )
        if p:
            head = k[:, :, :p], v[:, :, :p]
            out[:, :, :p], lse[:, :, :p] = flash_attention(query[:, :, :p], *head, scale, causal=True)
            seen, seen_lse = flash_attention(query[:, :, p:], *head, scale)
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
        query, key, value, out, lse = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        groups = query.shape[1] // key.shape[1]
        k, v = _expand(key, groups), _expand(value, groups)
        p = layout.prefix
        dq, dk, dv = torch.empty_like(query), torch.empty_like(k), torch.empty_like(v)

        def block(queries: slice, keys: slice, causal: bool) -> Any:
            seen = grad[:, :, queries], query[:, :, queries], k[:, :, keys], v[:, :, keys]
            return flash_attention_backward(*seen, out[:, :, queries], lse[:, :, queries], causal, scale)

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


def shared_logits(model: Any, batch: SharedBatch) -> torch.Tensor:
    """Run `model`, whose attention is `ATTENTION`, on a flat batch.

    Returns:
        Logits at the places that predict a label, [1, L, vocabulary], or hidden states if `detach_head` took the head.
    """
    output = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        logits_to_keep=batch.keep,
        shared_prefix=batch.layout,
        label_places=torch.unique(batch.keep),
        use_cache=False,
    )
    logits: torch.Tensor = output.logits
    return logits


def supports_shared_prefix(model: PreTrainedModel) -> bool:
    """Try on a tiny batch if `model` (a private copy) gives the same logits for the shared layout as for the padded.

    The try cannot see a sliding window longer than itself, so a config that declares one counts as a no. Leaves the
    model with the attention that fits the answer.
    """
    usual = attention_name(model)
    windowed = getattr(model.config, "sliding_window", None) and getattr(model.config, "use_sliding_window", True)
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if windowed or kinds != {"full_attention"} or "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return False
    rows = [EncodedRow((1, 2, 3, 4, 5, 6), 4), EncodedRow((1, 2, 3, 7, 5, 8, 9), 3)]
    try:
        with torch.no_grad():
            padded = {name: tensor.to(model.device) for name, tensor in plain_batch(rows, 0).items()}
            labelled = padded["labels"][:, 1:] != IGNORED
            expected = model(**padded).logits
            model.set_attn_implementation(ATTENTION)
            got = shared_logits(model, shared_batch(rows).to(model.device))[0]
        noise = 1e-3 if got.dtype == torch.float32 else 0.1
        scale = float(expected.abs().max())
        same = torch.allclose(got, expected[:, :-1][labelled], rtol=noise, atol=noise * scale)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        same = False  # an architecture that passes no keywords on to its attention, or has no such interface
    if not same:
        model.set_attn_implementation(usual)
    return same
