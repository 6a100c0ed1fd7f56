"""Fine-tuning: rows of chats in, a LoRA folder out.

`train_lora` is the whole of it. The rows are DSPy's (``{"messages": [...]}``, the last message the assistant's), the
LoRA is peft's, the loop is Hugging Face's `Trainer`, so that more GPUs are its launcher's matter. The base model is
never changed: training runs on a copy of its modules over the same weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.local.adapters import CONFIG
from pytest_dspy_ft.local.compat import quiet_peft
from pytest_dspy_ft.local.training.attention import supports_shared_prefix
from pytest_dspy_ft.local.training.batch import EncodedRow
from pytest_dspy_ft.local.training.config import LoraTrainingConfig
from pytest_dspy_ft.local.training.fusing import fuse
from pytest_dspy_ft.local.training.head_loss import detach_head
from pytest_dspy_ft.local.training.lora import add_lora, private_copy
from pytest_dspy_ft.local.training.memory import Recomputation
from pytest_dspy_ft.local.training.rows import ChatRow, encode_rows, plan_epoch, split_validation
from pytest_dspy_ft.local.training.trainer import LoraTrainer, TrainingProgress, TrainingRecorder, trainer_arguments

if TYPE_CHECKING:
    from pytest_dspy_ft.local.weights import LoadedModel

_ONE_AT_A_TIME = threading.Lock()
"""Trainer and accelerate keep process-wide state, and two trainings at once would only share the same cores."""


@dataclasses.dataclass(frozen=True)
class TrainingReport:
    """The record of a finished training; also in the output folder, as ``training.json``.

    Attributes:
        output_dir: The folder with the adapter.
        rows: Rows given.
        validation_rows: Row numbers (from 0) held out.
        steps: Optimizer steps done.
        epochs: Epochs done.
        tokens: Tokens computed in training, shared prefixes counted once a step.
        plain_tokens: Tokens that padded batches would have computed.
        first_loss: Mean over the label tokens of the first step's batch.
        last_loss: The same of the last epoch, averaged over its steps.
        first_validation_loss: Mean over the label tokens of the held-out rows, before the first step.
        last_validation_loss: After the last.
        seconds: Wall time.
        shared_prefix: True if prefixes were shared.
    """

    output_dir: Path
    rows: int
    validation_rows: tuple[int, ...]
    steps: int
    epochs: int
    tokens: int
    plain_tokens: int
    first_loss: float
    last_loss: float
    first_validation_loss: float | None
    last_validation_loss: float | None
    seconds: float
    shared_prefix: bool


class TrainingCancelledError(TrainingError):
    """The caller asked the training to stop; nothing was written."""


def train_lora(
    base: LoadedModel,
    rows: Sequence[ChatRow],
    output_dir: Path,
    *,
    config: LoraTrainingConfig | None = None,
    init_adapter: Path | None = None,
    seed: int = 0,
    progress: Callable[[TrainingProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainingReport:
    """Train a LoRA on `rows` and write it into `output_dir`.

    The folder then holds adapter_model.safetensors and adapter_config.json (peft's format, without paths of this
    machine), training_log.jsonl (one line per step) and training.json. On one machine the same arguments give the same
    adapter, bit by bit. The folder is written at the end; making that atomic is the caller's part.

    Args:
        base: The base model; not changed.
        rows: ``{"messages": [...]}``, the last message the assistant's: only it and its end of turn carry the loss.
        output_dir: Where to; created if missing.
        config: Settings; None: the defaults.
        init_adapter: A LoRA folder of the same base to continue from; its rank and targets then hold, not the config's.
        seed: Of the LoRA's initial weights, of the split and of the order of rows.
        progress: Called before the first step and after each, in this thread.
        should_stop: Asked after each step; True ends the training with TrainingCancelledError.

    Raises:
        TrainingError: A row or a setting is wrong, or the loss is not finite any more.
        TrainingCancelledError: `should_stop` said so.
    """
    config = config or LoraTrainingConfig()
    context = getattr(base.model.config, "max_position_embeddings", None)
    limits = [limit for limit in (config.max_tokens, context) if limit]
    encoded = encode_rows(rows, base.tokenizer, max_tokens=min(limits) if limits else None)
    training, validation = split_validation(encoded, config, seed)
    with _ONE_AT_A_TIME, isolated_random_state(seed), quiet_peft():
        started = time.monotonic()
        batches: list[list[EncodedRow]] = []
        epoch_ends: list[int] = []
        for epoch in range(config.epochs):
            batches += plan_epoch(training, config.batch_size, seed, epoch)
            epoch_ends.append(len(batches))
        model = private_copy(base.model)
        shared = config.shared_prefix and supports_shared_prefix(model)
        wrapped = add_lora(model, base.name, config, init_adapter, seed)
        recorder = TrainingRecorder(epoch_ends, validation, config, progress, should_stop)
        pad = base.tokenizer.pad_token_id
        trainer = LoraTrainer(
            batches,
            shared,
            int(cast(int, pad)) if pad is not None else 0,
            config.warmup_ratio,
            model=wrapped,
            args=trainer_arguments(output_dir, len(batches), config, seed, base.model.device.type == "cpu"),
            callbacks=[recorder],
        )
        if shared:
            fuse(wrapped)
            trainer.head = detach_head(model)
            trainer.recomputation = Recomputation(wrapped, config.activation_gib * 2**30)
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        recorder.trainer = trainer
        recorder.freed.watch(wrapped)
        trainer.train()
        if recorder.cancelled:
            raise TrainingCancelledError(f"training was cancelled after {len(recorder.losses)} steps")
        steps = len(recorder.losses)
        epochs = sum(end <= steps for end in epoch_ends)
        last = recorder.losses[epoch_ends[epochs - 2] if epochs > 1 else 0 : steps]
        report = TrainingReport(
            output_dir=Path(output_dir),
            rows=len(rows),
            validation_rows=tuple(row.number for row in validation),
            steps=steps,
            epochs=epochs,
            tokens=trainer.tokens,
            plain_tokens=trainer.plain_tokens,
            first_loss=recorder.losses[0],
            last_loss=sum(last) / len(last),
            first_validation_loss=recorder.validation_losses[0] if validation else None,
            last_validation_loss=recorder.validation_losses[-1] if validation else None,
            seconds=time.monotonic() - started,
            shared_prefix=shared,
        )
        if trainer.is_world_process_zero():
            _write(wrapped, base.name, report, config, recorder.log, seed)
        return report


def _write(
    wrapped: Any,
    source_name: str,
    report: TrainingReport,
    config: LoraTrainingConfig,
    log: list[dict[str, Any]],
    seed: int,
) -> None:
    """Write the adapter and its records."""
    folder = report.output_dir
    # save_embedding_layers: "auto" would ask the Hub about the base model's vocabulary.
    wrapped.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    settings_file = folder / CONFIG
    settings = json.loads(settings_file.read_text("utf-8"))
    settings["base_model_name_or_path"] = source_name
    settings["inference_mode"] = True
    if isinstance(settings.get("target_modules"), list):
        settings["target_modules"].sort()  # peft writes a set, in an order that changes from process to process
    _dump(settings_file, settings)
    with (folder / "training_log.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in log)
    facts = dataclasses.asdict(report)
    del facts["output_dir"]
    _dump(folder / "training.json", {"base": source_name, "seed": seed, "config": dataclasses.asdict(config), **facts})


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Seed the global generators for the time of a training and give them back as they were."""
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
