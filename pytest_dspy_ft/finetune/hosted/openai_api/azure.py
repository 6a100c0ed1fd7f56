"""Azure's fine-tuning as a training service: OpenAI's API, files that are checked first, results to be deployed."""

from __future__ import annotations

from typing import Any

import openai

from pytest_dspy_ft.finetune.hosted.openai_api.service import OpenAIService
from pytest_dspy_ft.finetune.hosted.port import Deployment, NotServedYet, RemoteJob, Served


class AzureService(OpenAIService):
    """Fine-tuning on Azure; it starts no job from a file that it has not looked at."""

    name = "azure"
    awaits_files = True

    def how_to_cancel(self, job: str) -> str:  # noqa: D102 - as the port says
        path = f"/openai/fine_tuning/jobs/{job}/cancel?api-version=2024-10-21"
        return f'curl -X POST -H "api-key: $AZURE_API_KEY" {self.address}{path}'

    def serve(self, job: RemoteJob, deployment: Deployment) -> Served:
        """The model under the name that somebody deployed it as."""
        name: Any = deployment.settings.get("deployment") or job.model
        try:
            self.ask(name)
        except openai.NotFoundError:
            raise NotServedYet(
                f"Azure answers for it once it is deployed under the name {name!r} "
                "(or another, given as train_kwargs={'deployment': ...}): "
                f"az cognitiveservices account deployment create --deployment-name {name} --model-name {job.model} ...",
                patience=0.0,
            ) from None
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            pass  # it is there, and wants to be asked otherwise
        return Served(f"azure/{name}")
