"""How a model is trained over OpenAI's API: what ``train_kwargs`` may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_dspy_ft.finetune.hosted.job_request import TrainingSettings

HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")


@dataclass(frozen=True)
class OpenAISettings(TrainingSettings):
    """How a model is trained at OpenAI, on Azure and at compatible servers.

    Attributes:
        n_epochs, batch_size, learning_rate_multiplier: The API's; ``"auto"`` (the default) leaves them to the service.
        deployment: Azure only: the name under which the model will be deployed; default: the model's own name.
    """

    batch_size: int | str = "auto"
    learning_rate_multiplier: float | str = "auto"
    deployment: str | None = None

    def check(self) -> None:
        """Check what each setting holds."""
        self.check_numbers(*HYPERPARAMETERS, fractions=("learning_rate_multiplier",))
        super().check()

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Those that were set; the others are the service's choice."""
        return {name: value for name in HYPERPARAMETERS if (value := getattr(self, name)) != "auto"}

    @property
    def deployment_settings(self) -> Mapping[str, Any]:
        """Under which name the result answers."""
        return {} if self.deployment is None else {"deployment": self.deployment}
