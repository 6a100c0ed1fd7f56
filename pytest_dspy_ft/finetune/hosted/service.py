"""A fine-tuning service, request by request: each one patient, each reply looked at before it is believed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import openai

from pytest_dspy_ft.finetune.hosted.orders import Order, as_file
from pytest_dspy_ft.finetune.hosted.retries import Caller, UnreadableReplyError

if TYPE_CHECKING:
    from openai.types.fine_tuning import FineTuningJob

LISTS_NONE = (404, 405, 501)
LISTED = 1000
"""So many of the newest jobs are looked through where a service does not filter them itself."""


class Service:
    """The part of the API that training needs.

    Args:
        client: Whose requests are made.
        call: Makes them with patience.
    """

    def __init__(self, client: openai.OpenAI, call: Caller) -> None:
        self._client = client
        self.call = call

    def upload(self, name: str, rows: Sequence[Any]) -> str:
        """Upload rows and return the file's id."""
        content = as_file(rows)

        def request() -> str:
            return str(_identified(self._client.files.create(file=(name, content), purpose="fine-tune")).id)

        return self.call(f"uploading {name}", request)

    def file_status(self, file: str) -> str:
        """What the service says of a file."""
        return self.call(f"asking for file {file}", lambda: str(_identified(self._client.files.retrieve(file)).status))

    def delete_file(self, file: str) -> None:
        """Delete a file; one that is gone already is fine."""

        def request() -> None:
            try:
                self._client.files.delete(file)
            except openai.NotFoundError:
                return

        self.call(f"withdrawing file {file}", request)

    def start(self, order: Order, generation: int, training_file: str, validation_file: str | None) -> FineTuningJob:
        """Ask for a job, once: whether to ask again needs thought (see :mod:`pytest_dspy_ft.hosted.ordering`)."""
        method: Any = {"type": "supervised", "supervised": {"hyperparameters": order.settings.hyperparameters}}
        more: dict[str, Any] = {} if validation_file is None else {"validation_file": validation_file}
        return _job(
            self._client.fine_tuning.jobs.create(
                model=order.model,
                training_file=training_file,
                method=method,
                seed=order.seed,
                suffix=order.suffix,
                metadata=order.metadata(generation),
                # Services that know it carry the same request out once, whoever repeats it.
                extra_headers={"Idempotency-Key": f"dspy-ft-{order.key}-{generation}-{training_file}"},
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

    def events(self, job: str, limit: int = 20) -> list[Any]:
        """The newest events of a job, newest first; without patience, since nothing depends on them."""
        try:
            page = self._client.fine_tuning.jobs.list_events(job, limit=limit)
            return [event for event in page.data if event is not None]
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            return []

    def find(self, order_key: str, files: Iterable[str] = ()) -> list[FineTuningJob] | None:
        """The jobs of an order, by what they are marked with or the file they train on, oldest first.

        None where the service lists no jobs.
        """
        wanted = set(files)

        def request() -> list[FineTuningJob] | None:
            try:
                found = self._listed({"dspy_ft_job": order_key})
            except openai.APIStatusError as error:
                if error.status_code in LISTS_NONE:
                    return None
                raise
            matching = [j for j in found if (j.metadata or {}).get("dspy_ft_job") == order_key]
            if not matching and wanted:  # a service that keeps no marks
                matching = [job for job in self._listed(None) if file_of(job) in wanted]
            return sorted(matching, key=lambda job: (getattr(job, "created_at", None) or 0, job.id))

        return self.call("looking for jobs started before", request)

    def _listed(self, metadata: dict[str, str] | None) -> list[FineTuningJob]:
        query: dict[str, Any] = {} if metadata is None else {"metadata": metadata}
        try:
            pages = self._client.fine_tuning.jobs.list(limit=100, extra_query=query)
            return [_job(job) for job in itertools.islice(_readable(pages), LISTED)]
        except openai.BadRequestError:
            if metadata is None:
                raise
            return self._listed(None)  # a service that does not know the filter

    def answers(self, model: str) -> bool:
        """Whether a model can be asked: False where no deployment of that name exists."""

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


def _readable(pages: Any) -> Any:
    if not isinstance(getattr(pages, "data", None), list):
        raise UnreadableReplyError("no list of jobs")
    return iter(pages)


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
