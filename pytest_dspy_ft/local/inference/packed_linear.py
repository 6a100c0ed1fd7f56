"""Linear layers whose weight is kept in oneDNN's blocked layout, alone or several in one, for inference on the CPU.

Two reasons, both measured on 2 AVX2 cores (`benchmarks/engine_throughput.py` prints the end-to-end effect). It is
faster than `torch.nn.functional.linear` in float32 at the batch sizes of decoding. And a row's result does not depend
on how many other rows are in the matrix, bit for bit, which MKL's does below 8 rows. For very few rows oneDNN's may
too: there it splits long sums among threads. How many rows are enough is tried out, and fewer are filled up.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from pytest_dspy_ft.local.compat import pack_weight, packed_linear


class PackedLinear(nn.Module):
    """`y = x W^T + b` with W prepacked. Holds no dense copy of W; `dense_weight` recovers it exactly."""

    packed: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Pack a dense weight.

        Args:
            weight: (out_features, in_features), on the CPU; not kept.
            bias: (out_features,) or None.
        """
        super().__init__()
        # Plain attributes, not buffers: opaque tensors have no storage that Module.to or state_dict could handle.
        self.packed = pack_weight(weight)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply: (..., in_features) to (..., out_features)."""
        rows = x.shape[:-1].numel()
        if rows >= _MOST_ROWS or rows >= (least := least_rows(self.packed)):
            return packed_linear(x, self.packed, self.bias)
        filled = torch.cat([x.reshape(rows, -1), x.new_zeros(least - rows, x.shape[-1])])
        return packed_linear(filled, self.packed, self.bias)[:rows].reshape(*x.shape[:-1], -1)

    def dense_weight(self) -> torch.Tensor:
        """Return W as an ordinary (out_features, in_features) tensor; packing only permutes, so it is exact."""
        return self.packed.to_dense()


class JointPart(nn.Module):
    """Some rows of a `PackedLinear` that several layers share, in the place of one of them.

    Whoever knows of the joint layer multiplies by it once. This one's own product computes all rows and drops the rest.
    """

    def __init__(self, joint: PackedLinear, rows: torch.Tensor) -> None:
        """Stand for `rows`, (out_features,) indices, of `joint`."""
        super().__init__()
        self.joint = joint
        self.rows = rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply: (..., in_features) to (..., out_features)."""
        product: torch.Tensor = self.joint(x)[..., self.rows]
        return product

    @property
    def bias(self) -> torch.Tensor | None:
        """(out_features,) or None."""
        return None if self.joint.bias is None else self.joint.bias[self.rows]

    def dense_weight(self) -> torch.Tensor:
        """Return W as an ordinary (out_features, in_features) tensor."""
        return self.joint.dense_weight()[self.rows]


_MOST_ROWS = 16
"""From here on, oneDNN has enough rows to share out, and leaves their sums whole."""


_least_rows: dict[tuple[torch.Size, torch.dtype, int], int] = {}


def least_rows(packed: torch.Tensor) -> int:
    """The fewest rows from which a row's product no longer depends on how many there are, tried out on this machine.

    It is the same for all weights of one shape and dtype, as long as as many threads multiply.

    Args:
        packed: What `pack_weight` returned.
    """
    kind = (packed.shape, packed.dtype, torch.get_num_threads())
    if kind not in _least_rows:
        _least_rows[kind] = _try_out(*kind[:2])
    return _least_rows[kind]


def _try_out(shape: torch.Size, dtype: torch.dtype) -> int:
    """Multiply numbers whose sums cancel out: all that is left is rounding, which another order of adding changes."""
    outputs, inputs = shape
    made = torch.Generator().manual_seed(0)
    half = torch.randn(_MOST_ROWS, inputs // 2, generator=made)
    weight = torch.randn(64, inputs // 2, generator=made).repeat(-(-outputs // 64), 1)[:outputs].to(dtype)
    packed = pack_weight(torch.cat([weight, weight, weight[:, : inputs % 2]], -1))
    rows = torch.cat([half, -half, torch.zeros(_MOST_ROWS, inputs % 2)], -1).to(dtype)
    together = packed_linear(rows, packed, None)
    alike = (torch.equal(packed_linear(rows[-n:], packed, None), together[-n:]) for n in range(1, _MOST_ROWS))
    return max((n + 1 for n, same in enumerate(alike, 1) if not same), default=1)


def pack_linears(model: nn.Module) -> None:
    """Replace every `nn.Linear` of a model by a `PackedLinear`, one at a time, and free the dense weights."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            replace_module(model, name, PackedLinear(module.weight, module.bias))
    # What is left may be a view of the mapped weights file, which would keep all of its pages in memory.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` in the place of the submodule with this dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def dense_weight(module: Any) -> torch.Tensor:
    """Return the dense weight of an `nn.Linear`, `PackedLinear` or `JointPart`, (out_features, in_features).

    Raises:
        TypeError: It is none of them.
    """
    if isinstance(module, (PackedLinear, JointPart)):
        return module.dense_weight()
    if isinstance(module, nn.Linear):
        return module.weight.detach()
    raise TypeError(f"not a linear layer: {type(module).__name__}")


def linear_like(layer: Any, weight: torch.Tensor) -> nn.Module:
    """Return a linear layer with the same bias but another weight: packed if it was, an ordinary one for a part."""
    if isinstance(layer, PackedLinear):
        return PackedLinear(weight, layer.bias)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = layer.bias
    return linear


def sharing_copy(model: Any) -> Any:
    """Copy a model's modules but none of its tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        if isinstance(module, PackedLinear):
            tensors += [module.packed] if module.bias is None else [module.packed, module.bias]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
