"""A Llama-type model's forward pass in few operations: projections joined, products that end in what follows them.

Query, key and value come of one product; SiLU, the gate and both residual sums happen in the products that they follow,
before those are rounded; rotary positions are complex factors. Llama, Mistral, Qwen2 and Qwen3 are of this type. It is
for the CPU, where the weights are packed (`packed_linear.py`), and its results are held against the model's own before
it is used (`runner.choose_runner`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_dspy_ft.local.compat import packed_linear, packed_linear_onto
from pytest_dspy_ft.local.inference.packed_linear import (
    JointPart,
    PackedLinear,
    dense_weight,
    least_rows,
    replace_module,
)

MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_ROTARY_TYPES = frozenset({"default", "linear", "llama3", "yarn"})  # others change with the length of the text
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")

Attend = Callable[[int, torch.Tensor], torch.Tensor]
"""Layer and its (N, heads + 2 kv_heads, head_dim) queries, keys and values to (N, heads * head_dim) outputs."""


def is_fusable(model: Any) -> bool:
    """Tell whether a model looks like one that `FusedModel` can run; only its results show whether it is."""
    config = model.config
    rotary = getattr(config, "rope_parameters", None) or {}
    if config.model_type not in MODEL_TYPES or config.hidden_act != "silu":
        return False
    if rotary.get("rope_type", "default") not in _ROTARY_TYPES:
        return False
    names = [f"self_attn.{name}" for name in (*_PROJECTIONS, "o_proj")]
    names += [f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")]
    linears = [layer.get_submodule(name) for layer in model.model.layers for name in names]
    return all(type(linear) is nn.Linear for linear in (*linears, model.lm_head))


def join_projections(model: Any) -> None:
    """Put the query, key and value projections of every layer into one packed layer each, where they are not in one."""
    for layer in model.model.layers:
        attention = layer.self_attn
        parts = [getattr(attention, name) for name in _PROJECTIONS]
        if all(isinstance(part, JointPart) for part in parts) and len({id(part.joint) for part in parts}) == 1:
            continue
        size = attention.head_dim
        weights = [_interleaved(dense_weight(part), size) for part in parts[:2]] + [dense_weight(parts[2])]
        biases = [part.bias for part in parts]
        bias = None
        if all(part is not None for part in biases):
            bias = torch.cat([*(_interleaved(part, size) for part in biases[:2]), biases[2]])
        joint, first = PackedLinear(torch.cat(weights), bias), 0
        for name, weight in zip(_PROJECTIONS, weights, strict=True):
            rows = torch.arange(len(weight))
            # Where the rows of the layer's own order are now.
            rows = rows if name == "v_proj" else _separated(rows, size)
            setattr(attention, name, JointPart(joint, rows + first))
            first += len(weight)


def part_projections(model: Any) -> None:
    """Undo `join_projections`: every projection is a packed layer of its own again."""
    for name, module in list(model.named_modules()):
        if isinstance(module, JointPart):
            replace_module(model, name, PackedLinear(module.dense_weight(), module.bias))


def _interleaved(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Bring the two halves of every head, which rotate together, side by side: the order that complex numbers have."""
    return tensor.reshape(-1, 2, size // 2, *tensor.shape[1:]).transpose(1, 2).flatten(0, 2)


def _separated(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Undo `_interleaved`."""
    return tensor.reshape(-1, size // 2, 2, *tensor.shape[1:]).transpose(1, 2).flatten(0, 2)


@dataclass(frozen=True)
class FusedLayer:
    """What a decoder layer multiplies with; every norm is a root mean square's weight, (features,).

    Attributes:
        before_attention: Norm.
        joint: To queries, keys and values.
        query_norm: Of a head, in the interleaved order, or None.
        key_norm: The same for keys.
        output: Of attention.
        before_mlp: Norm.
        gate: Through SiLU, a factor on `up`.
        up: To the wide features.
        down: Back from them.
    """

    before_attention: torch.Tensor
    joint: PackedLinear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: PackedLinear
    before_mlp: torch.Tensor
    gate: PackedLinear
    up: PackedLinear
    down: PackedLinear


class FusedModel:
    """Runs tokens of any rows through a model; where they belong is the matter of the `attend` that it is given.

    Attributes:
        model: The model, its projections joined and all its linear layers packed.
        heads: Query heads; kv_heads: key/value heads; head_dim: their size.
        scaling: Factor on attention scores.
        least: The fewest tokens of a pass whose products do not depend on how many there are.
    """

    def __init__(self, model: Any) -> None:
        """Join a model's projections, changing it."""
        join_projections(model)
        self.model = model
        first = model.model.layers[0].self_attn
        self.head_dim: int = first.head_dim
        self.heads: int = model.config.num_attention_heads
        self.kv_heads: int = model.config.num_key_value_heads
        self.scaling: float = first.scaling
        self._eps: float = model.config.rms_norm_eps
        self._embedding: torch.Tensor = model.model.embed_tokens.weight
        self._norm: torch.Tensor = model.model.norm.weight
        self._head: PackedLinear = model.lm_head
        self._layers = [self._layer(layer) for layer in model.model.layers]
        one = self._layers[0]
        products = (one.joint, one.output, one.gate, one.up, one.down, self._head)
        self.least = max(least_rows(product.packed) for product in products)
        self._factors = torch.empty(0, 1, self.head_dim // 2, dtype=torch.complex64)

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self._layers)

    def _layer(self, layer: Any) -> FusedLayer:
        attention, mlp = layer.self_attn, layer.mlp
        norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        query_norm, key_norm = (None if norm is None else _interleaved(norm.weight, self.head_dim) for norm in norms)
        return FusedLayer(
            before_attention=layer.input_layernorm.weight,
            joint=attention.q_proj.joint,
            query_norm=query_norm,
            key_norm=key_norm,
            output=attention.o_proj,
            before_mlp=layer.post_attention_layernorm.weight,
            gate=mlp.gate_proj,
            up=mlp.up_proj,
            down=mlp.down_proj,
        )

    def hidden(self, tokens: Sequence[int], positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Run N tokens, at least `least`, at (N,) positions; return what the last layer gives, (N, hidden)."""
        x = self._embedding[torch.tensor(tokens)]
        factors = self._rotations(positions)
        features = self._embedding.shape[1:]
        for index, layer in enumerate(self._layers):
            normed = nn.functional.rms_norm(x, features, layer.before_attention, self._eps)
            joint = packed_linear(normed, layer.joint.packed, layer.joint.bias)
            attended = attend(index, self._positioned(joint.view(len(joint), -1, self.head_dim), layer, factors))
            x = packed_linear_onto(attended, x, layer.output.packed, layer.output.bias, "add")
            normed = nn.functional.rms_norm(x, features, layer.before_mlp, self._eps)
            gate = packed_linear(normed, layer.gate.packed, layer.gate.bias, "swish")
            wide = packed_linear_onto(normed, gate, layer.up.packed, layer.up.bias, "mul")
            x = packed_linear_onto(wide, x, layer.down.packed, layer.down.bias, "add")
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """What follows rows of (N, hidden): (N, vocabulary)."""
        count = len(hidden)
        if count < self.least:
            hidden = torch.cat([hidden, hidden.new_zeros(self.least - count, hidden.shape[1])])
        normed = nn.functional.rms_norm(hidden, hidden.shape[1:], self._norm, self._eps)
        return packed_linear(normed, self._head.packed, self._head.bias)[:count]

    def _positioned(self, joint: torch.Tensor, layer: FusedLayer, factors: torch.Tensor) -> torch.Tensor:
        """Norm and rotate the queries and keys of (N, heads + 2 kv_heads, head_dim), in place."""
        for part, norm in (
            (joint[:, : self.heads], layer.query_norm),
            (joint[:, self.heads : -self.kv_heads], layer.key_norm),
        ):
            if norm is not None:
                part.copy_(nn.functional.rms_norm(part, norm.shape, norm, self._eps))
        turning = joint[:, : -self.kv_heads]
        pairs = turning.float().view(*turning.shape[:2], -1, 2)
        turning.copy_(torch.view_as_real(torch.view_as_complex(pairs) * factors).flatten(2))
        return joint

    def _rotations(self, positions: torch.Tensor) -> torch.Tensor:
        """The complex factors at (N,) positions, (N, 1, head_dim / 2); a table of them grows as it is needed."""
        needed = int(positions.max()) + 1
        if needed > len(self._factors):
            places = torch.arange(max(needed, 2 * len(self._factors), 512))[None]
            cos, sin = self.model.model.rotary_emb(torch.empty(0), places)
            halves = (part[0, :, None, : self.head_dim // 2].float() for part in (cos, sin))
            self._factors = torch.complex(*halves)
        return self._factors[positions]
