"""OpenAI's fine-tuning API as a training service: at OpenAI itself, and at whatever server speaks the same."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import openai

from pytest_dspy_ft.files import LONE_SURROGATES
from pytest_dspy_ft.finetune.hosted.job_request import JobRequest, generation_of_file
from pytest_dspy_ft.finetune.hosted.openai_api import failures
from pytest_dspy_ft.finetune.hosted.openai_api.access import Access, access_of, bare_model
from pytest_dspy_ft.finetune.hosted.openai_api.lifetimes import known_limits, with_dates_of
from pytest_dspy_ft.finetune.hosted.openai_api.replies import identified, read_job, read_json, read_list, read_progress
from pytest_dspy_ft.finetune.hosted.openai_api.settings import OpenAISettings
from pytest_dspy_ft.finetune.hosted.port import (
    GENERATION_MARK,
    JOB_MARK,
    Deployment,
    FailureMeaning,
    FileNotReady,
    FileState,
    JobProgress,
    NotServedYet,
    RemoteJob,
    Served,
    ServiceLimits,
    TrainingService,
    UnreadableReplyError,
)
from pytest_dspy_ft.finetune.rows import ChatRow

if TYPE_CHECKING:
    import httpx

LISTS_NONE = (404, 405, 501)
LISTED = 1000
"""So many of the newest jobs are looked through where a service does not filter them itself."""
NULL_LISTS = 3
"""A service that says ``null`` so often, one time after the other, means that it has none."""
_FILE_STATES: Mapping[str, FileState] = {
    "processed": "ready",
    "ready": "ready",
    "error": "refused",
    "failed": "refused",
    "deleted": "gone",
}


class OpenAIService(TrainingService):
    """Fine-tuning over OpenAI's API.

    Args:
        lm: The LM to train: its key, address and timeout count.
        http_client: Connections to use instead of the client's own; they are left open.

    Raises:
        LMError: If the LM has no address.
    """

    name = "openai"
    may_be_left_out: ClassVar[tuple[str, ...]] = ("method", "metadata", "seed", "suffix")
    """Arguments of a start that a service of before, or of less, may not know."""

    def __init__(self, lm: Any, http_client: httpx.Client | None = None) -> None:
        self.access: Access = access_of(lm)
        self.address = self.access.address
        self._http_client = http_client
        self._made: openai.OpenAI | None = None
        self._refused: set[str] = set()
        self._nulls = 0

    @property
    def client(self) -> openai.OpenAI:
        """The client; a key is needed only once a request is made."""
        if self._made is None:
            self._made = self.access.client(self._http_client)
        return self._made

    # --- before anything is asked for ---------------------------------------------------------------------------------

    def require_key(self) -> None:  # noqa: D102 - as the port says
        self.access.require_key()

    def settings(self, train_kwargs: Mapping[str, Any]) -> OpenAISettings:  # noqa: D102
        return OpenAISettings.from_kwargs(train_kwargs)

    def model_name(self, model: str) -> str:  # noqa: D102
        return bare_model(model)

    def known_limits(self, model: str, today: datetime.date) -> ServiceLimits:  # noqa: D102
        return known_limits(model, self.access, today)

    def limits(self, model: str, today: datetime.date) -> ServiceLimits:
        """The dates that the service gives for a model; where it gives none, those that are known."""
        known = self.known_limits(model, today)
        try:
            described = read_json(self.client.models.with_raw_response.retrieve(model))
        except (openai.APIStatusError, UnreadableReplyError):
            return known  # it describes no models, or not to this key; what it takes shows when a job is started
        return with_dates_of(described, known, model, today)

    # --- files --------------------------------------------------------------------------------------------------------

    def upload(self, name: str, rows: Sequence[ChatRow]) -> str:
        """Upload rows, one JSON object a line, and give the file's id."""
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", LONE_SURROGATES)
        files = self.client.files.with_raw_response
        return str(identified(read_json(files.create(file=(name, content), purpose="fine-tune")))["id"])

    def file_state(self, file: str) -> FileState:  # noqa: D102
        try:
            reply = identified(read_json(self.client.files.with_raw_response.retrieve(file)))
        except openai.NotFoundError:
            return "gone"
        return _FILE_STATES.get(str(reply.get("status")), "processing")

    def withdraw(self, file: str) -> None:  # noqa: D102
        try:
            self.client.files.with_raw_response.delete(file)
        except openai.NotFoundError:
            return

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def start(
        self, order: JobRequest, marks: Mapping[str, str], training_file: str, validation_file: str | None
    ) -> RemoteJob:
        """Start a job; arguments that the service refuses by name are left out from then on."""
        files = tuple(file for file in (training_file, validation_file) if file is not None)
        while True:
            arguments = self.arguments(order, marks, files)
            try:
                reply = self.client.fine_tuning.jobs.with_raw_response.create(
                    # Services that know it carry the same request out once, whoever repeats it.
                    extra_headers={"Idempotency-Key": f"dspy-ft-{order.key}-{order_number(marks)}-{training_file}"},
                    **arguments,
                )
                return read_job(read_json(reply), fresh=True)
            except (openai.BadRequestError, openai.UnprocessableEntityError, openai.ConflictError) as error:
                if failures.is_unready(error, files):
                    raise FileNotReady(failures.description(error)) from None
                present = tuple(name for name in self.may_be_left_out if name in arguments)
                refused = failures.refused_argument(error, present)
                if refused is None:
                    raise
                self._refused.add(refused)

    def arguments(self, order: JobRequest, marks: Mapping[str, str], files: tuple[str, ...]) -> dict[str, Any]:
        """What a job is started with, without what the service refused."""
        hyperparameters = order.settings.hyperparameters
        asked: dict[str, Any] = {
            "model": order.model,
            "training_file": files[0],
            "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            "seed": order.seed,
            "suffix": order.suffix,
            "metadata": dict(marks),
        }
        if len(files) > 1:
            asked["validation_file"] = files[1]
        if "method" in self._refused and hyperparameters:
            asked["hyperparameters"] = hyperparameters
        return {name: value for name, value in asked.items() if name not in self._refused}

    def job(self, job: str) -> RemoteJob | None:  # noqa: D102
        try:
            return read_job(read_json(self.client.fine_tuning.jobs.with_raw_response.retrieve(job)))
        except openai.NotFoundError:
            return None

    def progress(self, job: str) -> JobProgress | None:  # noqa: D102
        return read_progress(read_json(self.client.fine_tuning.jobs.with_raw_response.list_events(job, limit=20)))

    def find(self, marks: Mapping[str, str], files: Iterable[str]) -> list[RemoteJob] | None:
        """Its jobs by what they are marked with; where it keeps no marks, by their file, or by its name."""
        key = marks[JOB_MARK]
        try:
            found = self._listed({JOB_MARK: key})
        except openai.APIStatusError as error:
            if error.status_code in LISTS_NONE:
                return None
            raise
        matching = [job for job in found if job.marks.get(JOB_MARK) == key]
        wanted = set(files)
        if not matching and (wanted or not self.access.official):
            found = self._listed(None)
            matching = [job for job in found if job.training_file in wanted]
        if not matching and not self.access.official and (unmarked := [job for job in found if not job.marks]):
            named = self._files_of(key)
            matching = [replace(job, marks=named[f]) for job in unmarked if (f := str(job.training_file)) in named]
        return sorted(matching, key=lambda job: (job.created or 0, job.id))

    def _listed(self, marks: Mapping[str, str] | None) -> list[RemoteJob]:
        """The newest jobs, all of them or those with marks, as far as the service filters them."""
        found: dict[str, RemoteJob] = {}
        more, query = True, {} if marks is None else {"metadata": dict(marks)}
        while more and len(found) < LISTED:
            known, last = len(found), next(reversed(found), None)
            after: dict[str, Any] = {} if last is None else {"after": last}
            try:
                jobs = self.client.fine_tuning.jobs.with_raw_response
                items, more = self._page(read_json(jobs.list(limit=100, extra_query=query, **after)))
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                if marks is None:
                    raise
                return self._listed(None)  # a service that does not know the filter
            found |= {job.id: job for job in map(read_job, items)}
            more = more and len(found) > known
        return list(found.values())

    def _page(self, reply: Any) -> tuple[list[Any], bool]:
        empty = isinstance(reply, dict) and "data" in reply and reply["data"] is None
        self._nulls = self._nulls + 1 if empty else 0
        return ([], False) if self._nulls >= NULL_LISTS else read_list(reply)

    def _files_of(self, key: str) -> dict[str, dict[str, str]]:
        """The marks that the names of files tell, by their ids; none where the service lists no files."""
        try:
            items, _ = read_list(read_json(self.client.files.with_raw_response.list(extra_query={"limit": LISTED})))
        except openai.APIStatusError as error:
            if error.status_code in LISTS_NONE:
                return {}
            raise
        found = {}
        for item in map(identified, items):
            if (generation := generation_of_file(str(item.get("filename")), key)) is not None:
                found[str(item["id"])] = {JOB_MARK: key, GENERATION_MARK: str(generation)}
        return found

    def cancel(self, job: str) -> None:  # noqa: D102
        try:
            self.client.fine_tuning.jobs.with_raw_response.cancel(job)
        except (openai.BadRequestError, openai.ConflictError, openai.NotFoundError):
            return

    def find_model(self, job: RemoteJob) -> str | None:
        """The model of its last checkpoint; where it tells of none, the one among all models that has its id in it."""
        jobs = self.client.fine_tuning.jobs
        try:
            checkpoints, _ = read_list(read_json(jobs.checkpoints.with_raw_response.list(job.id)))
            listed = {} if checkpoints else read_json(self.client.models.with_raw_response.list())
        except openai.APIStatusError:
            return None
        steps = [one for one in checkpoints if isinstance(one, dict) and one.get("fine_tuned_model_checkpoint")]
        if steps:
            return str(max(steps, key=lambda one: one.get("step_number") or 0)["fine_tuned_model_checkpoint"])
        models = read_list(listed)[0] if listed else []
        named = [str(one["id"]) for one in models if isinstance(one, dict) and job.id in str(one.get("id"))]
        return named[0] if len(named) == 1 else None

    def how_to_cancel(self, job: str) -> str:  # noqa: D102
        key = '-H "Authorization: Bearer $OPENAI_API_KEY"'
        return f"curl -X POST {key} {self.address}/fine_tuning/jobs/{job}/cancel"

    # --- results ------------------------------------------------------------------------------------------------------

    def serve(self, job: RemoteJob, deployment: Deployment) -> Served:
        """The model under its own name, once it answers; what else may be wrong shows when it is asked in earnest."""
        try:
            self.ask(str(job.model))
        except openai.NotFoundError as error:
            raise NotServedYet(f"{self.address} does not answer for it yet ({failures.description(error)})") from None
        except openai.OpenAIError:
            pass
        return Served(f"openai/{job.model}")

    def ask(self, model: str) -> None:
        """Ask a model for a word."""
        words: Any = [{"role": "user", "content": "Hello"}]
        self.client.chat.completions.with_raw_response.create(model=model, messages=words, max_tokens=1)

    # --- failures -----------------------------------------------------------------------------------------------------

    def meaning(self, error: BaseException) -> FailureMeaning | None:  # noqa: D102
        return failures.failure_meaning(error)

    def describe(self, error: BaseException) -> str:  # noqa: D102
        return failures.description(error)

    def advice(self, error: BaseException) -> str:  # noqa: D102
        return failures.advice(error, self.access)

    def scrub(self, text: str) -> str:  # noqa: D102
        return self.access.scrub(text)

    def close(self) -> None:  # noqa: D102
        if self._made is not None and self._http_client is None:  # connections that were given are not ours to close
            self._made.close()


def order_number(marks: Mapping[str, str]) -> str:
    """Which of the jobs with the same rows a start is for."""
    return marks.get(GENERATION_MARK, "0")
