"""What came back, held against what was ordered: who trained it, on what, and whether it is a LoRA to serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_dspy_ft.errors import LMError, TrainingError
from pytest_dspy_ft.local.adapters import CONFIG, WEIGHTS, check_adapter
from pytest_dspy_ft.local.handover.order_files import ADAPTER, ORDER
from pytest_dspy_ft.local.weights import ModelSource, model_place


def read_result(folder: Path) -> dict[str, Any] | None:
    """What the run says of itself when it is done; None before."""
    try:
        result = json.loads((folder / "output" / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def check_received(folder: Path, source: ModelSource, digest: str, *, by_trl: bool = True) -> dict[str, Any]:
    """Check what came back for an order.

    Args:
        folder: The order's; the result lies in its ``output``.
        source: The base model.
        digest: The order's.
        by_trl: Our script trained it; another engine says nothing of its run that could be checked.

    Returns:
        What the run says of itself; nothing from another engine.

    Raises:
        TrainingError: It is not what was ordered, in words.
    """
    order = json.loads((folder / ORDER).read_text("utf-8"))
    result = read_result(folder)
    if result is None and by_trl:
        raise TrainingError(f"no result came back: {folder / 'output' / 'result.json'} is missing or cut short")
    result = result or {}
    if by_trl and result.get("order") != digest:
        raise TrainingError(f"what came back is the result of another order ({result.get('order')!r}, not {digest!r})")
    if by_trl:
        check_run(order, result)
    check_weights(folder / "output" / ADAPTER, order, source, folder)
    return result


def check_run(order: dict[str, Any], result: dict[str, Any]) -> None:
    """Check that as many processes as ordered trained together, on all rows of all steps.

    Raises:
        TrainingError: If not; a launcher may start one process without a word where several were asked for.
    """
    ranks = result["ranks"]
    wanted = order["processes"] or len(ranks)
    distinct = len({rank["process"] for rank in ranks})
    if distinct != wanted or any(rank["world"] != wanted for rank in ranks):
        ran = "one process" if distinct == 1 else f"{distinct} processes"
        raise TrainingError(f"{wanted} processes were ordered, and {ran} ran")
    steps, start = result["steps"], result["resumed_at"]
    planned = len(order["batches"])
    early = order["config"]["early_stopping"] is not None and steps in order["epoch_ends"]
    if steps != planned and not early:
        raise TrainingError(f"{steps} steps were done of the {planned} that were ordered")
    rows = sum(len(batch) for batch in order["batches"][start:steps])
    if (seen := sum(rank["rows"] for rank in ranks)) != rows:
        raise TrainingError(
            f"the processes trained on {seen} rows in all, and the steps hold {rows}: they did not share them"
        )


def check_weights(adapter: Path, order: dict[str, Any], source: ModelSource, folder: Path) -> None:
    """Check that a folder holds a LoRA of the base model and the rank that were ordered, all of it, in numbers.

    Raises:
        TrainingError: If not; it says what is wrong with it.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        check_adapter(adapter)
        settings = json.loads((adapter / CONFIG).read_text("utf-8"))
        weights = load_file(adapter / WEIGHTS)
    except (LMError, OSError, ValueError, SafetensorError) as error:
        raise TrainingError(f"what came back is no LoRA to serve: {error}") from None
    base = str(settings.get("base_model_name_or_path"))
    if base not in (order["base"], order["model"]):
        raise TrainingError(f"what came back was trained on the base model {base!r}, not on {order['base']!r}")
    rank = order["config"]["r"]
    if (folder / ADAPTER).is_dir():  # one that goes on keeps the rank it had
        rank = json.loads((folder / ADAPTER / CONFIG).read_text("utf-8"))["r"]
    if settings.get("r") != rank:
        raise TrainingError(f"what came back has the rank {settings.get('r')}, and {rank} was ordered")
    expected = _expected_shapes(settings, source)
    missing = sorted(set(expected) - set(weights))
    foreign = sorted(set(weights) - set(expected))
    if missing or foreign:
        both = ((missing, "are missing"), (foreign, "are of no layer of it"))
        words = [f"{len(names)} weights {what} ({', '.join(names[:2])})" for names, what in both if names]
        raise TrainingError(f"what came back is not a whole LoRA of {order['base']!r}: {' and '.join(words)}")
    for name, tensor in weights.items():
        if tuple(tensor.shape) != expected[name]:
            raise TrainingError(
                f"what came back is of another base model than {order['base']!r}: {name} has the shape "
                f"{tuple(tensor.shape)}, and {expected[name]} fits"
            )
    numbers = {name: tensor.float().numpy() for name, tensor in weights.items()}
    if broken := sorted(name for name, values in numbers.items() if not np.isfinite(values).all()):
        raise TrainingError(f"what came back holds numbers that are none (NaN or infinite), first in {broken[0]}")
    if not any(values.any() for name, values in numbers.items() if "lora_B" in name):
        raise TrainingError("what came back changes nothing: all its lora_B weights are 0, as before a training")


def _expected_shapes(settings: dict[str, Any], source: ModelSource) -> dict[str, tuple[int, ...]]:
    """Name and shape of each weight that a LoRA with these settings has on the base model; no memory is taken."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    from pytest_dspy_ft.local.compat import quiet_peft

    targets = settings["target_modules"]
    config = LoraConfig(r=settings["r"], target_modules=targets, task_type="CAUSAL_LM")
    with torch.device("meta"), quiet_peft():
        models: Any = AutoModelForCausalLM
        base = models.from_config(AutoConfig.from_pretrained(model_place(source)))
        try:
            wrapped: Any = get_peft_model(base, config)
        except ValueError:
            raise TrainingError(f"what came back is for layers {targets!r}, which {source.name!r} has not") from None
    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
