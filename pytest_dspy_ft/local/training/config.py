"""The settings of a training, checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.text import did_you_mean

ELSEWHERE = {
    "num_train_epochs": "epochs",
    "n_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "lr": "learning_rate",
    "lora_r": "r",
    "rank": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "max_length": "max_tokens",
    "max_seq_length": "max_tokens",
}
"""What other trainers, DSPy's own among them, call these settings."""


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
        shared_prefix: Compute a batch's common prefix once. Same loss (in bfloat16 up to its rounding), faster;
            switched off by itself for an architecture where it would not give the same numbers.
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
        for name, most in {
            "dropout": 0.99,
            "warmup_ratio": 1.0,
            "validation_fraction": 0.5,
            "adam_beta2": 0.99999,
        }.items():
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
            meant = ELSEWHERE.get(unknown[0])
            hint = f"; here that is {meant!r}" if meant else did_you_mean(unknown[0], known)
            raise TrainingError(
                f"unknown training setting {', '.join(map(repr, unknown))}{hint}; choose from {', '.join(known)}"
            )
        return cls(**kwargs)


def _check(name: str, value: object, kind: type, least: float, most: float) -> None:
    number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if not number or not least <= cast(float, value) <= most or not math.isfinite(cast(float, value)):
        what = "a number" if kind is float else "a whole number"
        limits = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise TrainingError(f"{name}={value!r}: must be {what} {'above 0' if 0 < least < 1 else limits}")
