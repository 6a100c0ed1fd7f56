"""Crusoe's serverless fine-tuning as a training service: OpenAI's API, LoRA checkpoints that are loaded to be asked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import openai

from pytest_dspy_ft.errors import HostedError
from pytest_dspy_ft.finetune.hosted.job_request import JobRequest
from pytest_dspy_ft.finetune.hosted.openai_api.dialects import Dialect, DialectService, DialectSettings
from pytest_dspy_ft.finetune.hosted.port import Deployment, NotServedYet, RemoteJob, Served

ANY = float("inf")
CLOUD_ADDRESS = "https://api.crusoecloud.com"
"""Where adapters are loaded; CRUSOE_CLOUD_HOST says otherwise."""
ASKED_AT = "https://api.inference.crusoecloud.com/v1"
PROJECT, DEPLOYMENT = "CRUSOE_PROJECT_ID", "CRUSOE_DEPLOYMENT"
"""Environment variables; no training settings, since they change nothing of what is trained."""


@dataclass(frozen=True)
class CrusoeSettings(DialectSettings):
    """What ``train_kwargs`` may hold at Crusoe; ``"auto"`` leaves a setting to the service.

    Attributes:
        batch_size, learning_rate, learning_rate_multiplier, lr_scheduler, warmup_ratio, weight_decay: Crusoe's.
        lora_variant, lora_rank, lora_alpha, lora_dropout: Crusoe's.
        overlong_row_behavior: ``error`` or ``drop``, for rows that are longer than the model is trained on.
    """

    RANGES: ClassVar = {
        "batch_size": (1, ANY),
        "learning_rate": (0.0, ANY),
        "learning_rate_multiplier": (0.0, ANY),
        "lr_scheduler": ("cosine", "constant", "constant_with_warmup", "linear"),
        "warmup_ratio": (0.0, 1.0),
        "weight_decay": (0.0, ANY),
        "lora_variant": ("lora", "rslora"),
        "lora_rank": (2, 256),
        "lora_alpha": (1, 512),
        "lora_dropout": (0.0, 1.0),
        "overlong_row_behavior": ("error", "drop"),
    }
    batch_size: int | str = "auto"
    learning_rate: float | str = "auto"
    learning_rate_multiplier: float | str = "auto"
    lr_scheduler: str = "auto"
    warmup_ratio: float | str = "auto"
    weight_decay: float | str = "auto"
    lora_variant: str = "auto"
    lora_rank: int | str = "auto"
    lora_alpha: int | str = "auto"
    lora_dropout: float | str = "auto"
    overlong_row_behavior: str = "auto"


class CrusoeService(DialectService):
    """Fine-tuning at Crusoe; a loaded adapter is dropped after a while, so it is loaded when it is called."""

    name = "crusoe"
    by_the_hour = True
    dialect = Dialect("Crusoe", "https://api.intelligence.crusoecloud.com/v1", ("CRUSOE_API_KEY",))
    settings_class = CrusoeSettings

    def estimate(self, order: JobRequest) -> float | None:
        """What Crusoe says that the job will cost; it is asked with the rows themselves, which are then deleted."""
        file = self.upload(order.file_name(1, "price"), order.rows)
        body = self.arguments(order, order.metadata(1), (file,))
        try:
            told: Any = self.fetch("/fine_tuning/jobs/estimate_price", body)
        except openai.APIStatusError as error:
            if error.status_code not in (400, 404, 405, 422, 501):
                raise
            told = {}
        with contextlib.suppress(openai.OpenAIError):
            self.withdraw(file)
        prices = [v for k, v in told.items() if "price" in k or "cost" in k] if isinstance(told, dict) else []
        with contextlib.suppress(ValueError, TypeError, IndexError):
            return float(prices[0])
        return None

    def checkpoint_name(self, job: str, checkpoint: Mapping[str, Any]) -> str | None:
        """Its id as a model (``ftmodel-...``)."""
        found = checkpoint.get("fine_tuned_model_id") or checkpoint.get("fine_tuned_model_checkpoint")
        return str(found) if found else None

    def serve(self, job: RemoteJob, deployment: Deployment) -> Served:
        """The checkpoint as an adapter that is loaded in the project, or a deployment that somebody made of it."""
        made, project = os.environ.get(DEPLOYMENT), os.environ.get(PROJECT)
        if not made and not project:
            raise NotServedYet(
                f"Crusoe answers for it once it is loaded as an adapter: set {PROJECT}; or deploy checkpoint "
                f"{job.model} in its console and set {DEPLOYMENT} to the name; or download it and serve it "
                "yourself (--dspy-serve)",
                patience=0.0,
            )
        if not made:
            self._load(str(job.model), str(project))
        name, place = str(made or job.model), ASKED_AT if self.access.address == self.dialect.address else self.address
        if not self._answers_at(place, name):
            raise NotServedYet(f"{place} does not answer for {name} yet")
        key = {"api_key_variable": self.access.key_source} if self.access.key_source in os.environ else {}
        return Served(f"openai/{name}", {"api_base": place, **key})

    def release(self, served: Served) -> bool:
        """Nothing: a loaded adapter costs nothing while nobody asks it, and another session may be asking it."""
        return True

    def _load(self, model: str, project: str) -> None:
        """Have an adapter loaded; it costs nothing while nobody asks it, and is dropped by Crusoe after a while.

        Raises:
            NotServedYet: It is being loaded.
            HostedError: It cannot be.
        """
        at_crusoe = self.access.address == self.dialect.address
        cloud = os.environ.get("CRUSOE_CLOUD_HOST") or (CLOUD_ADDRESS if at_crusoe else self.root())
        adapters = f"{cloud.rstrip('/')}/v1/projects/{project}/foundry/loras"
        reply: Any = self.fetch(adapters)
        listed = reply if isinstance(reply, list) else (reply or {}).get("lora_adapters") or []
        shown: Any = next((item for item in listed if item.get("model_id") == model), None)
        if shown is None:
            shown = self.fetch(adapters, {"model_id": model})
        status = str(shown.get("status") or "pending").lower()
        if status in ("failed", "error"):
            raise HostedError(f"Crusoe cannot load {model}: {shown.get('last_error') or 'it gives no reason'}")
        if status != "ready":
            raise NotServedYet(f"Crusoe is loading {model} ({status})")

    def _answers_at(self, address: str, model: str) -> bool:
        """True where a model can be asked at an address."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        try:
            self.fetch(f"{address}/chat/completions", body)
        except openai.NotFoundError:
            return False
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            return True  # it is there, and wants to be asked otherwise
        return True
