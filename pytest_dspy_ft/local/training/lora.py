"""Linear layers and gated MLPs with their LoRA, forward and backward in one piece: the same sums in less memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers.activations import SiLUActivation

from pytest_dspy_ft.local.forwards import give_forward


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
            give_forward(module, partial(_fused_linear, parts))
            fused += 1
        named = [_lora_parts(getattr(module, name, None)) for name in ("gate_proj", "up_proj", "down_proj")]
        gated = [part for part in named if part is not None and part[1] is None]
        if len(gated) == 3 and isinstance(getattr(module, "act_fn", None), (nn.SiLU, SiLUActivation)):
            candidate = partial(_fused_mlp, gated)
            if _agree(module, candidate, int(gated[0][0].shape[1])):
                give_forward(module, candidate)
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
