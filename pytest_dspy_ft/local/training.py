"""Fine-tuning: rows of chats in, a LoRA folder out.

`train_lora` is the whole of it. The rows are DSPy's (``{"messages": [...]}``, the last message the assistant's), the
LoRA is peft's, the loop is Hugging Face's `Trainer`, so that more GPUs are its launcher's matter. The base model is
shared with the inference engine and is never changed: training runs on a copy of its modules over the same weights.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import inspect
import json
import math
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.local import shared_prefix
from pytest_dspy_ft.local.shared_prefix import EncodedRow

if TYPE_CHECKING:
    from pytest_dspy_ft.local.weights import LoadedModel, ModelSource

_ONE_AT_A_TIME = threading.Lock()
"""Trainer and accelerate keep process-wide state, and two trainings at once would only share the same cores."""


class Message(TypedDict):
    """One chat message."""

    role: str
    content: str


class Row(TypedDict):
    """One training example in DSPy's chat format; the last message is the assistant's reply."""

    messages: list[Message]


@dataclasses.dataclass(frozen=True)
class LoraTrainingConfig:
    """The settings of a training; every field is a key of DSPy's `train_kwargs`.

    Attributes:
        r: Rank of the LoRA.
        alpha: The LoRA's output is scaled by alpha / r.
        dropout: Dropout on the LoRA's input. Above 0 the two batch layouts draw different masks.
        target_modules: "all-linear" (the projections of attention and MLP, not the output head), or module names.
        learning_rate: Peak; it warms up linearly, then falls linearly to 0.
        epochs: Passes over the training rows.
        batch_size: Rows per optimizer step, at most; an epoch's rows are spread evenly over its steps.
        max_tokens: The longest row allowed, in tokens; None: the model's context. A longer row is an error.
        warmup_ratio: Share of the steps that the learning rate rises.
        weight_decay: AdamW's.
        max_grad_norm: Gradients are scaled down to this norm.
        adam_beta2: Decay of AdamW's second moment. The usual 0.999 remembers the large gradients of the first steps, in
            which the reply's format is learned, for longer than a short training lasts, and so slows all that follows.
        validation_fraction: Share of the rows held out to measure a validation loss, if there are at least
            `validation_min_rows`; never trained on. 0 holds out none.
        validation_min_rows: With fewer rows all are trained on.
        early_stopping: Stop after this many epochs without a better validation loss; None: never.
        shared_prefix: Compute a batch's common prefix once. Same loss, faster; switched off by itself for an
            architecture where it would not give the same numbers.
        activation_gib: Memory for what a step keeps for its backward pass, about; when it would take more, some layers
            are computed a second time instead. Changes the speed, not the numbers. Only with `shared_prefix`.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    learning_rate: float = 1e-3
    epochs: int = 2
    batch_size: int = 8
    max_tokens: int | None = None
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    adam_beta2: float = 0.95
    validation_fraction: float = 0.1
    validation_min_rows: int = 20
    early_stopping: int | None = None
    shared_prefix: bool = True
    activation_gib: float = 0.75

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            TrainingError: A value is of the wrong type or out of range; the message names the field.
        """
        whole = {"r": 1, "alpha": 1, "epochs": 1, "batch_size": 1, "validation_min_rows": 2}
        for name, least in whole.items():
            _check(name, getattr(self, name), int, least, math.inf)
        for name in ("max_tokens", "early_stopping"):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), int, 1, math.inf)
        for name in ("learning_rate", "max_grad_norm", "activation_gib"):
            _check(name, getattr(self, name), float, math.ulp(0.0), math.inf)
        _check("weight_decay", self.weight_decay, float, 0, math.inf)
        for name, most in {"dropout": 0.99, "warmup_ratio": 1.0, "validation_fraction": 0.5, "adam_beta2": 0.99999}.items():
            _check(name, getattr(self, name), float, 0, most)
        if not isinstance(self.shared_prefix, bool):
            raise TrainingError(f"shared_prefix={self.shared_prefix!r}: must be True or False")
        if not isinstance(self.target_modules, str):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> LoraTrainingConfig:
        """The config that `kwargs` describes; what they leave out keeps its default.

        Raises:
            TrainingError: A key is unknown (the message lists the choices) or a value is out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(kwargs) - set(known))
        if unknown:
            raise TrainingError(
                f"unknown training setting {', '.join(map(repr, unknown))}; choose from {', '.join(known)}"
            )
        return cls(**kwargs)


def _check(name: str, value: object, kind: type, least: float, most: float) -> None:
    number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if not number or not least <= cast(float, value) <= most or not math.isfinite(cast(float, value)):
        what = "a number" if kind is float else "a whole number"
        limits = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise TrainingError(f"{name}={value!r}: must be {what} {'above 0' if 0 < least < 1 else limits}")


@dataclasses.dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands after a step (step 0: before the first)."""

    step: int
    total_steps: int
    epoch: float
    loss: float | None
    validation_loss: float | None
    tokens: int
    seconds_elapsed: float


@dataclasses.dataclass(frozen=True)
class TrainingReport:
    """What a finished training was; also in the output folder, as ``training.json``.

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
        shared_prefix: Whether prefixes were shared.
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


# ---------------------------------------------------------------------------------------------------------------- rows


def encode_rows(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int | None = None
) -> list[EncodedRow]:
    """Turn chats into tokens: exactly the prompt that inference sees, then the reply and its end-of-turn token.

    Prompt and reply are tokenized apart, as they are at inference, where the reply follows a finished prompt.

    Raises:
        TrainingError: A row is not of the format, or longer than `max_tokens`; the message has its number (from 0).
    """
    if not rows:
        raise TrainingError("no rows to train on: no trace was kept; look at the metric and at the stage's accept=")
    end = end_of_turn(tokenizer)
    encoded = []
    for number, row in enumerate(rows):
        messages = _checked_messages(number, row)
        prompt = tokenizer.apply_chat_template(
            cast(Any, messages[:-1]), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        reply = tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"]
        ids = (*cast(list[int], prompt), *cast(list[int], reply), end)
        if max_tokens is not None and len(ids) > max_tokens:
            raise TrainingError(
                f"training row {number} has {len(ids)} tokens, more than {max_tokens} (the model's context, or "
                "max_tokens): shorten the prompt, use fewer demos, or leave the row out"
            )
        head = messages[0]["content"] if messages[0]["role"] == "system" else ""
        encoded.append(EncodedRow(ids, len(cast(list[int], prompt)), hashlib.sha256(head.encode()).hexdigest(), number))
    return encoded


def _checked_messages(number: int, row: object) -> list[Message]:
    def bad(what: str) -> TrainingError:
        return TrainingError(
            f"training row {number}: {what}; a row is {{'messages': [{{'role': ..., 'content': ...}}, ...]}} whose "
            "last message is the assistant's reply, as dspy.ChatAdapter().format_finetune_data writes it"
        )

    if not isinstance(row, Mapping) or "messages" not in row:
        raise bad("no 'messages'")
    messages = row["messages"]
    if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) < 2:
        raise bad("'messages' must be a list of at least two, a prompt and a reply")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise bad(f"message {place} lacks 'role' or 'content'")
        if message["role"] not in ("system", "user", "assistant"):
            raise bad(f"message {place} has the role {message['role']!r}, not system, user or assistant")
        if not isinstance(message["content"], str):
            raise bad(f"message {place} has a content that is not text")
    if messages[-1]["role"] != "assistant":
        raise bad(f"the last message is the {messages[-1]['role']}'s")
    if not messages[-1]["content"].strip():
        raise bad("the reply is empty")
    return [Message(role=m["role"], content=m["content"]) for m in messages]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that the chat template closes an assistant's turn with; else the tokenizer's eos."""
    mark = "reply"
    chat = [{"role": "user", "content": "prompt"}, {"role": "assistant", "content": mark}]
    text = cast(str, tokenizer.apply_chat_template(cast(Any, chat), tokenize=False))
    after = cast(list[int], tokenizer(text[text.rindex(mark) + len(mark) :], add_special_tokens=False)["input_ids"])
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    for token in after:
        if token in special:
            return token
    if tokenizer.eos_token_id is None:
        raise TrainingError(
            "the tokenizer has no end-of-turn token: neither its chat template writes one nor is eos set"
        )
    return int(cast(int, tokenizer.eos_token_id))


def split_validation(
    rows: Sequence[EncodedRow], config: LoraTrainingConfig, seed: int
) -> tuple[list[EncodedRow], list[EncodedRow]]:
    """Hold out a share of the rows: (to train on, to validate on). Rows with one prompt stay on one side."""
    if not config.validation_fraction or len(rows) < config.validation_min_rows:
        return list(rows), []
    by_prompt: dict[tuple[int, ...], list[EncodedRow]] = {}
    for row in rows:
        by_prompt.setdefault(row.ids[: row.prompt_length], []).append(row)
    families = list(by_prompt.values())
    random.Random(f"validation-{seed}").shuffle(families)
    wanted = round(len(rows) * config.validation_fraction)
    held: list[EncodedRow] = []
    for family in families:
        if len(held) + len(family) <= wanted:
            held.extend(family)
    numbers = {row.number for row in held}
    return [row for row in rows if row.number not in numbers], sorted(held, key=lambda row: row.number)


def plan_epoch(rows: Sequence[EncodedRow], batch_size: int, seed: int, epoch: int) -> list[list[EncodedRow]]:
    """One epoch's batches: every row once, rows of one group together where that fills a batch, in a shuffled order.

    A group is cut into batches of even size, so that no batch is a lone left-over row with a full step's weight. Groups
    too small for half a batch are pooled.
    """
    rng = random.Random(f"epoch-{seed}-{epoch}")
    groups: dict[str, list[EncodedRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    pool: list[EncodedRow] = []
    batches: list[list[EncodedRow]] = []

    def cut(some: list[EncodedRow]) -> None:
        parts = math.ceil(len(some) / batch_size)
        batches.extend(some[len(some) * i // parts : len(some) * (i + 1) // parts] for i in range(parts))

    for group in groups.values():
        rng.shuffle(group)
        if 2 * len(group) < batch_size:
            pool.extend(group)
        else:
            cut(group)
    if pool:
        cut(pool)
    rng.shuffle(batches)
    return batches


# --------------------------------------------------------------------------------------------------------------- model


def private_copy(model: PreTrainedModel) -> PreTrainedModel:
    """New modules over the same, frozen weight tensors: whatever is done to the copy, `model` stays as it is."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    memo.update((id(b), b) for b in model.buffers())
    return copy.deepcopy(model, memo)


def supports_shared_prefix(model: PreTrainedModel) -> bool:
    """Whether `model` (a private copy) gives the same logits for a shared and a padded batch: tried on a tiny one.

    The try cannot see a sliding window longer than itself, so a config that declares one counts as a no. Leaves the
    model with the attention that fits the answer.
    """
    usual = model.config._attn_implementation
    windowed = getattr(model.config, "sliding_window", None) and getattr(model.config, "use_sliding_window", True)
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if windowed or kinds != {"full_attention"} or "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return False
    rows = [EncodedRow((1, 2, 3, 4, 5, 6), 4), EncodedRow((1, 2, 3, 7, 5, 8, 9), 3)]
    try:
        with torch.no_grad():
            padded = shared_prefix.plain_batch(rows, 0)
            expected = model(**_on(padded, model.device)).logits
            wanted = padded["labels"][:, 1:] != shared_prefix.IGNORED
            model.set_attn_implementation(shared_prefix.ATTENTION)
            batch = shared_prefix.shared_batch(rows)
            got = shared_prefix.shared_output(model, batch.to(model.device))
        noise = 1e-3 if got.dtype == torch.float32 else 0.1
        scale = float(expected.abs().max())
        same = torch.allclose(got, expected[:, :-1][wanted.to(model.device)], rtol=noise, atol=noise * scale)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        same = False  # an architecture that passes no keywords on to its attention, or has no such interface
    if not same:
        model.set_attn_implementation(usual)
    return same


def _on(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _with_lora(
    model: PreTrainedModel, source_name: str, config: LoraTrainingConfig, init_adapter: Path | None, seed: int
) -> Any:
    """`model` wrapped in a trainable LoRA, new or read from the folder `init_adapter`."""
    from peft import LoraConfig, PeftModel, get_peft_model

    model.name_or_path = source_name  # or peft notes down this machine's path
    if init_adapter is not None:
        if not (Path(init_adapter) / "adapter_config.json").is_file():
            raise TrainingError(f"{init_adapter} holds no LoRA to continue from (no adapter_config.json)")
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


# ---------------------------------------------------------------------------------------------------------------- loop


class _LoraTrainer(Trainer):
    """Hugging Face's loop over batches that are already made."""

    def __init__(
        self, batches: list[list[EncodedRow]], shared: bool, pad_id: int, warmup_ratio: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.batches, self.shared, self.pad_id, self.warmup_ratio = batches, shared, pad_id, warmup_ratio
        self.head: shared_prefix.Head | None = None
        self.recomputation: shared_prefix.Recomputation | None = None
        self.step_loss = torch.zeros(())
        self.tokens = 0
        self.plain_tokens = 0

    def collate(self, batch: list[list[EncodedRow]]) -> dict[str, Any]:
        """The model's input of one batch (the loader hands over a list of one)."""
        rows = batch[0]
        if self.shared:
            return dict(vars(shared_prefix.shared_batch(rows)), rows=rows)
        return dict(shared_prefix.plain_batch(rows, self.pad_id), rows=rows)

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
            batch = shared_prefix.SharedBatch(**inputs)
            output = shared_prefix.shared_output(model, batch)
            return (self.head or shared_prefix.mean_cross_entropy)(output, batch.targets)
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
            self.recomputation.prepare(int(inputs["input_ids"].numel()))
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


class _Recorder(TrainerCallback):
    """Writes the log, tells the caller, stops when asked to."""

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
        self.trainer: _LoraTrainer
        self.log: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.validation_losses: list[float] = []
        self.rate = 0.0
        self.cancelled = False
        self.started = time.monotonic()

    def _validate(self) -> None:
        if self.validation:
            self.validation_losses.append(self.trainer.validation_loss(self.validation, self.config.batch_size))

    def _tell(self, step: int, loss: float | None, validated: bool) -> None:
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
        self._tell(0, None, True)
        self._heed(control)

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
        ends = state.global_step in self.epoch_ends
        if ends:
            self._validate()
        self._tell(state.global_step, loss, ends)
        patience = self.config.early_stopping
        if ends and patience is not None and len(self.validation_losses) > patience:
            past = self.validation_losses
            if min(past[-patience:]) >= min(past[:-patience]):
                control.should_training_stop = True
        self._heed(control)

    def _heed(self, control: Any) -> None:
        if self.should_stop is not None and self.should_stop():
            self.cancelled = True
            control.should_training_stop = True


def _arguments(output_dir: Path, steps: int, config: LoraTrainingConfig, seed: int, on_cpu: bool) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        adam_beta2=config.adam_beta2,
        optim="adamw_torch",
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
    # In one process, Trainer would wrap the model in nn.DataParallel over all GPUs; those are the launcher's matter.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@contextlib.contextmanager
def _undisturbed(seed: int) -> Iterator[None]:
    """Seed the global generators for the time of a training and give them back as they were; keep libraries quiet."""
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=list(devices)), warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 for a property it has renamed; GPT-2 it handles by itself.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


# --------------------------------------------------------------------------------------------------------------- entry


def train_lora(
    source: ModelSource,
    rows: Sequence[Row],
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
        source: The base model.
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
        LMError: The base model cannot be loaded.
    """
    from pytest_dspy_ft.local.weights import load

    return train_loaded(
        load(source),
        rows,
        output_dir,
        source_name=source.path.name if source.kind == "folder" and source.path else source.name,
        config=config,
        init_adapter=init_adapter,
        seed=seed,
        progress=progress,
        should_stop=should_stop,
    )


def train_loaded(
    loaded: LoadedModel,
    rows: Sequence[Row],
    output_dir: Path,
    *,
    source_name: str,
    config: LoraTrainingConfig | None = None,
    init_adapter: Path | None = None,
    seed: int = 0,
    progress: Callable[[TrainingProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainingReport:
    """`train_lora` for a base model that is in memory already; it is not changed."""
    config = config or LoraTrainingConfig()
    base: PreTrainedModel = loaded.model
    context = getattr(base.config, "max_position_embeddings", None)
    limits = [limit for limit in (config.max_tokens, context) if limit]
    encoded = encode_rows(rows, loaded.tokenizer, max_tokens=min(limits) if limits else None)
    training, validation = split_validation(encoded, config, seed)
    with _ONE_AT_A_TIME, _undisturbed(seed):
        started = time.monotonic()
        batches: list[list[EncodedRow]] = []
        epoch_ends: list[int] = []
        for epoch in range(config.epochs):
            batches += plan_epoch(training, config.batch_size, seed, epoch)
            epoch_ends.append(len(batches))
        model = private_copy(base)
        shared = config.shared_prefix and supports_shared_prefix(model)
        wrapped = _with_lora(model, source_name, config, init_adapter, seed)
        recorder = _Recorder(epoch_ends, validation, config, progress, should_stop)
        pad = loaded.tokenizer.pad_token_id
        trainer = _LoraTrainer(
            batches,
            shared,
            int(cast(int, pad)) if pad is not None else 0,
            config.warmup_ratio,
            model=wrapped,
            args=_arguments(output_dir, len(batches), config, seed, base.device.type == "cpu"),
            callbacks=[recorder],
        )
        if shared:
            shared_prefix.fuse_lora(wrapped)
            trainer.head = shared_prefix.open_head(model)
            trainer.recomputation = shared_prefix.Recomputation(wrapped, config.activation_gib * 2**30)
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        recorder.trainer = trainer
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
            _write(wrapped, source_name, report, config, recorder.log, seed)
        return report


def _write(
    wrapped: Any,
    source_name: str,
    report: TrainingReport,
    config: LoraTrainingConfig,
    log: list[dict[str, Any]],
    seed: int,
) -> None:
    """The adapter and its records."""
    folder = report.output_dir
    # save_embedding_layers: "auto" would ask the Hub about the base model's vocabulary.
    wrapped.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    settings_file = folder / "adapter_config.json"
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
