"""A LoRA merged into a model: its layers hold one weight again, and answer as fast as the base model's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from pytest_dspy_ft.errors import LMError
from pytest_dspy_ft.local.adapters import CONFIG, WEIGHTS, check_adapter
from pytest_dspy_ft.local.inference.packed_linear import dense_weight, linear_like, replace_module, sharing_copy
from pytest_dspy_ft.local.process_memory import return_memory

_KEY_PREFIX = "base_model.model."


def merged_model(base: Any, path: Path) -> Any:
    """Build a model whose target layers hold W + scale * B A and whose other tensors are the base model's own.

    Args:
        base: The model in memory, with ordinary or packed linear layers; not changed.
        path: The adapter's folder.

    Raises:
        LMError: The adapter does not fit the model.
    """
    check_adapter(path)
    config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    factors = load_file(path / WEIGHTS)
    model = sharing_copy(base)
    targets = {key.rpartition(".lora_A.")[0] for key in factors if ".lora_A." in key}
    expected = {f"{target}.lora_{side}.weight" for target in targets for side in "AB"}
    if not targets or expected != set(factors):
        raise LMError(f"{path}: unexpected tensors {sorted(set(factors) ^ expected)[:3]}")
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
        replace_module(model, name, linear_like(layer, merged))
    return_memory()
    return model
