"""LoRA layers that read the same input, as one: forward and backward written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from pytest_dspy_ft.local.compat import LoraFactors
from pytest_dspy_ft.local.training.frozen_weight import FrozenWeight


class Factors(NamedTuple):
    """The trainable factors of a `JointLinear` as its products take them, in the dtype of the frozen weights."""

    a: torch.Tensor  # [ranks, in]: the layers' A above each other
    b: torch.Tensor  # [out, ranks]: the layers' scale * B as diagonal blocks


class JointLinear:
    """Linear layers with one input x: out = x W^T + bias + (x A^T) B^T, their outputs side by side.

    W is frozen. A and B are trained in float32; they are brought into W's dtype once a forward pass.
    """

    def __init__(self, layers: Sequence[LoraFactors], pack: bool) -> None:
        """Join `layers`.

        Args:
            layers: All with inputs of one width.
            pack: Keep packed copies of the frozen weights (see `FrozenWeight`).
        """
        self.frozen = FrozenWeight([layer.weight for layer in layers], [layer.bias for layer in layers], pack)
        self.dtype = layers[0].weight.dtype
        self.scales = [layer.scale for layer in layers]
        self.trained = [factor for layer in layers for factor in (layer.a, layer.b)]
        """A and B of each layer in turn, float32: what an autograd function must be given."""

    def cast(self, trained: Sequence[torch.Tensor]) -> Factors:
        """Bring the layers' A and B into the shape and dtype of the products."""
        a_factors, b_factors = trained[::2], trained[1::2]
        ranks = [a.shape[0] for a in a_factors]
        a = a_factors[0].to(self.dtype) if len(ranks) == 1 else torch.cat(list(a_factors)).to(self.dtype)
        if len(ranks) == 1:
            return Factors(a, b_factors[0].mul(self.scales[0]).to(self.dtype))
        b = a.new_zeros(sum(self.frozen.sizes), sum(ranks))
        row = column = 0
        for factor, scale in zip(b_factors, self.scales, strict=True):
            rows, rank = factor.shape
            b[row : row + rows, column : column + rank] = factor * scale
            row, column = row + rows, column + rank
        return Factors(a, b)

    def forward(self, x: torch.Tensor, factors: Factors) -> tuple[torch.Tensor, torch.Tensor]:
        """Return out, [N, sum of out_i], and h = x A^T, [N, ranks], which the backward pass needs."""
        h = x @ factors.a.t()
        return self.frozen.forward(x).addmm_(h, factors.b.t()), h

    def backward(
        self, grad: torch.Tensor, x: torch.Tensor, h: torch.Tensor, factors: Factors, want_x: bool = True
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Return the gradients with regard to x, and to A and B of each layer in turn (float32)."""
        grad_h = grad @ factors.b
        grad_x = self.frozen.transposed(grad).addmm_(grad_h, factors.a) if want_x else None
        grad_a = (grad_h.t() @ x).float()
        grads: list[torch.Tensor] = []
        row = column = 0
        whole = grad.t() @ h if len(self.scales) == 1 else (h.t() @ grad).t()
        for size, scale, factor in zip(self.frozen.sizes, self.scales, self.trained[::2], strict=True):
            rank = factor.shape[0]
            block = whole[row : row + size, column : column + rank]
            grads += [grad_a[column : column + rank], block.float() * scale]
            row, column = row + size, column + rank
        return grad_x, grads


class _Joint(torch.autograd.Function):
    """A `JointLinear` of x, [..., in]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, joint: JointLinear, *trained: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        factors = joint.cast(trained)
        out, h = joint.forward(flat, factors)
        ctx.save_for_backward(flat, h, *factors)
        ctx.joint, ctx.shape = joint, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, h, a, b = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        grad_x, grads = ctx.joint.backward(flat, x, h, Factors(a, b), want_x=ctx.needs_input_grad[0])
        return None if grad_x is None else grad_x.view(ctx.shape), None, *grads


def joint_linear(joint: JointLinear, x: torch.Tensor) -> torch.Tensor:
    """Apply `joint` to x, [..., in]; returns [..., sum of the layers' outputs]."""
    out: torch.Tensor = _Joint.apply(x, joint, *joint.trained)  # type: ignore[no-untyped-call]
    return out
