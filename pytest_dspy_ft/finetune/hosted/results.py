"""What a training elsewhere gave: how its model answers, as it is kept with a build."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_dspy_ft.finetune.hosted.port import Served

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


def with_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A result's settings with the key that they only name."""
    found = dict(settings)
    if (variable := found.pop(KEY_VARIABLE, None)) is not None:
        found["api_key"] = os.environ.get(variable)
    return found


def opened(served: Served) -> dict[str, Any]:
    """The settings of an LM that asks what is served."""
    return {"model": served.model, **with_key(served.settings)}
