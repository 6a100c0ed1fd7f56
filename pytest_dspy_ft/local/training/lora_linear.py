"""LoRA layers that read the same input, as one: forward and backward written out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from pytest_dspy_ft.local.compat import LoraFactors, copy_each
from pytest_dspy_ft.local.training.frozen_weight import FrozenWeight


class JointLinear:
    """Linear layers with one input x, their outputs side by side: out_i = x W_i^T + bias_i + scale_i (x A_i^T) B_i^T.

    W is frozen. A and B are trained in float32; the products take copies in W's dtype, which `refresh` brings up to
    date once a step.

    Attributes:
        trained: A and B of each layer in turn: what an autograd function must be given.
        a: Copies of all A above each other, [ranks, in].
        b: A copy of each B, [out_i, rank_i].
    """

    def __init__(self, layers: Sequence[LoraFactors], pack: bool) -> None:
        """Join `layers`.

        Args:
            layers: All with inputs of one width.
            pack: Keep packed copies of the frozen weights (see `FrozenWeight`).
        """
        self.frozen = FrozenWeight([layer.weight for layer in layers], [layer.bias for layer in layers], pack)
        self.ranks = [layer.a.shape[0] for layer in layers]
        self.scales = [layer.scale for layer in layers]
        self.trained = [factor for layer in layers for factor in (layer.a, layer.b)]
        dtype = layers[0].weight.dtype
        self.a = torch.cat([layer.a.detach() for layer in layers]).to(dtype)
        self.b = [layer.b.detach().to(dtype, copy=True) for layer in layers]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return out, [N, sum of out_i], and the scaled x A^T, [N, ranks], which the backward pass needs."""
        h = x @ self.a.t()
        out = self.frozen.forward(x)
        if len(self.b) == 1:
            return out.addmm_(h.mul_(self.scales[0]), self.b[0].t()), h
        for part, low, scale, b in zip(
            self._parts(out), h.split_with_sizes(self.ranks, 1), self.scales, self.b, strict=True
        ):
            part.addmm_(low.mul_(scale), b.t())
        return out, h

    def backward(
        self, grad: torch.Tensor, x: torch.Tensor, h: torch.Tensor, want_x: bool = True
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Return the gradients with regard to x, and to A and B of each layer in turn."""
        grad_h = torch.empty_like(h)
        grads_b = []
        pieces = (
            self._parts(grad),
            h.split_with_sizes(self.ranks, 1),
            grad_h.split_with_sizes(self.ranks, 1),
            self.scales,
            self.b,
        )
        for part, low, grad_low, scale, b in zip(*pieces, strict=True):
            grads_b.append(part.t() @ low)
            torch.mm(part, b, out=grad_low) if len(self.b) == 1 else grad_low.copy_(part @ b)
            grad_low.mul_(scale)
        grad_x = self.frozen.transposed(grad).addmm_(grad_h, self.a) if want_x else None
        grads_a = (grad_h.t() @ x).split_with_sizes(self.ranks)
        return grad_x, [one for pair in zip(grads_a, grads_b, strict=True) for one in pair]

    def _parts(self, out: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return out.split_with_sizes(self.frozen.sizes, 1)


@torch.no_grad()
def refresh(joints: Iterable[JointLinear]) -> None:
    """Bring the copies of A and B up to date with what is trained."""
    copies: list[torch.Tensor] = []
    trained: list[torch.Tensor] = []
    for joint in joints:
        for a, b in zip(joint.a.split_with_sizes(joint.ranks), joint.b, strict=True):
            copies += [a, b]
        trained += joint.trained
    if copies:
        copy_each(copies, trained)


class _Joint(torch.autograd.Function):
    """A `JointLinear` of x, [..., in]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, joint: JointLinear, *trained: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out, h = joint.forward(flat)
        ctx.save_for_backward(flat, h)
        ctx.joint, ctx.shape = joint, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, h = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        grad_x, grads = ctx.joint.backward(flat, x, h, want_x=ctx.needs_input_grad[0])
        return None if grad_x is None else grad_x.view(ctx.shape), None, *grads


def joint_linear(joint: JointLinear, x: torch.Tensor) -> torch.Tensor:
    """Apply `joint` to x, [..., in]; returns [..., sum of the layers' outputs]."""
    out: torch.Tensor = _Joint.apply(x, joint, *joint.trained)  # type: ignore[no-untyped-call]
    return out
