"""RMS norm with a frozen weight, forward and backward in a few passes over memory."""

from __future__ import annotations

from typing import Any

import torch


class _RmsNorm(torch.autograd.Function):
    """y = w * x / rms(x) over the last dimension, rms(x) = sqrt(mean(x^2) + eps), sums in float32.

    With n = x / rms(x) and g = w * grad: dx = (g - n * mean(g * n)) / rms(x) (Zhang and Sennrich 2019, arXiv
    1910.07467, section 4).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normed: torch.Tensor = x * scale
        if weight.dtype == x.dtype:  # as Llama's, which rounds before it multiplies
            return normed.to(x.dtype).mul_(weight)
        return normed.mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        weighted = grad * weight
        share = (weighted * x).sum(-1, keepdim=True, dtype=torch.float32)
        share.mul_(scale.pow(3)).div_(-x.shape[-1])
        grad_x = weighted.mul_(scale).addcmul_(x.to(weighted.dtype), share.to(weighted.dtype))
        return grad_x.to(x.dtype), None, None


def rms_norm(weight: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
    """Normalize x, [..., n], with a weight [n], of the same dtype or float32; the result has x's dtype."""
    out: torch.Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out
