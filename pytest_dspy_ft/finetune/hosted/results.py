"""What a training elsewhere gave: the LM that answers with it, kept with a build and made again from there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.finetune.hosted.port import Deployment, RemoteJob, Served, TrainingService

if TYPE_CHECKING:
    from pytest_dspy_ft.finetune.hosted.endpoints import Endpoints
    from pytest_dspy_ft.finetune.hosted.job_runner import JobRunner

KEY_VARIABLE = "api_key_variable"
"""Among a result's settings: the environment variable that holds the key of the place where it answers."""


@dataclass(frozen=True)
class TrainedResult:
    """How a trained model answers."""

    model: str
    """DSPy's name for it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Those of the LM which differ from the one that was trained."""
    endpoint: Mapping[str, Any] | None = None
    """What is started when it is called, and released after that, where a service bills by the hour."""

    @property
    def kept(self) -> dict[str, Any]:
        """What is kept of it with the build, beside the model's name; empty where that tells it all."""
        found = {"settings": dict(self.settings), "endpoint": self.endpoint and dict(self.endpoint)}
        return {name: value for name, value in found.items() if value}


def endpoint_name(request_key: str) -> str:
    """The name, chosen by us, of what makes a request's result callable."""
    return f"dspy-ft-{request_key[:24]}"


def trained_result(
    service: TrainingService, job: RemoteJob, deployment: Deployment, runner: JobRunner
) -> TrainedResult:
    """How the model of a job that has succeeded answers: at once, or once it is called.

    Raises:
        JobPendingError: It does not answer yet, and something has to be done for it, or time has to pass.
    """
    if not service.by_the_hour:
        served = runner.served(job, deployment)
        return TrainedResult(served.model, served.settings)
    return TrainedResult(
        f"{service.name}/{job.model}",
        endpoint={
            "service": service.name,
            "address": service.address,
            "job": job.id,
            "model": str(job.model),
            "name": deployment.name,
            "settings": dict(deployment.settings),
        },
    )


def result_lm(lm: Any, model: str, kept: Mapping[str, Any], endpoints: Endpoints | None) -> Any:
    """The LM that answers with a trained model.

    Args:
        lm: The LM that was trained.
        model: DSPy's name of the model.
        kept: From :attr:`TrainedResult.kept`.
        endpoints: Starts what is started when the model is called.
    """
    if kept.get("endpoint"):
        from pytest_dspy_ft.finetune.hosted.endpoints import EndpointEngine

        engine = EndpointEngine(lm, kept["endpoint"], endpoints)
        return lm.copy(model=model, engine=engine, **dict.fromkeys(CLIENT_SETTINGS))
    return lm.copy(model=model, **with_key(kept.get("settings", {})))


CLIENT_SETTINGS = ("api_key", "api_base", "base_url", "api_version", "timeout", "organization", "headers")
"""Settings of an LM that its engine has, where it has one of its own."""


def with_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A result's settings with the key that they only name."""
    found = dict(settings)
    if (variable := found.pop(KEY_VARIABLE, None)) is not None:
        found["api_key"] = os.environ.get(variable)
    return found


def opened(served: Served) -> dict[str, Any]:
    """The settings of an LM that asks what is served."""
    return {"model": served.model, **with_key(served.settings)}
