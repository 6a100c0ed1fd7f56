"""Serving a LoRA: merging it into a model that shares every other tensor with the base model."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import torch

from pytest_dspy_ft.errors import LMError
from pytest_dspy_ft.local.adapters import CONFIG, WEIGHTS, check_adapter
from pytest_dspy_ft.local.inference.packed_linear import PackedLinear, dense_weight, replace_module
from pytest_dspy_ft.local.weights import return_memory

_KEY_PREFIX = "base_model.model."


def merged_model(base: Any, path: Path) -> Any:
    """Build a model whose target layers hold W + scale * B A and whose other tensors are the base model's own.

    Args:
        base: The model in memory, with ordinary or packed linear layers; not changed.
        path: The adapter's folder.

    Raises:
        LMError: The adapter does not fit the model.
    """
    from safetensors.torch import load_file

    check_adapter(path)
    config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    factors = load_file(path / WEIGHTS)
    model = _sharing_copy(base)
    targets = {key.rpartition(".lora_A.")[0] for key in factors if ".lora_A." in key}
    known = {f"{target}.lora_{side}.weight" for target in targets for side in "AB"}
    if not targets or known != set(factors):
        raise LMError(f"{path}: unexpected tensors {sorted(set(factors) ^ known)[:3]}")
    for target in sorted(targets):
        name = target.removeprefix(_KEY_PREFIX)
        try:
            layer = base.get_submodule(name)
            weight = dense_weight(layer)
        except (AttributeError, TypeError) as exc:
            raise LMError(f"{path}: its target {name!r} is no linear layer of this model") from exc
        down, up = (factors[f"{target}.lora_{side}.weight"].float() for side in "AB")
        rank = down.shape[0]
        scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
        if (up.shape[0], down.shape[1]) != tuple(weight.shape):
            raise LMError(f"{path}: {name} is {tuple(weight.shape)}, the adapter {(up.shape[0], down.shape[1])}")
        delta = (up.to(weight.device) @ down.to(weight.device)) * scale
        merged = (weight.float() + delta).to(weight.dtype)
        replace_module(model, name, _like(layer, merged))
    return_memory()
    return model


def _like(layer: Any, weight: torch.Tensor) -> torch.nn.Module:
    if isinstance(layer, PackedLinear):
        return PackedLinear(weight, layer.bias)
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    linear.bias = layer.bias
    return linear


def _sharing_copy(model: Any) -> Any:
    """Copy a model's modules but none of its tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        if isinstance(module, PackedLinear):
            tensors += [module.packed] if module.bias is None else [module.packed, module.bias]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
