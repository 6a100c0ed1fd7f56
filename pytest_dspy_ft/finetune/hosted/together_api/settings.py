"""How a model is trained at Together: what ``train_kwargs`` may hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.finetune.hosted.job_request import TrainingSettings, is_number

_HYPERPARAMETERS = (
    "n_epochs",
    "batch_size",
    "learning_rate",
    "lr_scheduler_type",
    "min_lr_ratio",
    "warmup_ratio",
    "max_grad_norm",
    "weight_decay",
    "packing",
    "max_seq_length",
    "train_on_inputs",
    "lora",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_trainable_modules",
)
_SHARES = ("min_lr_ratio", "warmup_ratio", "lora_dropout")
EPOCHS = 3
"""Together's client has 1, which is little for the few rows of a stage."""


@dataclass(frozen=True)
class TogetherSettings(TrainingSettings):
    """What ``train_kwargs`` may hold at Together; what is left at ``"auto"`` is its client's choice.

    Attributes:
        n_epochs: How often each row is trained on.
        batch_size, learning_rate, lr_scheduler_type, min_lr_ratio, warmup_ratio, max_grad_norm: Together's.
        weight_decay, packing, max_seq_length, train_on_inputs: Together's.
        lora, lora_r, lora_alpha, lora_dropout, lora_trainable_modules: Together's; ``lora=False`` trains all weights.
    """

    n_epochs: int | str = EPOCHS
    batch_size: int | str = "auto"
    learning_rate: float | str = "auto"
    lr_scheduler_type: str = "auto"
    min_lr_ratio: float | str = "auto"
    warmup_ratio: float | str = "auto"
    max_grad_norm: float | str = "auto"
    weight_decay: float | str = "auto"
    packing: bool | str = "auto"
    max_seq_length: int | str = "auto"
    train_on_inputs: bool | str = "auto"
    lora: bool | str = "auto"
    lora_r: int | str = "auto"
    lora_alpha: float | str = "auto"
    lora_dropout: float | str = "auto"
    lora_trainable_modules: str = "auto"

    def check(self) -> None:
        """Check what each setting holds.

        Raises:
            TrainingError: Naming the one that is out of range.
        """
        super().check()
        fractions = ("learning_rate", "lora_alpha")
        self.check_numbers("batch_size", "max_seq_length", "lora_r", *fractions, fractions=fractions)
        for name in (*_SHARES, "max_grad_norm", "weight_decay"):
            value, most = getattr(self, name), 1.0 if name in _SHARES else float("inf")
            if value != "auto" and not (is_number(value) and 0 <= value <= most):
                raise TrainingError(f"{name}={value!r}: must be 'auto' or a number from 0" + " to 1" * (most == 1))
        for name in ("packing", "train_on_inputs", "lora"):
            if (value := getattr(self, name)) != "auto" and not isinstance(value, bool):
                raise TrainingError(f"{name}={value!r}: must be 'auto', True or False")
        if self.lr_scheduler_type not in ("auto", "linear", "cosine"):
            raise TrainingError(f"lr_scheduler_type={self.lr_scheduler_type!r}: must be 'auto', 'linear' or 'cosine'")
        if self.lora is False and (
            named := [n for n in _HYPERPARAMETERS if n[:5] == "lora_" and getattr(self, n) != "auto"]
        ):
            raise TrainingError(f"{named[0]} and lora=False: with all weights trained there is no LoRA to set up")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Those that were set; the others are the service's choice."""
        found = {name: value for name in _HYPERPARAMETERS if (value := getattr(self, name)) != "auto"}
        if self.lora == "auto" and any(name.startswith("lora_") for name in found):
            found["lora"] = True  # without it Together's client leaves the other settings of a LoRA out
        return found
