"""A model with a trainable LoRA over frozen weights, and its layers' forward and backward in one piece each.

The fused layers compute the same sums as peft's in less memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.local.adapters import CONFIG
from pytest_dspy_ft.local.compat import LoraFactors, lora_factors
from pytest_dspy_ft.local.training.config import LoraTrainingConfig


def private_copy(model: PreTrainedModel) -> PreTrainedModel:
    """New modules over the same, frozen weight tensors: whatever is done to the copy, `model` stays as it is."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    memo.update((id(b), b) for b in model.buffers())
    return copy.deepcopy(model, memo)


def add_lora(
    model: PreTrainedModel, source_name: str, config: LoraTrainingConfig, init_adapter: Path | None, seed: int
) -> Any:
    """Wrap `model` in a trainable LoRA, new or read from the folder `init_adapter`.

    Raises:
        TrainingError: The folder holds no LoRA, or the config's target modules do not fit the model.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    model.name_or_path = source_name  # or peft notes down this machine's path
    if init_adapter is not None:
        if not (Path(init_adapter) / CONFIG).is_file():
            raise TrainingError(f"{init_adapter} holds no LoRA to continue from (no {CONFIG})")
        return PeftModel.from_pretrained(model, str(init_adapter), is_trainable=True)
    targets = config.target_modules
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=source_name,
    )
    try:
        wrapped = get_peft_model(model, lora)
    except ValueError as error:
        raise TrainingError(f"target_modules={targets!r} does not fit {source_name}: {error}") from error
    # Drawn anew from a generator of our own: another thread may sample from the global one meanwhile.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_A" in name:
                fresh = torch.empty(parameter.shape)
                nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
                parameter.copy_(fresh)
    return wrapped


def fuse_lora(model: Any) -> None:
    """Give the float32 LoRA layers of `model` a forward that computes the same with less memory.

    Layers of another kind (dropout, DoRA, bfloat16 weights, ...) keep peft's forward.
    """
    for module in model.modules():
        factors = lora_factors(module)
        if factors is not None:
            module.forward = partial(_fused_linear, factors)
        named = [lora_factors(getattr(module, name, None)) for name in ("gate_proj", "up_proj", "down_proj")]
        layers = [layer for layer in named if layer is not None and layer.bias is None]
        if len(layers) == 3 and isinstance(getattr(module, "act_fn", None), (nn.SiLU, SiLUActivation)):
            candidate = partial(_fused_mlp, layers)
            if _same_output(module, candidate, int(layers[0].weight.shape[1])):
                module.forward = candidate


def _same_output(module: nn.Module, candidate: Any, width: int) -> bool:
    """Try if `candidate` computes what `module` does: a class may do more than its attributes tell."""
    x = torch.linspace(-1, 1, 3 * width, device=next(module.parameters()).device).view(1, 3, width)
    with torch.no_grad():
        return torch.allclose(module(x), candidate(x), rtol=1e-4, atol=1e-5)


def _fused_linear(factors: LoraFactors, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = _LoraLinear.apply(x, *factors)  # type: ignore[no-untyped-call]
    return out


def _fused_mlp(layers: Sequence[LoraFactors], x: torch.Tensor) -> torch.Tensor:
    weights = [tensor for layer in layers for tensor in (layer.weight, layer.a, layer.b)]
    scales = tuple(layer.scale for layer in layers)
    out: torch.Tensor = _GatedMlp.apply(x, scales, *weights)  # type: ignore[no-untyped-call]
    return out


def _lora_forward(x: torch.Tensor, layer: LoraFactors) -> tuple[torch.Tensor, torch.Tensor]:
    """LoRA's sum, x W^T + bias + scale (x A^T) B^T for x [N, in]; also returns h = x A^T, [N, r]."""
    out = F.linear(x, layer.weight, layer.bias)
    h = x @ layer.a.t()
    return out.addmm_(h, layer.b.t(), alpha=layer.scale), h


def _lora_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    h: torch.Tensor,
    layer: LoraFactors,
    into: torch.Tensor | None = None,
    want_x: bool = True,
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Gradients of `_lora_forward` with regard to x (added to `into` if given), A and B."""
    grad_h = grad @ layer.b
    grad_h *= layer.scale
    grad_x = None
    if want_x:
        grad_x = torch.mm(grad, layer.weight) if into is None else into.addmm_(grad, layer.weight)
        grad_x.addmm_(grad_h, layer.a)
    grad_b = grad.t() @ h
    grad_b *= layer.scale
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
        out, h = _lora_forward(flat, LoraFactors(weight, bias, a, b, scale))
        ctx.save_for_backward(flat, h, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, h, weight, a, b = ctx.saved_tensors
        layer = LoraFactors(weight, None, a, b, ctx.scale)
        flat = grad.reshape(-1, grad.shape[-1])
        grad_x, grad_a, grad_b = _lora_backward(flat, x, h, layer, want_x=ctx.needs_input_grad[0])
        return None if grad_x is None else grad_x.view(ctx.shape), None, None, grad_a, grad_b, None


class _GatedMlp(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)), each with its LoRA; keeps gate(x) and up(x) and computes the rest of it again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scales: tuple[float, float, float], *weights: torch.Tensor) -> torch.Tensor:
        gate_layer, up_layer, down_layer = _mlp_layers(weights, scales)
        flat = x.reshape(-1, x.shape[-1])
        gate, h_gate = _lora_forward(flat, gate_layer)
        up, h_up = _lora_forward(flat, up_layer)
        inner = F.silu(gate).mul_(up)
        out, h_down = _lora_forward(inner, down_layer)
        ctx.save_for_backward(flat, gate, up, h_gate, h_up, h_down, *weights)
        ctx.scales, ctx.shape = scales, x.shape
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, gate, up, h_gate, h_up, h_down, *weights = ctx.saved_tensors
        gate_layer, up_layer, down_layer = _mlp_layers(weights, ctx.scales)
        active = F.silu(gate)
        inner = active * up
        flat = grad.reshape(-1, grad.shape[-1])
        grad_inner, grad_a_down, grad_b_down = _lora_backward(flat, inner, h_down, down_layer)
        assert grad_inner is not None
        grad_up = torch.mul(grad_inner, active, out=active)
        grad_gate = torch.ops.aten.silu_backward(grad_inner.mul_(up), gate)
        grad_x, grad_a_up, grad_b_up = _lora_backward(grad_up, x, h_up, up_layer)
        grad_x, grad_a_gate, grad_b_gate = _lora_backward(grad_gate, x, h_gate, gate_layer, into=grad_x)
        assert grad_x is not None
        gate_grads, up_grads = (None, grad_a_gate, grad_b_gate), (None, grad_a_up, grad_b_up)
        return grad_x.view(ctx.shape), None, *gate_grads, *up_grads, None, grad_a_down, grad_b_down


def _mlp_layers(weights: Sequence[torch.Tensor], scales: Sequence[float]) -> list[LoraFactors]:
    """The layers gate, up and down from W, A and B of each and their scales."""
    return [LoraFactors(weights[i], None, weights[i + 1], weights[i + 2], scales[i // 3]) for i in (0, 3, 6)]
