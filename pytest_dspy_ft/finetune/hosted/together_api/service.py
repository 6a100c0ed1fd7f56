"""The adapter for Together: files, limits, prices and jobs, with Together's own client.

Together keeps no marks but a suffix of 40 characters: the first 20 digits of the request's key and the generation stand
at its end, and what the user called it before them.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.files import LONE_SURROGATES
from pytest_dspy_ft.finetune.hosted.client_errors import ClientService, has_status, meaning_of, vendor_client
from pytest_dspy_ft.finetune.hosted.port import (
    GENERATION_MARK,
    JOB_MARK,
    Deployment,
    FailureMeaning,
    FileState,
    JobProgress,
    RemoteJob,
    Served,
    ServiceLimits,
    UnreadableReplyError,
)
from pytest_dspy_ft.finetune.hosted.states import state_of
from pytest_dspy_ft.finetune.hosted.together_api.endpoints import TogetherEndpoints
from pytest_dspy_ft.finetune.hosted.together_api.settings import TogetherSettings
from pytest_dspy_ft.finetune.rows import ChatRow
from pytest_dspy_ft.redaction import plain_address

if TYPE_CHECKING:
    import httpx

    from pytest_dspy_ft.finetune.hosted.job_request import JobRequest

ADDRESS = "https://api.together.ai"
PROJECT = "TOGETHER_PROJECT_ID"
PREFIXES = ("together_ai/", "together/")
NANODOLLARS = 1_000_000_000
"""To the dollar: the unit of a job's price."""
TIMEOUT_SECONDS = 60.0
PRICE_TRIES = 6
"""How often a price is asked for until Together has looked at the rows; after that our own estimate counts."""
_MARK_DIGITS = 20
_MARKED = re.compile(rf"([0-9a-f]{{{_MARK_DIGITS}}})-g(\d+)(?![0-9a-z])")
_FILE_STATES: dict[str, FileState] = {
    "PENDING": "processing",
    "QUEUED": "processing",
    "RUNNING": "processing",
    "FAILED": "refused",
    "INVALID_FORMAT": "refused",
}


class TogetherService(ClientService):
    """Together, for one LM.

    Args:
        lm: The LM to train: its key, address and timeout count before the environment's.
        http_client: Connections to use instead of the client's own; they are left open.
    """

    name = "together"
    title = "Together"
    key_variables = ("TOGETHER_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_TOKEN")
    awaits_files = True
    by_the_hour = True

    def __init__(self, lm: Any, http_client: httpx.Client | None = None) -> None:
        settings: Mapping[str, Any] = getattr(lm, "kwargs", {})
        super().__init__(settings)
        base = settings.get("api_base") or settings.get("base_url") or os.environ.get("TOGETHER_AI_API_BASE") or ADDRESS
        self._base = re.sub(r"/v1/?$", "", str(base).rstrip("/"))
        self.address = plain_address(self._base) or self._base
        self._timeout = settings.get("timeout") or TIMEOUT_SECONDS
        self._http_client = http_client
        self._client: Any = None
        self._priced: dict[str, tuple[str, int]] = {}
        """By a request's key: the file that a price was asked for, and how often."""

    @property
    def client(self) -> Any:
        """Together's client; it makes each request once."""
        if self._client is None:
            self.require_key()
            self._client = vendor_client("together", "Together").Together(
                api_key=self._key,
                base_url=self._base,
                timeout=self._timeout,
                max_retries=0,
                http_client=self._http_client,
            )
        return self._client

    def settings(self, train_kwargs: Mapping[str, Any]) -> TogetherSettings:
        """The settings that ``train_kwargs`` describe."""
        return TogetherSettings.from_kwargs(train_kwargs)

    def model_name(self, model: str) -> str:
        """What Together calls a model."""
        return next((model.removeprefix(p) for p in PREFIXES if model.startswith(p)), model)

    def limits(self, model: str, today: datetime.date) -> ServiceLimits:
        """What Together takes for a model, as it says itself."""
        try:
            told = self.client.fine_tuning.model_limits(model_name=self.model_name(model))
        except Exception as error:
            if not has_status(error, 400, 404, 422):
                raise
            return ServiceLimits(closed=f"Together says of it: {self.describe(error)}")
        return ServiceLimits(context=_whole(getattr(told, "max_seq_length_sft", None)))

    def estimate(self, order: JobRequest) -> float | None:
        """What Together says that the job will cost; it is asked with the rows themselves, which are then deleted."""
        file, asked = self._priced.pop(order.key, ("", 0))
        file = file or self.upload(f"dspy-price-{order.key[:12]}.jsonl", order.rows)
        told = self.client.fine_tuning.estimate_price(
            training_file=file,
            model=order.model,
            n_epochs=order.settings.epochs(len(order.rows)),
            training_method={"method": "sft"},
        )
        if getattr(told, "unavailable_reason", None) == "train_file_not_validated" and asked < PRICE_TRIES:
            self._priced[order.key] = (file, asked + 1)
            raise UnreadableReplyError("Together is still looking at the rows")  # it is asked again after a pause
        with contextlib.suppress(Exception):
            self.withdraw(file)
        price = getattr(told, "estimated_total_price", None)
        return float(price) if isinstance(price, (int, float)) and price >= 0 else None

    # --- files --------------------------------------------------------------------------------------------------------

    def upload(self, name: str, rows: Sequence[ChatRow]) -> str:
        """Upload rows and give the file's id; the same rows again are the same file."""
        lines = "".join(json.dumps({"messages": row["messages"]}, ensure_ascii=False) + "\n" for row in rows)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(lines.encode("utf-8", LONE_SURROGATES))
            return str(_identified(self.client.files.upload(file=path, purpose="fine-tune", check=False)).id)

    def file_state(self, file: str) -> FileState:
        """Whether Together has looked at a file."""
        try:
            word = getattr(self.client.files.retrieve(file), "processing_status", None)
        except Exception as error:
            if has_status(error, 404):
                return "gone"
            raise
        return _FILE_STATES.get(str(word), "ready")

    def withdraw(self, file: str) -> None:
        """Delete a file."""
        try:
            self.client.files.delete(file)
        except Exception as error:
            if not has_status(error, 404):
                raise

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def start(
        self, order: JobRequest, marks: Mapping[str, str], training_file: str, validation_file: str | None
    ) -> RemoteJob:
        """Start a job."""
        wanted = {"train_on_inputs": "auto", **order.settings.hyperparameters}
        wanted["n_epochs"] = order.settings.epochs(len(order.rows))
        if validation_file is not None:
            wanted |= {"validation_file": validation_file, "n_evals": wanted["n_epochs"]}
        client = self.client
        limits = client.fine_tuning.model_limits(model_name=order.model)
        return self._job(
            client.fine_tuning.create(
                training_file=training_file,
                model=order.model,
                suffix=marked_suffix(order.suffix, marks),
                random_seed=order.seed,
                model_limits=limits,  # else the client asks for them
                **wanted,
            ),
            marks,
        )

    def job(self, job: str) -> RemoteJob | None:
        """How a job is; of a failed one the reason is asked for, too."""
        try:
            shown = self.client.fine_tuning.retrieve(job)
        except Exception as error:
            if has_status(error, 404):
                return None
            raise
        found = self._job(shown, {})
        if found.state != "failed":
            return found
        reason = ""
        with contextlib.suppress(Exception):  # what it failed of is worth a try, no more
            reason = next(
                (" ".join(str(e.message).split()) for e in reversed(self.client.fine_tuning.list_events(job).data)), ""
            )
        return self._job(shown, {}, failure=reason)

    def progress(self, job: str) -> JobProgress | None:
        """The newest step that a job's events tell of."""
        for event in reversed(self.client.fine_tuning.list_events(job).data):
            if isinstance(step := getattr(event, "step", None), int) and step > 0:
                return JobProgress(step=step, total_steps=_whole(getattr(event, "total_steps", None)))
        return None

    def find(self, marks: Mapping[str, str], files: Iterable[str]) -> list[RemoteJob] | None:
        """The jobs whose suffix has a request's mark, or that train on one of the files, oldest first."""
        wanted, key = set(files), marks[JOB_MARK]
        listed = getattr(self.client.fine_tuning.list(), "data", None)
        if not isinstance(listed, list):
            raise UnreadableReplyError("no list of jobs")
        found = []
        for shown in listed:
            digits, generation = _read_mark(shown)
            if digits == key[:_MARK_DIGITS]:
                found.append(self._job(shown, {JOB_MARK: key, GENERATION_MARK: generation}))
            elif getattr(shown, "training_file", None) in wanted:
                found.append(self._job(shown, {}))
        return sorted(found, key=lambda job: (job.created or 0.0, job.id))

    def cancel(self, job: str) -> None:
        """Cancel a job."""
        try:
            self.client.fine_tuning.cancel(job)
        except Exception as error:
            if not has_status(error, 400, 404, 409, 422):
                raise

    def how_to_cancel(self, job: str) -> str:
        """The command of Together's own client."""
        return f"together fine-tuning cancel {job}"

    def _job(self, shown: Any, marks: Mapping[str, str], failure: str = "") -> RemoteJob:
        word = getattr(_identified(shown), "status", None)
        word = str(getattr(word, "value", word))
        state = state_of(word)
        name = getattr(shown, "x_model_output_name", None) or getattr(shown, "output_name", None)
        price = getattr(shown, "total_price", None)
        if not marks:
            digits, generation = _read_mark(shown)
            marks = {JOB_MARK: digits, GENERATION_MARK: generation} if digits else {}
        return RemoteJob(
            id=str(shown.id),
            state=state or "running",
            word=word,
            known=state is not None,
            model=str(name) if name and state == "succeeded" else None,
            marks=dict(marks),
            training_file=getattr(shown, "training_file", None),
            created=_seconds(getattr(shown, "created_at", None)),
            trained_tokens=_whole(getattr(shown, "token_count", None)),
            cost=price / NANODOLLARS if isinstance(price, (int, float)) and price > 0 else None,
            failure=failure,
        )

    # --- results ------------------------------------------------------------------------------------------------------

    def serve(self, job: RemoteJob, deployment: Deployment) -> Served:
        """Start an endpoint of our name for a result, or find it started."""
        endpoint, handle = self._endpoints().serve(str(job.model), deployment)
        settings = {"api_base": f"{self._base}/v1", **self.key_setting}
        return Served(f"openai/{endpoint}", settings, release=handle)

    def release(self, served: Served) -> bool:
        """Delete the endpoint and all that runs on it."""
        return self._endpoints().release(served.release)

    def _endpoints(self) -> TogetherEndpoints:
        return TogetherEndpoints(self.client, os.environ.get(PROJECT))

    # --- failures -----------------------------------------------------------------------------------------------------

    def meaning(self, error: BaseException) -> FailureMeaning | None:
        """The meaning of an error for its request; uploads fail with those of httpx, and of Together's own checks."""
        if isinstance(error, AssertionError):
            return "unknown"
        return meaning_of(error, "together") or meaning_of(error, "httpx")

    def close(self) -> None:
        """Close the connections, where they are ours."""
        if self._client is not None and self._http_client is None:
            self._client.close()


def marked_suffix(suffix: str, marks: Mapping[str, str]) -> str:
    """A suffix with a job's marks at its end, within the 40 characters that Together takes."""
    mark = f"{marks[JOB_MARK][:_MARK_DIGITS]}-g{marks[GENERATION_MARK]}"
    named = re.sub(r"[^a-z0-9]+", "-", suffix.lower())[: 40 - len(mark) - 1].strip("-")
    return f"{named}-{mark}" if named else mark


def _read_mark(shown: Any) -> tuple[str, str]:
    """The digits of a request's key and the generation, out of a job's suffix or its model's name; empty without."""
    for name in ("suffix", "x_model_output_name", "output_name"):
        if found := _MARKED.search(str(getattr(shown, name, None) or "")):
            return found[1], found[2]
    return "", "0"


def _identified(reply: Any) -> Any:
    if not isinstance(getattr(reply, "id", None), str) or not reply.id:
        raise UnreadableReplyError(f"no id in it: {str(reply)[:200]!r}")
    return reply


def _seconds(moment: Any) -> float | None:
    return moment.timestamp() if isinstance(moment, datetime.datetime) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
