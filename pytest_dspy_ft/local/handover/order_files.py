"""A training written down as files that `train_with_trl.py` carries out: the rows in tokens, the steps, the settings.

Rows are put into tokens here, with the prompt that inference makes, and the steps are planned here, as for a training
in this process: so they do not depend on who trains, on chat templates elsewhere or on the number of processes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.local.training.config import LoraTrainingConfig
from pytest_dspy_ft.local.weights import ModelSource, default_device, default_dtype, model_place

ORDER, ROWS, SCRIPT, ADAPTER = "order.json", "rows.json", "train_with_trl.py", "adapter"
CHECKPOINTS = 10
"""About so many in a training."""


@dataclasses.dataclass(frozen=True)
class TrlTraining:
    """What TRL is to train."""

    source: ModelSource
    rows: Sequence[Any]
    """Of ``{"messages": [...]}``."""
    config: LoraTrainingConfig
    seed: int
    init_adapter: Path | None
    """A LoRA folder to go on from; None for a new one."""
    digest: str
    """What the order is known by: it comes back with the result."""


def write_order(folder: Path, training: TrlTraining, processes: int | None, *, here: bool) -> None:
    """Write the files of an order; the order itself last.

    Args:
        folder: Where to; what lies there of the same training is replaced.
        training: What to train.
        processes: How many are to train; None: one for each GPU that is found where it runs.
        here: It runs on this machine, so the type of its weights is decided here.

    Raises:
        TrainingError: A row or a setting is wrong.
        LMError: The base model is not there.
    """
    from transformers import AutoConfig, AutoTokenizer

    from pytest_dspy_ft.local.training.rows import encode_rows, plan_epoch, split_validation

    source, config = training.source, training.config
    place = model_place(source)
    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    context = getattr(AutoConfig.from_pretrained(place), "max_position_embeddings", None)
    limits = [limit for limit in (config.max_tokens, context) if limit]
    encoded = encode_rows(training.rows, tokenizer, max_tokens=min(limits) if limits else None)
    kept, held = split_validation(encoded, config, training.seed)
    batches: list[list[int]] = []
    epoch_ends = []
    for epoch in range(config.epochs):
        planned = plan_epoch(kept, config.batch_size, training.seed, epoch)
        batches += [[row.number for row in batch] for batch in planned]
        epoch_ends.append(len(batches))
    order = {
        "digest": training.digest,
        "base": base_name(source),
        "model": place,
        "revision": source.fingerprint().rpartition("@")[2] if source.kind == "hub" else None,
        "dtype": default_dtype(default_device()) if here else None,
        "seed": training.seed,
        "config": dataclasses.asdict(config),
        "batches": batches,
        "epoch_ends": epoch_ends,
        "validation": [row.number for row in held],
        "processes": processes,
        "save_steps": max(math.ceil(len(batches) / CHECKPOINTS), 1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name(SCRIPT), folder / SCRIPT)
    if training.init_adapter is not None:
        shutil.copytree(training.init_adapter, folder / ADAPTER, dirs_exist_ok=True)
    write_atomically(folder / ROWS, json.dumps([{"ids": row.ids, "prompt": row.prompt_length} for row in encoded]))
    write_atomically(folder / ORDER, json.dumps(order))


def base_name(source: ModelSource) -> str:
    """What adapters note down as their base: the source's name, of a folder its last part alone."""
    return source.path.name if source.kind == "folder" and source.path else source.name
