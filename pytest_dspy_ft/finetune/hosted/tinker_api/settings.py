"""How a model is trained at Tinker: the loop is ours, so all of it is set here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.finetune.hosted.job_request import TrainingSettings, is_number

_HYPERPARAMETERS = (
    "n_epochs",
    "batch_size",
    "learning_rate",
    "lr_schedule",
    "rank",
    "train_mlp",
    "train_attn",
    "train_unembed",
    "weight_decay",
    "grad_clip_norm",
)


@dataclass(frozen=True)
class TinkerSettings(TrainingSettings):
    """What ``train_kwargs`` may hold at Tinker.

    Attributes:
        n_epochs: How often each row is trained on.
        batch_size: Rows a step.
        learning_rate, lr_schedule: Of Adam; ``linear`` lets it fall to 0, ``constant`` keeps it.
        rank, train_mlp, train_attn, train_unembed: Of the LoRA.
        weight_decay, grad_clip_norm: Of Adam; 0 is none.
        save_every: After so many steps the state is saved: a session that is killed pays for fewer than these again.
    """

    n_epochs: int | str = 3
    batch_size: int = 8
    learning_rate: float = 2e-4
    lr_schedule: str = "linear"
    rank: int = 32
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0
    save_every: int = 10

    def check(self) -> None:
        """Check what each setting holds.

        Raises:
            TrainingError: Naming the one that is out of range.
        """
        super().check()
        for name in ("n_epochs", "batch_size", "rank", "save_every", "learning_rate"):
            value, whole = getattr(self, name), name != "learning_rate"
            if not is_number(value, whole=whole) or value <= 0:
                raise TrainingError(f"{name}={value!r}: must be a {'whole ' if whole else ''}number above 0")
        for name in ("weight_decay", "grad_clip_norm"):
            if not is_number(getattr(self, name)) or getattr(self, name) < 0:
                raise TrainingError(f"{name}={getattr(self, name)!r}: must be a number from 0")
        for name in ("train_mlp", "train_attn", "train_unembed"):
            if not isinstance(getattr(self, name), bool):
                raise TrainingError(f"{name}={getattr(self, name)!r}: must be True or False")
        if not (self.train_mlp or self.train_attn or self.train_unembed):
            raise TrainingError("train_mlp, train_attn and train_unembed are all False: nothing would be trained")
        if self.lr_schedule not in ("linear", "constant"):
            raise TrainingError(f"lr_schedule={self.lr_schedule!r}: must be 'linear' or 'constant'")

    @property
    def hyperparameters(self) -> Mapping[str, Any]:  # type: ignore[override]
        """All that the trained weights depend on."""
        return {name: getattr(self, name) for name in _HYPERPARAMETERS}

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, the first of which is 0."""
        return self.learning_rate * (1 - step / steps if self.lr_schedule == "linear" else 1.0)
