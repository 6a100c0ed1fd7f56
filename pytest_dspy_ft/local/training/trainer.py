"""Hugging Face's `Trainer` over batches that are made beforehand, and what is recorded of its steps."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.local.compat import keep_to_one_gpu
from pytest_dspy_ft.local.training.attention import shared_logits
from pytest_dspy_ft.local.training.batch import EncodedRow, SharedBatch, plain_batch, shared_batch
from pytest_dspy_ft.local.training.config import LoraTrainingConfig
from pytest_dspy_ft.local.training.head_loss import Head, mean_cross_entropy
from pytest_dspy_ft.local.training.memory import FreedMemory, Recomputation


@dataclasses.dataclass(frozen=True)
class TrainingProgress:
    """The state of a training after a step.

    Attributes:
        step: Optimizer steps done; 0 before the first.
        total_steps: Steps of the whole training.
        epoch: Epochs done, with the part of the current one.
        loss: The step's mean loss over its label tokens; None before the first step.
        validation_loss: The latest one; None without validation rows.
        tokens: Tokens computed so far.
        seconds_elapsed: Since the training began.
    """

    step: int
    total_steps: int
    epoch: float
    loss: float | None
    validation_loss: float | None
    tokens: int
    seconds_elapsed: float


class LoraTrainer(Trainer):
    """Hugging Face's loop over batches that are already made."""

    def __init__(
        self, batches: list[list[EncodedRow]], shared: bool, pad_id: int, warmup_ratio: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.batches, self.shared, self.pad_id, self.warmup_ratio = batches, shared, pad_id, warmup_ratio
        self.head: Head | None = None
        self.recomputation: Recomputation | None = None
        self.step_loss = torch.zeros(())
        self.tokens = 0
        self.plain_tokens = 0

    def collate(self, batch: list[list[EncodedRow]]) -> dict[str, Any]:
        """The model's input of one batch (the loader hands over a list of one)."""
        rows = batch[0]
        if self.shared:
            return dict(vars(shared_batch(rows)), rows=rows)
        return dict(plain_batch(rows, self.pad_id), rows=rows)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """All epochs' batches in their order."""
        loader: DataLoader[Any] = DataLoader(
            cast(Any, self.batches), batch_size=1, collate_fn=self.collate, generator=torch.Generator()
        )
        return cast("DataLoader[Any]", self.accelerator.prepare_data_loader(loader))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Linear warm-up and decay; unlike Hugging Face's, no step is spent at a rate of 0: there may be ten in all."""
        warmup = math.ceil(num_training_steps * self.warmup_ratio)

        def factor(step: int) -> float:
            return min((step + 1) / (warmup + 1), (num_training_steps - step) / max(num_training_steps - warmup, 1))

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(cast(Any, optimizer or self.optimizer), factor)
        return self.lr_scheduler

    def batch_loss(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Mean loss over the batch's label tokens."""
        inputs = {name: value for name, value in inputs.items() if name != "rows"}
        if self.shared:
            batch = SharedBatch(**inputs)
            output = shared_logits(model, batch)[0]
            return (self.head or mean_cross_entropy)(output, batch.targets)
        return cast(torch.Tensor, model(**inputs, use_cache=False).loss)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The step's loss; also kept for the log."""
        rows: list[EncodedRow] = inputs["rows"]
        if self.recomputation is not None:
            self.recomputation.prepare(inputs["layout"])
        loss = self.batch_loss(model, inputs)
        self.step_loss = loss.detach()
        self.tokens += int(inputs["input_ids"].numel())
        self.plain_tokens += len(rows) * max(len(row.ids) for row in rows)
        return (loss, {}) if return_outputs else loss

    def validation_loss(self, rows: Sequence[EncodedRow], batch_size: int) -> float:
        """Mean loss over the label tokens of `rows`, without training on them."""
        model = cast(nn.Module, self.model)
        was_training = model.training
        model.eval()
        total, count = 0.0, 0
        ordered = sorted(rows, key=lambda row: (row.group, row.number))
        with torch.no_grad():
            for start in range(0, len(ordered), batch_size):
                part = ordered[start : start + batch_size]
                labels = sum(len(row.ids) - row.prompt_length for row in part)
                inputs = cast(dict[str, Any], self._prepare_inputs(self.collate([part])))
                total += float(self.batch_loss(model, inputs)) * labels
                count += labels
        model.train(was_training)
        return total / count


class TrainingRecorder(TrainerCallback):
    """Keeps the log, reports each step to the caller, and stops when asked to or when the validation loss rises."""

    def __init__(
        self,
        epoch_ends: list[int],
        validation: list[EncodedRow],
        config: LoraTrainingConfig,
        progress: Callable[[TrainingProgress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.epoch_ends, self.validation, self.config = epoch_ends, validation, config
        self.progress, self.should_stop = progress, should_stop
        self.trainer: LoraTrainer
        self.log: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.validation_losses: list[float] = []
        self.rate = 0.0
        self.cancelled = False
        self.freed = FreedMemory()
        self.started = time.monotonic()

    def _validate(self) -> None:
        if self.validation:
            self.validation_losses.append(self.trainer.validation_loss(self.validation, self.config.batch_size))

    def _log_step(self, step: int, loss: float | None, validated: bool) -> None:
        done = sum(end <= step for end in self.epoch_ends)
        start = self.epoch_ends[done - 1] if done else 0
        epoch = float(done)
        if done < len(self.epoch_ends):
            epoch += (step - start) / (self.epoch_ends[done] - start)
        seconds = time.monotonic() - self.started
        validation_loss = self.validation_losses[-1] if validated and self.validation else None
        entry = {"step": step, "epoch": round(epoch, 4), "loss": loss, "learning_rate": self.rate if step else None}
        entry |= {"validation_loss": validation_loss, "tokens": self.trainer.tokens, "seconds": round(seconds, 3)}
        self.log.append(entry)
        if self.progress is not None:
            latest = self.validation_losses[-1] if self.validation_losses else None
            total = self.epoch_ends[-1]
            self.progress(TrainingProgress(step, total, epoch, loss, latest, self.trainer.tokens, seconds))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the untrained model."""
        self._validate()
        self._log_step(0, None, True)
        self._stop_if_asked(control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the rate that this step uses: afterwards the scheduler has moved on."""
        self.rate = float(kwargs["lr_scheduler"].get_last_lr()[0])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the step; at an epoch's end also validate."""
        loss = float(self.trainer.step_loss)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at step {state.global_step}: lower learning_rate "
                f"(it is {self.config.learning_rate:g})"
            )
        self.losses.append(loss)
        self.freed.look()
        ends = state.global_step in self.epoch_ends
        if ends:
            self._validate()
        self._log_step(state.global_step, loss, ends)
        patience = self.config.early_stopping
        if ends and patience is not None and len(self.validation_losses) > patience:
            past = self.validation_losses
            if min(past[-patience:]) >= min(past[:-patience]):
                control.should_training_stop = True
        self._stop_if_asked(control)

    def _stop_if_asked(self, control: Any) -> None:
        if self.should_stop is not None and self.should_stop():
            self.cancelled = True
            control.should_training_stop = True


def trainer_arguments(
    output_dir: Path, steps: int, config: LoraTrainingConfig, seed: int, on_cpu: bool
) -> TrainingArguments:
    """Tell Hugging Face's loop to do no more than the steps: no files, no reports, no logs of its own."""
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        adam_beta2=config.adam_beta2,
        optim="adamw_torch_fused" if on_cpu else "adamw_torch",  # 420 small tensors: one after the other takes longer
        seed=seed % 2**32,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=on_cpu,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    keep_to_one_gpu(arguments)
    return arguments
