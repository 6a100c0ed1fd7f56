"""A fine-tuning service, request by request: each one patient, each reply looked at before it is believed.

This is the only place that makes requests with the vendor's client, and that knows how its jobs and events look.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openai

from pytest_dspy_ft.files import LONE_SURROGATES
from pytest_dspy_ft.finetune.hosted.failures import UnreadableReplyError
from pytest_dspy_ft.finetune.hosted.job_request import JobRequest
from pytest_dspy_ft.finetune.hosted.retries import RetryingCaller
from pytest_dspy_ft.finetune.rows import ChatRow

if TYPE_CHECKING:
    from openai.types.fine_tuning import FineTuningJob

LISTS_NONE = (404, 405, 501)
LISTED = 1000
"""So many of the newest jobs are looked through where a service does not filter them itself."""


@dataclass(frozen=True)
class JobProgress:
    """Where a job is."""

    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    validation_loss: float | None = None
    note: str = ""
    """The service's word for it."""


class FineTuningApi:
    """The part of the API that training needs.

    Args:
        client: Whose requests are made.
        call: Makes them with patience.
    """

    def __init__(self, client: openai.OpenAI, call: RetryingCaller) -> None:
        self._client = client
        self.call = call

    def upload(self, name: str, rows: Sequence[ChatRow]) -> str:
        """Upload rows, one JSON object a line, and return the file's id."""
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", LONE_SURROGATES)

        def request() -> str:
            return str(_identified(self._client.files.create(file=(name, content), purpose="fine-tune")).id)

        return self.call(f"uploading {name}", request)

    def file_status(self, file: str) -> str:
        """The status of a file, in the service's words."""
        return self.call(f"asking for file {file}", lambda: str(_identified(self._client.files.retrieve(file)).status))

    def delete_file(self, file: str) -> None:
        """Delete a file; one that is gone already is fine."""

        def request() -> None:
            try:
                self._client.files.delete(file)
            except openai.NotFoundError:
                return

        self.call(f"withdrawing file {file}", request)

    def start(
        self, request: JobRequest, generation: int, training_file: str, validation_file: str | None
    ) -> FineTuningJob:
        """Ask for a job, once: to ask again needs thought (see :mod:`~pytest_dspy_ft.finetune.hosted.job_runner`)."""
        method: Any = {"type": "supervised", "supervised": {"hyperparameters": request.settings.hyperparameters}}
        more: dict[str, Any] = {} if validation_file is None else {"validation_file": validation_file}
        return _job(
            self._client.fine_tuning.jobs.create(
                model=request.model,
                training_file=training_file,
                method=method,
                seed=request.seed,
                suffix=request.suffix,
                metadata=request.metadata(generation),
                # Services that know it carry the same request out once, whoever repeats it.
                extra_headers={"Idempotency-Key": f"dspy-ft-{request.key}-{generation}-{training_file}"},
                **more,
            )
        )

    def job(self, job: str) -> FineTuningJob:
        """How a job is."""
        return self.call(f"asking for job {job}", lambda: _job(self._client.fine_tuning.jobs.retrieve(job)))

    def cancel(self, job: str) -> None:
        """Cancel a job; one that is over already stays what it is."""

        def request() -> None:
            try:
                self._client.fine_tuning.jobs.cancel(job)
            except (openai.BadRequestError, openai.ConflictError, openai.NotFoundError):
                return

        self.call(f"cancelling job {job}", request)

    def progress(self, job: str) -> JobProgress | None:
        """The newest step that a job tells of, if any; without patience, since nothing depends on it."""
        try:
            events = self._client.fine_tuning.jobs.list_events(job, limit=20).data  # newest first
            for event in events:
                data = getattr(event, "data", None)
                if isinstance(data, dict) and isinstance(data.get("step"), int):
                    total = _number(data.get("total_steps"))
                    return JobProgress(
                        step=data["step"],
                        total_steps=total if isinstance(total, int) else None,
                        loss=_number(data.get("train_loss")),
                        validation_loss=_number(data.get("valid_loss", data.get("full_valid_loss"))),
                    )
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            pass
        return None

    def find(self, request_key: str, files: Iterable[str] = ()) -> list[FineTuningJob] | None:
        """The jobs of a request, by what they are marked with or the file they train on, oldest first.

        None where the service lists no jobs.
        """
        wanted = set(files)

        def request() -> list[FineTuningJob] | None:
            try:
                found = self._listed({"dspy_ft_job": request_key})
            except openai.APIStatusError as error:
                if error.status_code in LISTS_NONE:
                    return None
                raise
            matching = [j for j in found if (j.metadata or {}).get("dspy_ft_job") == request_key]
            if not matching and wanted:  # a service that keeps no marks
                matching = [job for job in self._listed(None) if file_of(job) in wanted]
            return sorted(matching, key=lambda job: (getattr(job, "created_at", None) or 0, job.id))

        return self.call("looking for jobs started before", request)

    def _listed(self, metadata: dict[str, str] | None) -> list[FineTuningJob]:
        query: dict[str, Any] = {} if metadata is None else {"metadata": metadata}
        try:
            pages: Any = self._client.fine_tuning.jobs.list(limit=100, extra_query=query)
            if not isinstance(getattr(pages, "data", None), list):
                raise UnreadableReplyError("no list of jobs")
            return [_job(job) for job in itertools.islice(pages, LISTED)]
        except openai.BadRequestError:
            if metadata is None:
                raise
            return self._listed(None)  # a service that does not know the filter

    def answers(self, model: str) -> bool:
        """True where a model can be asked; False where no deployment of that name exists."""

        def request() -> bool:
            try:
                self._client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=1
                )
            except openai.NotFoundError:
                return False
            return True

        return self.call(f"asking {model} for a word", request)


def file_of(job: FineTuningJob) -> str | None:
    """The training file of a job, where the service tells it."""
    return getattr(job, "training_file", None)


def generation_of(job: FineTuningJob) -> int:
    """Which of the jobs with the same rows this is; 0 where the service kept no marks."""
    try:
        return int((job.metadata or {}).get("dspy_ft_generation", "0"))
    except ValueError:
        return 0


def failure_reason(job: FineTuningJob) -> str:
    """Why a job failed, as the service says it, on one line; empty where it does not."""
    message, code, param = (getattr(job.error, name, None) for name in ("message", "code", "param"))
    parts = [" ".join(str(message).split()) if message else ""]
    parts += [f"{name} {value}" for name, value in (("code", code), ("param", param)) if value]
    return ", ".join(filter(None, parts))


def _identified(reply: Any) -> Any:
    """A reply that holds the one thing every object of this API has."""
    if not isinstance(getattr(reply, "id", None), str) or not reply.id:
        raise UnreadableReplyError(f"no id in it: {str(reply)[:200]!r}")
    return reply


def _job(reply: Any) -> FineTuningJob:
    job: FineTuningJob = _identified(reply)
    if not isinstance(job.status, str):
        raise UnreadableReplyError(f"job {job.id} without a status")
    return job


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
