"""LoRA folders as peft writes them: checking and hashing one, and merging it into a model.

Importing this module is cheap: a session that only loads results never needs torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from pytest_dspy_ft.errors import LMError
from pytest_dspy_ft.local.weights import return_memory

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_KEY_PREFIX = "base_model.model."


class AddedAdapter(NamedTuple):
    """A LoRA folder that an engine was told to serve; `version` differs when a name is added again."""

    folder: Path
    version: int


def check_adapter(path: Path) -> None:
    """Check that a folder holds a LoRA that can be merged, without importing torch.

    Raises:
        LMError: A file is missing, or the adapter is of a kind that is not supported.
    """
    missing = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
    if missing:
        raise LMError(
            f"{path} is no LoRA adapter: {' and '.join(missing)} missing (peft's save_pretrained writes them)"
        )
    config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    unsupported = [
        f"{name}={config[name]!r}"
        for name in ("use_dora", "fan_in_fan_out", "alpha_pattern", "modules_to_save", "lora_bias")
        if config.get(name)
    ]
    if config.get("peft_type") != "LORA":
        unsupported.append(f"peft_type={config.get('peft_type')!r}")
    if config.get("bias", "none") != "none":
        unsupported.append(f"bias={config['bias']!r}")
    if unsupported:
        raise LMError(f"{path}: only plain LoRA adapters can be served, not {', '.join(unsupported)}")


def adapter_digest(folder: Path) -> str:
    """The first 12 hex digits of the SHA-256 over the adapter's files (names and contents)."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        content = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def merged_model(base: Any, path: Path) -> Any:
    """Build a model whose target layers hold W + scale * B A and whose other tensors are the base model's own.

    Args:
        base: The model in memory, with ordinary or packed linear layers; not changed.
        path: The adapter's folder.

    Raises:
        LMError: The adapter does not fit the model.
    """
    from safetensors.torch import load_file

    from pytest_dspy_ft.local.inference.packed_linear import dense_weight, linear_like, replace_module, sharing_copy

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
