"""A model with a trainable LoRA over frozen weights."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.local.adapters import CONFIG
from pytest_dspy_ft.local.training.config import LoraTrainingConfig


def private_copy(model: PreTrainedModel) -> PreTrainedModel:
    """New modules over the same, frozen weight tensors: whatever is done to the copy, `model` stays as it is."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    memo.update((id(b), b) for b in model.buffers())
    return copy.deepcopy(model, memo)


def add_lora(
    model: PreTrainedModel, source_name: str, config: LoraTrainingConfig, init_adapter: Path | None, seed: int
) -> Any:
    """Wrap `model` in a trainable LoRA, new or read from the folder `init_adapter`.

    Raises:
        TrainingError: The folder holds no LoRA, or the config's target modules do not fit the model.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    model.name_or_path = source_name  # or peft notes down this machine's path
    if init_adapter is not None:
        if not (Path(init_adapter) / CONFIG).is_file():
            raise TrainingError(f"{init_adapter} holds no LoRA to continue from (no {CONFIG})")
        return PeftModel.from_pretrained(model, str(init_adapter), is_trainable=True)
    targets = config.target_modules
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=source_name,
    )
    try:
        wrapped = get_peft_model(model, lora)
    except ValueError as error:
        raise TrainingError(f"target_modules={targets!r} does not fit {source_name}: {error}") from error
    # Drawn anew from a generator of our own: another thread may sample from the global one meanwhile.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_A" in name:
                fresh = torch.empty(parameter.shape)
                nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
                parameter.copy_(fresh)
    return wrapped
