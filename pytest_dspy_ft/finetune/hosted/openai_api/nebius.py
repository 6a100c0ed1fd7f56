"""Nebius Token Factory as a training service: a checkpoint becomes a model of one's own, asked by the token."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pytest_dspy_ft.errors import HostedError
from pytest_dspy_ft.finetune.hosted.job_request import JobRequest
from pytest_dspy_ft.finetune.hosted.openai_api.dialects import Dialect, DialectService, DialectSettings
from pytest_dspy_ft.finetune.hosted.openai_api.replies import read_list
from pytest_dspy_ft.finetune.hosted.port import Deployment, NotServedYet, RemoteJob, Served

ANY = float("inf")


@dataclass(frozen=True)
class NebiusSettings(DialectSettings):
    """What ``train_kwargs`` may hold at Nebius; ``"auto"`` leaves a setting to the service.

    Attributes:
        batch_size, learning_rate, warmup_ratio, weight_decay, max_grad_norm, packing, context_length: Nebius'.
        lora, lora_r, lora_alpha, lora_dropout: Nebius'; without LoRA a model has to be deployed by hand.
    """

    RANGES: ClassVar = {
        "batch_size": (1, ANY),
        "learning_rate": (0.0, ANY),
        "warmup_ratio": (0.0, 1.0),
        "weight_decay": (0.0, ANY),
        "max_grad_norm": (0.0, ANY),
        "packing": bool,
        "context_length": (1, ANY),
        "lora": bool,
        "lora_r": (1, ANY),
        "lora_alpha": (1, ANY),
        "lora_dropout": (0.0, 1.0),
    }
    batch_size: int | str = "auto"
    learning_rate: float | str = "auto"
    warmup_ratio: float | str = "auto"
    weight_decay: float | str = "auto"
    max_grad_norm: float | str = "auto"
    packing: bool | str = "auto"
    context_length: int | str = "auto"
    lora: bool | str = True
    lora_r: int | str = "auto"
    lora_alpha: int | str = "auto"
    lora_dropout: float | str = "auto"


class NebiusService(DialectService):
    """Fine-tuning at Nebius Token Factory."""

    name = "nebius"
    dialect = Dialect(
        "Nebius Token Factory", "https://api.tokenfactory.nebius.com/v1", ("NEBIUS_API_KEY",), prefix="nebius/"
    )
    settings_class = NebiusSettings

    def arguments(self, order: JobRequest, marks: Mapping[str, str], files: tuple[str, ...]) -> dict[str, Any]:
        """What a job is started with: the hyperparameters stand at the top, without a method."""
        asked = super().arguments(order, marks, files)
        asked.pop("method", None)
        return {**asked, "hyperparameters": order.settings.hyperparameters}

    def checkpoint_name(self, job: str, checkpoint: Mapping[str, Any]) -> str | None:
        """``job:checkpoint``, as Nebius' models take it for their source."""
        return f"{job}:{checkpoint['id']}" if checkpoint.get("id") else None

    def serve(self, job: RemoteJob, deployment: Deployment) -> Served:
        """Register the checkpoint under our name, or find it registered, until Nebius has looked at it."""
        models = f"{self.root()}/v0/models"
        listed = read_list(self.fetch(models))[0]
        mine = [m for m in listed if isinstance(m, dict) and deployment.name in str(m.get("name"))]
        shown: Any = next((m for m in mine if m.get("status") != "deleted"), None)
        if shown is None:
            order = {"source": job.model, "base_model": self._model, "name": deployment.name}
            shown = self.fetch(models, order)
        status, name = (str(shown.get(part) or "") if isinstance(shown, dict) else "" for part in ("status", "name"))
        if status == "error":
            raise HostedError(
                f"Nebius cannot serve {job.model}: {shown.get('status_reason') or 'it gives no reason'}; the "
                "checkpoint is kept there"
            )
        if status != "active" or not name:
            raise NotServedYet(f"Nebius is {status or 'not done'} with {deployment.name}")
        key = {"api_key_variable": self.access.key_source} if self.access.key_source in os.environ else {}
        return Served(f"openai/{name}", {"api_base": self.address, **key})
