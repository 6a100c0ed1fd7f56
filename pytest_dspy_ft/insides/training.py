"""Training as DSPy's providers do it: formats, states, folders, and its own provider for OpenAI."""

from __future__ import annotations

from pytest_dspy_ft.insides.needs import needed

with needed("to train LMs"):
    from dspy.clients.provider import Provider, TrainingJob
    from dspy.clients.utils_finetune import TrainDataFormat, TrainingStatus, get_finetune_directory

with needed("to train at a hosted service"):
    from dspy.clients.openai import OpenAIProvider

__all__ = [
    "OpenAIProvider",
    "Provider",
    "TrainDataFormat",
    "TrainingJob",
    "TrainingStatus",
    "get_finetune_directory",
]
