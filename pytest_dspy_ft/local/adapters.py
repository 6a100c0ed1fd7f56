"""LoRA folders as peft writes them: checking and hashing one.

Importing this module is cheap: a session that only loads results never needs torch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from pytest_dspy_ft.errors import LMError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_LONGEST_HEADER = 100_000_000


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


def changes_nothing(folder: Path) -> bool:
    """True for a LoRA whose ``B`` matrices are all zero, as before its first step: the model answers as without it."""
    with (folder / WEIGHTS).open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _LONGEST_HEADER:  # no safetensors
            return False
        header = json.loads(stream.read(length))
        start = stream.tell()
        for name, tensor in header.items():
            if "lora_B" in name or "lora_embedding_B" in name:
                first, end = tensor["data_offsets"]
                stream.seek(start + first)
                if any(stream.read(end - first)):
                    return False
    return True


def adapter_digest(folder: Path) -> str:
    """The first 12 hex digits of the SHA-256 over the adapter's files (names and contents)."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        content = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]
