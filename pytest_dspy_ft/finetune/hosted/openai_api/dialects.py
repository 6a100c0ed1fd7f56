"""OpenAI's API as others speak it: their own keys and addresses, their own settings, results in checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import openai

from pytest_dspy_ft.errors import LMError, TrainingError
from pytest_dspy_ft.finetune.hosted.job_request import TrainingSettings
from pytest_dspy_ft.finetune.hosted.openai_api.replies import read_list
from pytest_dspy_ft.finetune.hosted.openai_api.service import OpenAIService
from pytest_dspy_ft.finetune.hosted.port import RemoteJob, UnreadableReplyError

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class Dialect:
    """Where a service that speaks OpenAI's API is, and what holds its key.

    Attributes:
        title: Its name for people.
        address: Where it is asked, unless the LM says otherwise.
        keys: Environment variables of its key, the first that is set counts; OPENAI_API_KEY after them.
        prefix: How names of its LMs begin, beside ``openai/``.
    """

    title: str
    address: str
    keys: tuple[str, ...]
    prefix: str = "openai/"


@dataclass(frozen=True)
class DialectSettings(TrainingSettings):
    """Settings whose names and ranges a table says; ``"auto"`` leaves one to the service."""

    RANGES: ClassVar[Mapping[str, tuple[float, float] | tuple[str, ...] | type[bool]]] = {}
    """By name: least and most (whole where both are), the words it may be, or that it is yes or no."""

    def check(self) -> None:
        """Check what each setting holds.

        Raises:
            TrainingError: Naming the one that is out of range.
        """
        super().check()
        for name, allowed in self.RANGES.items():
            if (value := getattr(self, name)) != "auto" and (problem := _out_of_range(value, allowed)):
                raise TrainingError(f"{name}={value!r}: must be 'auto' or {problem}")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Those that were set; the others are the service's choice."""
        return {name: value for name in ("n_epochs", *self.RANGES) if (value := getattr(self, name)) != "auto"}


def _out_of_range(value: Any, allowed: Any) -> str:
    """What a setting must be, where it is not; empty where it is."""
    if allowed is bool:
        return "" if isinstance(value, bool) else "True or False"
    if isinstance(allowed[0], str):
        return "" if value in allowed else f"one of {', '.join(allowed)}"
    whole = isinstance(allowed[0], int)
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if right and allowed[0] <= value <= allowed[1]:
        return ""
    most = "" if allowed[1] == float("inf") else f" to {allowed[1]}"
    return f"a {'whole ' if whole else ''}number from {allowed[0]}{most}"


class DialectService(OpenAIService):
    """Fine-tuning at a service that speaks OpenAI's API in its own way; each kind says its dialect.

    Args:
        lm: The LM to train.
        http_client: Connections to use instead of the client's own.
    """

    dialect: ClassVar[Dialect]
    settings_class: ClassVar[type[TrainingSettings]] = TrainingSettings

    def __init__(self, lm: Any, http_client: httpx.Client | None = None) -> None:
        dialect, settings = self.dialect, dict(getattr(lm, "kwargs", {}))
        base = settings.get("api_base") or settings.get("base_url")
        if base is None and str(lm.model).startswith("openai/"):
            base = os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
        source = "api_key of the LM"
        if not settings.get("api_key"):
            names = (*dialect.keys, "OPENAI_API_KEY")
            source = next((name for name in names if os.environ.get(name)), names[0])
            settings["api_key"] = os.environ.get(source)
        model = self.model_name(str(lm.model))
        same = SimpleNamespace(model=f"openai/{model}", kwargs={**settings, "api_base": base or dialect.address})
        super().__init__(same, http_client)
        self.access = dataclasses.replace(self.access, key_source=source)
        self._has_key, self._model = bool(settings["api_key"]), model

    def require_key(self) -> None:
        """Check that there is a key.

        Raises:
            LMError: Naming the variable to set.
        """
        if not self._has_key:
            raise LMError(
                f"no key for {self.address}: set the environment variable {self.dialect.keys[0]}, or give the LM "
                "api_key=..."
            )

    def settings(self, train_kwargs: Mapping[str, Any]) -> Any:
        """The settings that ``train_kwargs`` describe."""
        return self.settings_class.from_kwargs(train_kwargs)

    def model_name(self, model: str) -> str:
        """What the service calls a model."""
        return model.removeprefix("openai/").removeprefix(self.dialect.prefix)

    def root(self) -> str:
        """The address without the version of OpenAI's API."""
        return self.address.removesuffix("/v1")

    def fetch(self, address: str, body: Any = None) -> Any:
        """The content of the reply to a request that OpenAI's own API does not have.

        Args:
            address: Whole, or below that of the API.
            body: What is posted, as JSON; None: it is only asked for.

        Raises:
            UnreadableReplyError: It is no JSON.
        """
        client = self.client
        reply: Any = (
            client.get(address, cast_to=object) if body is None else client.post(address, body=body, cast_to=object)
        )
        if not isinstance(reply, str):
            return reply
        try:
            return json.loads(reply)  # the client reads only what says that it is JSON
        except ValueError as error:
            raise UnreadableReplyError(f"it is no JSON: {error}") from None

    def newest_checkpoint(self, job: str) -> Mapping[str, Any] | None:
        """The last checkpoint of a job; None where it has none yet."""
        try:
            reply = self.fetch(f"/fine_tuning/jobs/{job}/checkpoints")
        except openai.NotFoundError:
            return None
        found = [item for item in read_list(reply)[0] if isinstance(item, dict)]
        return max(found, key=lambda item: item.get("step_number") or 0, default=None)

    def with_checkpoint(self, job: RemoteJob | None) -> RemoteJob | None:
        """A job that has succeeded, its model being what :meth:`checkpoint_name` says of its last checkpoint."""
        if job is None or job.state != "succeeded":
            return job
        newest = self.newest_checkpoint(job.id)
        return dataclasses.replace(job, model=None if newest is None else self.checkpoint_name(job.id, newest))

    def checkpoint_name(self, job: str, checkpoint: Mapping[str, Any]) -> str | None:
        """What the service calls a checkpoint where it is to be made callable."""
        raise NotImplementedError

    def job(self, job: str) -> RemoteJob | None:
        """How a job is; what came out is in its checkpoints."""
        return self.with_checkpoint(super().job(job))

    def how_to_cancel(self, job: str) -> str:
        """A command that cancels a job."""
        return super().how_to_cancel(job).replace("OPENAI_API_KEY", self.dialect.keys[0])
