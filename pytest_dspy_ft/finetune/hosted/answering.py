"""The LM that answers with a model trained elsewhere: at once, or once its endpoint is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_dspy_ft.finetune.hosted.endpoints import EndpointEngine, Endpoints
from pytest_dspy_ft.finetune.hosted.results import with_key

CLIENT_SETTINGS = ("api_key", "api_base", "base_url", "api_version", "timeout", "organization", "headers")
"""Settings of an LM that its engine has, where it has one of its own."""


def result_lm(lm: Any, model: str, kept: Mapping[str, Any], endpoints: Endpoints | None) -> Any:
    """The LM that answers with a trained model.

    Args:
        lm: The LM that was trained.
        model: DSPy's name of the model.
        kept: From :attr:`TrainedResult.kept`.
        endpoints: Starts what is started when the model is called.
    """
    if kept.get("endpoint"):
        engine = EndpointEngine(lm, kept["endpoint"], endpoints)
        return lm.copy(model=model, engine=engine, **dict.fromkeys(CLIENT_SETTINGS))
    return lm.copy(model=model, **with_key(kept.get("settings", {})))
