"""The adapter for Tinker, and for SkyRL-tx where it speaks the same: the client drives the loop.

There is no job at the service, only training runs and the states that they save. A job of ours is all runs that carry
its mark: its id is made of the request's key and generation, so starting it asks for nothing and pays nothing. Each
piece of work is one step, and every few steps the state is saved, marked with the step. Whoever goes on, goes on from
the newest state that is written down here or found there. The result is the one checkpoint for sampling.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import HostedError
from pytest_dspy_ft.finetune.hosted.client_errors import ClientService, has_status, meaning_of
from pytest_dspy_ft.finetune.hosted.port import (
    GENERATION_MARK,
    JOB_MARK,
    Deployment,
    FailureMeaning,
    JobProgress,
    RemoteJob,
    Served,
    ServiceLimits,
)
from pytest_dspy_ft.finetune.hosted.tinker_api.batches import Weighted, order_of_rows, weighted_tokens
from pytest_dspy_ft.finetune.hosted.tinker_api.session import TinkerSession
from pytest_dspy_ft.finetune.hosted.tinker_api.settings import TinkerSettings
from pytest_dspy_ft.finetune.rows import ChatRow
from pytest_dspy_ft.redaction import plain_address

if TYPE_CHECKING:
    from pytest_dspy_ft.finetune.hosted.job_request import JobRequest

ADDRESS = "https://tinker.thinkingmachines.dev/services/tinker-prod"
ASKED_AT = "/oai/api/v1"
"""Below the service's address: where results are asked, as OpenAI's models are."""
ID_MARK, STEP_MARK = "dspy_ft_id", "dspy_ft_step"
STATE_SECONDS = 7 * 24 * 3600
"""A state that nobody goes on from is deleted by the service after a week."""
BEGINS = 4
"""So often a session begins at the same state: what follows it is paid for anew each time."""
RESULT = "final"
WORD = "training"


@dataclass
class _Training:
    """A training that this session drives."""

    id: str
    client: Any
    rows: list[Weighted]
    step: int
    """Steps made."""
    saved: str = ""
    """The newest state."""


class TinkerService(ClientService):
    """Tinker, for one LM.

    Args:
        lm: The LM to train: its key and address count before the environment's.
        http_client: Not used: Tinker's client makes its own connections.
    """

    name = "tinker"
    title = "Tinker"
    key_variables = ("TINKER_API_KEY",)

    connect: Callable[[str, str], TinkerSession] = TinkerSession
    """``(address, key)`` to the calls of Tinker's client."""

    def __init__(self, lm: Any, http_client: Any = None) -> None:
        settings: Mapping[str, Any] = getattr(lm, "kwargs", {})
        super().__init__(settings)
        base = settings.get("api_base") or settings.get("base_url") or os.environ.get("TINKER_BASE_URL") or ADDRESS
        self._base = re.sub(f"{ASKED_AT}/?$", "", str(base).rstrip("/"))
        self.address = plain_address(self._base) or self._base
        self._session: TinkerSession | None = None
        self._training: _Training | None = None
        self._context: int | None = None
        self._progress: JobProgress | None = None
        self._begins, self._begun_at = 0, -1

    @property
    def session(self) -> TinkerSession:
        """The calls of Tinker's client."""
        if self._session is None:
            if not self._key:
                self.require_key()
            self._session = self.connect(self._base, str(self._key))
        return self._session

    def settings(self, train_kwargs: Mapping[str, Any]) -> TinkerSettings:
        """The settings that ``train_kwargs`` describe."""
        return TinkerSettings.from_kwargs(train_kwargs)

    def model_name(self, model: str) -> str:
        """What Tinker calls a model: the LM is asked as OpenAI's are, at Tinker's address."""
        return model.removeprefix("openai/").removeprefix("tinker/")

    def limits(self, model: str, today: datetime.date) -> ServiceLimits:
        """What Tinker takes for a model, as it says itself."""
        try:
            self._context = self.session.context_of(model)
        except LookupError as problem:
            return ServiceLimits(closed=str(problem))
        return ServiceLimits(context=self._context)

    def upload(self, name: str, rows: Sequence[ChatRow]) -> str:
        """Nothing is uploaded: rows go with each step."""
        return "here"

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def start(
        self, order: JobRequest, marks: Mapping[str, str], training_file: str, validation_file: str | None
    ) -> RemoteJob:
        """Name the job; the service hears of it with the first step."""
        return RemoteJob(id=_id_of(marks), state="running", word=WORD, marks=dict(marks))

    def job(self, job: str) -> RemoteJob | None:
        """How a job is, by the runs that carry its mark; one without any has not begun."""
        if self._training is not None and self._training.id == job:
            return RemoteJob(id=job, state="running", word=WORD)  # it is we who drive it
        found = [run for run in self.session.runs() if _mark(run, ID_MARK) == job]
        return _job(job, found) if found else RemoteJob(id=job, state="running", word=WORD)

    def progress(self, job: str) -> JobProgress | None:
        """The step that this session made last."""
        return self._progress

    def find(self, marks: Mapping[str, str], files: Iterable[str]) -> list[RemoteJob] | None:
        """The jobs of a request, by the marks of their runs."""
        runs: dict[str, list[Any]] = {}
        for run in self.session.runs():
            if _mark(run, JOB_MARK) == marks[JOB_MARK]:
                runs.setdefault(_mark(run, ID_MARK), []).append(run)
        return sorted((_job(id_, mine) for id_, mine in runs.items()), key=lambda job: job.generation)

    def work(
        self, order: JobRequest, job: RemoteJob, kept: Mapping[str, Any], keep: Callable[[Mapping[str, Any]], None]
    ) -> RemoteJob | None:
        """Make the next step, save the state where it is time to, and after the last step the result."""
        try:
            return self._next_step(order, job, kept, keep)
        except Exception:
            self.session.drop()  # the next try opens another session, and goes on from the newest state
            raise

    def _next_step(
        self, order: JobRequest, job: RemoteJob, kept: Mapping[str, Any], keep: Callable[[Mapping[str, Any]], None]
    ) -> RemoteJob:
        settings = order.settings
        assert isinstance(settings, TinkerSettings)
        steps = order_of_rows(order)
        live, self._training = self._training, None  # what fails half-way is gone on with from its newest state
        training = live if live is not None and live.id == job.id else self._begin(order, settings, job, kept)
        if isinstance(training, RemoteJob):
            return training
        marks = _marks(order, job.id)
        if training.step < len(steps):
            loss = self.session.step(
                training.client,
                [training.rows[place] for place in steps[training.step]],
                learning_rate=settings.rate(training.step, len(steps)),
                weight_decay=settings.weight_decay,
                grad_clip_norm=settings.grad_clip_norm,
            )
            training.step += 1
            self._progress = JobProgress(step=training.step, total_steps=len(steps), loss=loss)
        model = None
        if training.step == len(steps):
            model = self.session.save_result(training.client, RESULT, {**marks, STEP_MARK: str(training.step)})
            keep({"model": model})
            self._forget(job.id)
            self.close()
        else:
            if training.step % settings.save_every == 0:
                saved = self.session.save(
                    training.client, f"step-{training.step}", {**marks, STEP_MARK: str(training.step)}, STATE_SECONDS
                )
                keep({"state": saved, "step": training.step})
                self._delete(training.saved)
                training.saved = saved
            self._training = training
        return RemoteJob(
            id=job.id,
            state="running" if model is None else "succeeded",
            word=WORD if model is None else "saved",
            model=model,
            marks=marks,
            trained_tokens=None if model is None else _trained(training.rows, steps),
        )

    def _begin(
        self, order: JobRequest, settings: TinkerSettings, job: RemoteJob, kept: Mapping[str, Any]
    ) -> _Training | RemoteJob:
        """Go on from the newest state, or begin; a result that is there already is given at once."""
        marks = _marks(order, job.id)
        mine = [run for run in self.session.runs() if _mark(run, ID_MARK) == job.id]
        seen = _job(job.id, mine)
        if seen.state == "succeeded" or kept.get("model"):
            return seen if seen.state == "succeeded" else _done(job.id, str(kept["model"]), seen.marks)
        known = [(int(kept.get("step", 0)), str(kept.get("state", "")))]
        for run in mine:
            if (checkpoint := run.last_checkpoint) is not None:
                known.append((int((checkpoint.user_metadata or {}).get(STEP_MARK, "0")), checkpoint.tinker_path))
        step, state = max(known)
        self._begins = self._begins + 1 if step <= self._begun_at else 1
        self._begun_at = step
        if self._begins > BEGINS:
            raise HostedError(
                f"Tinker failed {BEGINS} times between step {step} of {job.id} and the next state that is saved, and "
                "these steps were paid for each time; run again later: what is saved is gone on with"
            )
        if state:
            client = self.session.resume(state, marks)
        else:
            client = self.session.create(
                order.model,
                marks,
                rank=settings.rank,
                seed=order.seed,
                train_mlp=settings.train_mlp,
                train_attn=settings.train_attn,
                train_unembed=settings.train_unembed,
            )
        rows = weighted_tokens(client.get_tokenizer(), order.rows, self._context)
        return _Training(job.id, client, rows, step, state)

    def _forget(self, job: str) -> None:
        """Delete the states that led to a result: they cost storage, and nobody goes on from them."""
        for run in self.session.runs():
            if _mark(run, ID_MARK) == job and run.last_checkpoint is not None:
                for state in self.session.states(run.training_run_id):
                    self._delete(state)

    def _delete(self, state: str) -> None:
        if state:
            with contextlib.suppress(Exception):  # it expires by itself
                self.session.delete(state)

    def how_to_cancel(self, job: str) -> str:
        """Nothing has to be done: the loop is ours."""
        return "nothing runs at Tinker while no session drives it, and its saved state is deleted after a week"

    # --- results ------------------------------------------------------------------------------------------------------

    def serve(self, job: RemoteJob, deployment: Deployment) -> Served:
        """A result is asked, per token, where OpenAI's models would be."""
        return Served(
            model=f"openai/{job.model}",
            settings={
                "api_base": self._base + ASKED_AT,
                **self.key_setting,
            },
        )

    # --- failures -----------------------------------------------------------------------------------------------------

    def meaning(self, error: BaseException) -> FailureMeaning | None:
        """The meaning of an error for its request."""
        if isinstance(error, TimeoutError) or has_status(error, 410):  # a session that was ended: another is opened
            return "in_flight"
        return meaning_of(error, "tinker")

    def describe(self, error: BaseException) -> str:
        """What came back, or did not, in one line."""
        return "no reply in time" if isinstance(error, TimeoutError) else super().describe(error)

    def close(self) -> None:
        """Close the session at the service, where one is open."""
        self._training = None
        if self._session is not None:
            self._session.close()


def _id_of(marks: Mapping[str, str]) -> str:
    return f"dspy-{marks[JOB_MARK][:24]}-{marks[GENERATION_MARK]}"


def _marks(order: JobRequest, job: str) -> dict[str, str]:
    """The marks of a job's runs and states; its id ends with its generation."""
    return {**order.metadata(int(job.rpartition("-")[2])), ID_MARK: job}


def _mark(run: Any, name: str) -> str:
    return str((run.user_metadata or {}).get(name, ""))


def _job(id_: str, runs: Sequence[Any]) -> RemoteJob:
    """A job, from the runs that carry its mark."""
    marks = {name: _mark(run, name) for run in runs for name in (JOB_MARK, GENERATION_MARK)}
    for run in runs:
        if run.last_sampler_checkpoint is not None:
            return _done(id_, str(run.last_sampler_checkpoint.tinker_path), marks)
    return RemoteJob(id=id_, state="running", word=WORD, marks=marks)


def _done(id_: str, model: str, marks: Mapping[str, str]) -> RemoteJob:
    return RemoteJob(id=id_, state="succeeded", word="saved", model=model, marks=dict(marks))


def _trained(rows: Sequence[Weighted], steps: Sequence[Sequence[int]]) -> int:
    return sum(len(rows[place][0]) for step in steps for place in step)
