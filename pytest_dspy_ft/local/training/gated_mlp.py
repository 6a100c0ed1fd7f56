"""The gated MLP of Llama's kind, down(act(gate(x)) * up(x)), with LoRA, as one piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers.activations import GELUTanh, SiLUActivation

from pytest_dspy_ft.local.compat import LoraFactors
from pytest_dspy_ft.local.training.lora_linear import JointLinear


class Activation(NamedTuple):
    """An elementwise function, and its gradient: (gradient of the output, input, result) -> None, into `result`."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    backward: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any]


def _silu_backward(grad: torch.Tensor, x: torch.Tensor, result: torch.Tensor) -> Any:
    return torch.ops.aten.silu_backward.grad_input(grad, x, grad_input=result)


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_tanh_backward(grad: torch.Tensor, x: torch.Tensor, result: torch.Tensor) -> Any:
    return torch.ops.aten.gelu_backward.grad_input(grad, x, approximate="tanh", grad_input=result)


_SILU = Activation(F.silu, _silu_backward)
_GELU_TANH = Activation(_gelu_tanh, _gelu_tanh_backward)


def activation_of(module: Any) -> Activation | None:
    """Return what a module's `act_fn` computes; None for one that is not known here."""
    function = getattr(module, "act_fn", None)
    if isinstance(function, (nn.SiLU, SiLUActivation)):
        return _SILU
    return _GELU_TANH if isinstance(function, GELUTanh) else None


class GatedMlp:
    """The layers gate and up as one product, the activation, and the layer down."""

    def __init__(
        self, gate: LoraFactors, up: LoraFactors, down: LoraFactors, activation: Activation, pack: bool
    ) -> None:
        self.gate_up = JointLinear([gate, up], pack)
        self.down = JointLinear([down], pack)
        self.width = gate.weight.shape[0]
        self.activation = activation

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the MLP to x, [..., hidden]."""
        trained = (*self.gate_up.trained, *self.down.trained)
        out: torch.Tensor = _Gated.apply(x, self, *trained)  # type: ignore[no-untyped-call]
        return out


class _Gated(torch.autograd.Function):
    """A `GatedMlp`; keeps gate(x) and up(x), and computes what follows from them again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mlp: GatedMlp, *trained: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        gate_up, h = mlp.gate_up.forward(flat)
        gate, up = gate_up.split_with_sizes([mlp.width] * 2, 1)
        out, h_down = mlp.down.forward(mlp.activation.forward(gate).mul_(up))
        ctx.save_for_backward(flat, gate_up, h, h_down)
        ctx.mlp, ctx.shape = mlp, x.shape
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, gate_up, h, h_down = ctx.saved_tensors
        mlp: GatedMlp = ctx.mlp
        gate, up = gate_up.split_with_sizes([mlp.width] * 2, 1)
        active = mlp.activation.forward(gate)
        flat = grad.reshape(-1, grad.shape[-1])
        grad_inner, down_grads = mlp.down.backward(flat, active * up, h_down)
        assert grad_inner is not None
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.split_with_sizes([mlp.width] * 2, 1)
        torch.mul(grad_inner, active, out=grad_up)
        mlp.activation.backward(grad_inner.mul_(up), gate, grad_gate)
        grad_x, grads = mlp.gate_up.backward(grad_gate_up, x, h, want_x=ctx.needs_input_grad[0])
        return None if grad_x is None else grad_x.view(ctx.shape), None, *grads, *down_grads
