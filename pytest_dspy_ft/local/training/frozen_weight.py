"""Frozen weights of layers that read the same input, multiplied as one product, forward and transposed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pytest_dspy_ft.local.compat import can_pack, pack_weight, packed_linear

MOST_PACKED = 2**29
"""So many weights of a model are packed at most (1 GiB in bfloat16): each is then there three times."""


class FrozenWeight:
    """One matrix W, [out, in], or several of one input above each other; none of them is trained.

    In bfloat16 on the CPU both W and its transpose are kept in oneDNN's blocked layout, which multiplies up to half as
    fast again as the plain one does (`benchmarks/training_throughput.py` prints what is left to gain).
    """

    def __init__(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None], pack: bool) -> None:
        """Keep the weights, or pack them.

        Args:
            weights: [out_i, in] each, all of one dtype and device.
            biases: [out_i] each, or None.
            pack: False leaves them as they are, and takes no memory.
        """
        self.sizes = [weight.shape[0] for weight in weights]
        self.inputs = weights[0].shape[1]
        self.bias: torch.Tensor | None = None
        if any(bias is not None for bias in biases):
            self.bias = torch.cat(
                [weights[0].new_zeros(n) if b is None else b for n, b in zip(self.sizes, biases, strict=True)]
            )
        self.weights = [weight.detach() for weight in weights]
        self.packed: tuple[torch.Tensor, torch.Tensor] | None = None
        if pack:
            whole = torch.cat(self.weights)
            self.packed = pack_weight(whole), pack_weight(whole.t())
            self.weights = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x W^T + bias, [N, out], for x [N, in]."""
        if self.packed is not None:
            return packed_linear(x, self.packed[0], self.bias)
        if len(self.weights) == 1:
            return torch.nn.functional.linear(x, self.weights[0], self.bias)
        out = x.new_empty(x.shape[0], sum(self.sizes))
        for part, weight in zip(out.split_with_sizes(self.sizes, 1), self.weights, strict=True):
            part.copy_(x @ weight.t())
        return out if self.bias is None else out.add_(self.bias)

    def transposed(self, grad: torch.Tensor) -> torch.Tensor:
        """Return grad W, [N, in], for grad [N, out]: the gradient with regard to x."""
        if self.packed is not None:
            return packed_linear(grad, self.packed[1], None)
        parts = grad.split_with_sizes(self.sizes, 1)
        out = parts[0] @ self.weights[0]
        for part, weight in zip(parts[1:], self.weights[1:], strict=True):
            out.addmm_(part, weight)
        return out


def multiplies_packed(weight: torch.Tensor) -> bool:
    """Tell whether a weight is one that oneDNN multiplies faster packed: bfloat16, on a CPU that has it."""
    return weight.dtype == torch.bfloat16 and can_pack(weight.device.type, weight.dtype)
