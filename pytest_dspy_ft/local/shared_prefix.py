"""A training batch whose common prefix is computed once.

Every row of one DSPy predictor begins with the same system text and demos. A batch of B rows is laid out as one
sequence

    prefix (P tokens) | tail 0 | tail 1 | ... | tail B-1          N = P + sum(tails) tokens

where each tail's position ids go on from P and attention lets a tail see the prefix and itself, nothing else. Hidden
states, loss and gradients are those of the padded batch (B x longest row), up to float noise: the prefix's gradient is
the sum over the rows that read it, which is what autograd does with a value used B times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.activations import SiLUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer

ATTENTION = "dspy_ft_shared_prefix"
"""The name under which transformers finds `shared_prefix_attention`."""

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
    """Where the parts of a flat batch lie: `prefix` tokens, then tails of `tails[i]` tokens each."""

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

    def mask(self, device: torch.device) -> torch.Tensor:
        """Boolean [N, N]: may the token of this row (query) see the token of this column (key)?"""
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
        """Tokens that the model really computes."""
        return int(self.input_ids.shape[1])

    def to(self, device: torch.device) -> SharedBatch:
        """The same batch on `device`."""
        ids, positions = self.input_ids.to(device), self.position_ids.to(device)
        return SharedBatch(ids, positions, self.keep.to(device), self.targets.to(device), self.layout)


def common_prefix_length(rows: Sequence[EncodedRow]) -> int:
    """How many leading tokens all rows share, leaving at least one token of each row to its tail."""
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


# ----------------------------------------------------------------------------------------------------------- attention


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


# ---------------------------------------------------------------------------------------------------- the two forwards


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


def mean_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over all label tokens of the batch, in float32, as Hugging Face's causal LM loss has it."""
    return F.cross_entropy(logits.float(), targets)


class _HeadLoss(torch.autograd.Function):
    """Mean cross entropy of a frozen linear head, a few label tokens at a time.

    The gradient with regard to the hidden states, (softmax(h W^T) - onehot(target)) W / L, is made on the way forward,
    so that no more than a piece of the logits (vocabulary-wide: 192 KiB a token here) is ever in memory.
    """

    PIECE = 256

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), _HeadLoss.PIECE):
            piece = slice(start, start + _HeadLoss.PIECE)
            logits = F.linear(hidden[piece], weight, bias).float()
            wanted = targets[piece, None]
            top = logits.amax(-1, keepdim=True)
            chosen = logits.gather(-1, wanted) - top
            exponentials = logits.sub_(top).exp_()
            norm = exponentials.sum(-1, keepdim=True)
            total += (norm.log() - chosen).sum()
            if grad is not None:
                shares = exponentials.div_(norm)
                shares.scatter_add_(-1, wanted, torch.full_like(chosen, -1.0))
                grad[piece] = torch.mm(shares.to(weight.dtype), weight).div_(len(targets))
        ctx.grad = grad
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return ctx.grad * grad.to(ctx.grad.dtype), None, None, None


class Head:
    """The output head of a model, called with hidden states [L, hidden] and targets [L] for their mean loss."""

    def __init__(self, linear: nn.Linear) -> None:
        self.weight, self.bias = linear.weight, linear.bias

    def __call__(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cross entropy."""
        loss: torch.Tensor = _HeadLoss.apply(hidden, self.weight, self.bias, targets)  # type: ignore[no-untyped-call]
        return loss


def open_head(model: Any) -> Head | None:
    """Take the head off `model` (a private copy on which `ATTENTION` works): it then returns hidden states as logits.

    None, and nothing changed, if the head is not a frozen linear layer or the model does something to the logits after
    it (a scale, a cap): then what comes out is not the very tensor that went into the head.
    """
    linear = model.get_output_embeddings()
    if type(linear) is not nn.Linear or linear.weight.requires_grad:
        return None
    entered: list[torch.Tensor] = []

    def note(hidden: torch.Tensor) -> torch.Tensor:
        entered.append(hidden)
        return hidden

    _give_forward(linear, note)
    batch = shared_batch([EncodedRow((1, 2, 3), 1), EncodedRow((1, 2, 4), 1)]).to(linear.weight.device)
    with torch.no_grad():
        output = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            logits_to_keep=batch.keep,
            shared_prefix=batch.layout,
            use_cache=False,
        )
    if len(entered) != 1 or output.logits is not entered[0]:
        del linear.forward
        return None
    _give_forward(linear, _unchanged)
    return Head(linear)


def _give_forward(module: Any, forward: Callable[..., torch.Tensor]) -> None:
    """Another forward for this one module, not for its class; `del module.forward` takes it back."""
    module.forward = forward


def _unchanged(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


# --------------------------------------------------------------------------------------------------- LoRA, fused


def _lora_forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """LoRA's sum, x W^T + bias + scale (x A^T) B^T for x [N, in]; also returns h = x A^T, [N, r]."""
    out = F.linear(x, weight, bias)
    h = x @ a.t()
    return out.addmm_(h, b.t(), alpha=scale), h


def _lora_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    h: torch.Tensor,
    weight: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    into: torch.Tensor | None = None,
    want_x: bool = True,
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Gradients of `_lora_forward` with regard to x (added to `into` if given), A and B."""
    grad_h = grad @ b
    grad_h *= scale
    grad_x = None
    if want_x:
        grad_x = torch.mm(grad, weight) if into is None else into.addmm_(grad, weight)
        grad_x.addmm_(grad_h, a)
    grad_b = grad.t() @ h
    grad_b *= scale
    return grad_x, grad_h.t() @ x, grad_b


class _LoraLinear(torch.autograd.Function):
    """One linear layer with its LoRA, without the three full-size temporaries of the sum written out."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out, h = _lora_forward(flat, weight, bias, a, b, scale)
        ctx.save_for_backward(flat, h, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, h, weight, a, b = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        grad_x, grad_a, grad_b = _lora_backward(flat, x, h, weight, a, b, ctx.scale, want_x=ctx.needs_input_grad[0])
        return None if grad_x is None else grad_x.view(ctx.shape), None, None, grad_a, grad_b, None


class _GatedMlp(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)), each with its LoRA; keeps gate(x) and up(x) and computes the rest of it again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scales: tuple[float, float, float], *weights: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        gate, h_gate = _lora_forward(flat, weights[0], None, weights[1], weights[2], scales[0])
        up, h_up = _lora_forward(flat, weights[3], None, weights[4], weights[5], scales[1])
        inner = F.silu(gate).mul_(up)
        out, h_down = _lora_forward(inner, weights[6], None, weights[7], weights[8], scales[2])
        ctx.save_for_backward(flat, gate, up, h_gate, h_up, h_down, *weights)
        ctx.scales, ctx.shape = scales, x.shape
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, gate, up, h_gate, h_up, h_down, *w = ctx.saved_tensors
        scales = ctx.scales
        active = F.silu(gate)
        inner = active * up
        grad_inner, grad_a_down, grad_b_down = _lora_backward(
            grad.reshape(-1, grad.shape[-1]), inner, h_down, w[6], w[7], w[8], scales[2]
        )
        assert grad_inner is not None
        grad_up = torch.mul(grad_inner, active, out=active)
        grad_gate = torch.ops.aten.silu_backward(grad_inner.mul_(up), gate)
        grad_x, grad_a_up, grad_b_up = _lora_backward(grad_up, x, h_up, w[3], w[4], w[5], scales[1])
        grad_x, grad_a_gate, grad_b_gate = _lora_backward(
            grad_gate, x, h_gate, w[0], w[1], w[2], scales[0], into=grad_x
        )
        assert grad_x is not None
        gate_grads, up_grads = (None, grad_a_gate, grad_b_gate), (None, grad_a_up, grad_b_up)
        return grad_x.view(ctx.shape), None, *gate_grads, *up_grads, None, grad_a_down, grad_b_down


def _lora_parts(module: Any) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor, float] | None:
    """(W, bias, A, B, scale) of peft's plain LoRA layer, if that is all there is to it; else None."""
    from peft.tuners.lora import Linear as LoraLinear

    if type(module) is not LoraLinear or type(module.base_layer) is not nn.Linear or module.lora_variant:
        return None
    (name,) = module.active_adapters
    base, a, b = module.base_layer, module.lora_A[name], module.lora_B[name]
    plain = isinstance(module.lora_dropout[name], nn.Identity) and a.bias is None and b.bias is None
    same = {base.weight.dtype, a.weight.dtype, b.weight.dtype} == {torch.float32}
    if not (plain and same) or module.fan_in_fan_out or base.weight.requires_grad:
        return None
    return base.weight, base.bias, a.weight, b.weight, float(module.scaling[name])


def fuse_lora(model: Any) -> int:
    """Give the float32 LoRA layers of `model` a forward that computes the same with less memory; returns how many.

    Layers of another kind (dropout, DoRA, bfloat16 weights, ...) keep peft's forward.
    """
    fused = 0
    for module in model.modules():
        parts = _lora_parts(module)
        if parts is not None:
            _give_forward(module, partial(_fused_linear, parts))
            fused += 1
        named = [_lora_parts(getattr(module, name, None)) for name in ("gate_proj", "up_proj", "down_proj")]
        gated = [part for part in named if part is not None and part[1] is None]
        if len(gated) == 3 and isinstance(getattr(module, "act_fn", None), (nn.SiLU, SiLUActivation)):
            candidate = partial(_fused_mlp, gated)
            if _agree(module, candidate, int(gated[0][0].shape[1])):
                _give_forward(module, candidate)
    return fused


def _agree(module: nn.Module, candidate: Any, width: int) -> bool:
    """Whether `candidate` computes what `module` does: tried, as a class may do more than its attributes tell."""
    x = torch.linspace(-1, 1, 3 * width, device=next(module.parameters()).device).view(1, 3, width)
    with torch.no_grad():
        return torch.allclose(module(x), candidate(x), rtol=1e-4, atol=1e-5)


def _fused_linear(parts: Any, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = _LoraLinear.apply(x, *parts)  # type: ignore[no-untyped-call]
    return out


def _fused_mlp(gated: Any, x: torch.Tensor) -> torch.Tensor:
    weights = [tensor for weight, _, a, b, _ in gated for tensor in (weight, a, b)]
    out: torch.Tensor = _GatedMlp.apply(x, tuple(part[4] for part in gated), *weights)  # type: ignore[no-untyped-call]
    return out


# ------------------------------------------------------------------------------------------------------------ memory


class Recomputation:
    """Bounds the memory of a step: as many layers as needed forget their activations and compute them again.

    What a layer keeps for the backward pass is measured once, on a short batch; it grows with the number of tokens.
    """

    def __init__(self, model: nn.Module, budget: float) -> None:
        """Measure.

        Args:
            model: A model with LoRA, ready to train, whose attention is `ATTENTION`.
            budget: Bytes that the activations of a step may take, roughly.
        """
        self.budget = budget
        self.layers: list[Any] = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
        for layer in self.layers:
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        rows = [EncodedRow((*range(1, 33), *range(40 + i, 72)), 63) for i in range(2)]
        batch = shared_batch(rows).to(next(model.parameters()).device)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        was_training = model.training
        model.train()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            shared_output(model, batch)
        model.train(was_training)
        self.per_token = sum(kept.values()) / batch.tokens

    def prepare(self, tokens: int) -> int:
        """Set the layers for a step of `tokens` tokens; returns how many will be computed twice."""
        if not self.layers:
            return 0
        excess = self.per_token * tokens - self.budget
        one = self.per_token * tokens / len(self.layers)
        count = min(max(math.ceil(excess / one), 0), len(self.layers)) if excess > 0 else 0
        for i, layer in enumerate(self.layers):
            # The first ones: their recomputation comes last, when the others' activations are gone.
            layer.gradient_checkpointing = i < count
        return count
