"""A model of this machine as a Hugging Face folder, with a LoRA merged into its weights: for servers without LoRA."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

from pytest_dspy_ft.errors import ExportError
from pytest_dspy_ft.local import weights
from pytest_dspy_ft.local.weights import check_available, resolve_source


def write_merged(base: str, adapter: Path | None, target: Path, *, dtype: str, expected: str = "") -> None:
    """Write a model as ``transformers`` and its servers read it: config, tokenizer, chat template, safetensors.

    Args:
        base: The base model's name, as after ``local:``.
        adapter: A LoRA folder; None for the base model alone.
        target: The folder to write: a new or an empty one.
        dtype: Of the weights written; they are merged in float32.
        expected: The digest that the base model's weights must have; empty where any will do.

    Raises:
        ExportError: If the target holds something, or the base model is another one.
        LMError: If the base model is unknown or cannot be loaded, or the LoRA does not fit it.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target} holds something already: choose an empty or a new folder")
    source = resolve_source(base)
    check_available(source)
    if expected and source.fingerprint() != expected:
        raise ExportError(f"the weights of {base!r} here are {source.fingerprint()}; the LoRA is of {expected}")
    from pytest_dspy_ft.local.compat import quiet_loading

    model, tokenizer = _merged(source, adapter, dtype)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        with quiet_loading():
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
        for file in fresh.glob("*.safetensors"):  # written for the owner alone, whatever the others are
            file.chmod((fresh / "config.json").stat().st_mode)
        if target.is_dir():
            target.rmdir()
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _merged(source: weights.ModelSource, adapter: Path | None, dtype: str) -> tuple[Any, Any]:
    import torch

    from pytest_dspy_ft.local.inference.merging import merged_model

    loaded = weights.load_private(source, device="cpu", dtype="float32")
    model = loaded.model
    if adapter is not None:
        tied = _are_tied(model)
        model = merged_model(model, adapter)
        if tied and not _are_tied(model):  # a LoRA on the output layer parts it from the embeddings
            model.config.tie_word_embeddings = False
    model = model.to(getattr(torch, dtype))
    model.config.dtype = dtype
    model.config._name_or_path = loaded.name
    return model, loaded.tokenizer


def _are_tied(model: Any) -> bool:
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight
