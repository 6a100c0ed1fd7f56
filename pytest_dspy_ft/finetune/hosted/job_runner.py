"""From a request to a finished job, paying for it once, whatever happens in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pytest_dspy_ft.errors import HostedError, JobPendingError
from pytest_dspy_ft.finetune.hosted.job_request import JobRequest
from pytest_dspy_ft.finetune.hosted.job_start import FIRST_WAIT, LIST_LAG, JobStarter
from pytest_dspy_ft.finetune.hosted.journal import JobEntry, now
from pytest_dspy_ft.finetune.hosted.port import (
    FRUITLESS,
    Deployment,
    JobProgress,
    NotServedYet,
    RemoteJob,
    Served,
)
from pytest_dspy_ft.finetune.hosted.results import TrainedResult, endpoint_name
from pytest_dspy_ft.finetune.hosted.retries import RetryingCaller
from pytest_dspy_ft.text import duration

STATUS_WORDS = {
    "validating_files": "checking the files",
    "queued": "queued",
    "running": "training",
    "pausing": "pausing",
    "paused": "paused at the service: resume it there",
    "resuming": "resuming",
    "cancelling": "being cancelled",
    "cancel_requested": "being cancelled",
}
NAMELESS_SECONDS = 600.0
"""So long a job that has succeeded is looked at until it names its model."""
FIND_MODEL_SECONDS = 20.0
"""After so long its model is looked for elsewhere."""
UNKNOWN_SECONDS = 3600.0
"""So long a job is waited for that is in a state which we do not know."""
TWINS_EVERY, TWINS_SECONDS = 60.0, 1800.0
"""How often, and for how long after it was asked for, a second job of the same request is looked for."""


class JobRunner:
    """Carries one request for a job out.

    Args:
        call: Makes requests of the service with patience.
        request: What is asked for; its context says where it is written down, and how long it is waited for.
        collection: Which collection of rows it belongs to.
        before_paying: Called before anything is uploaded for a new job; raises to refuse.
    """

    def __init__(
        self,
        call: RetryingCaller,
        request: JobRequest,
        *,
        collection: int,
        before_paying: Callable[[], None],
    ) -> None:
        self._call = call
        self._service = call.service
        self._request = request
        self._journal = request.context.journal
        self._timeout = request.context.timeout
        self._collection = collection
        self._starter = JobStarter(call, request, save=self._save, before_paying=before_paying)
        self.entry: JobEntry | None = None
        """The job as it is written down; None before that."""
        self.job: RemoteJob | None = None
        """The job as it was last seen; None before that."""
        self.progress: JobProgress | None = None
        """Where the job is; None before the first sign of life."""

    @property
    def how_to_cancel(self) -> str:
        """A command, or words, that end the job."""
        return self._service.how_to_cancel(str(self.entry and self.entry.job))

    def run(self) -> JobEntry:
        """Start the job, or go on with the one that was started before, and wait for it.

        Raises:
            HostedError: If it failed, was cancelled, was refused, or the service is out of reach.
            JobPendingError: If it takes longer than the timeout; it goes on.
        """
        entry = self.entry = self._entry()
        if entry.job is None:
            entry = self._starter.start(entry)
        elif entry.session != self._journal.session:
            entry = self._save(entry, resumed=True)
        return self._wait(entry)

    # --- which job ----------------------------------------------------------------------------------------------------

    def _entry(self) -> JobEntry:
        """The entry to go on with: the one that is written down, one for a job that the service knows, or a new one."""
        request, journal = self._request, self._journal
        entry = journal.job(request.key, self._collection)
        if entry is not None:
            return entry
        # Another machine, or a store that is gone, may have asked for the same.
        known = self._starter.listed(request.metadata(0)) or []
        newest = max((job.generation for job in known), default=0)
        if known and not journal.rebuild:
            return self._starter.adopt(self._begin(newest), known)
        if (damaged := journal.damaged(request.key)) and not journal.rebuild:
            raise HostedError(
                f"{damaged[0]} is damaged: it may tell of a job that was paid for, and {request.address} lists none "
                f"with its marks ({request.key}). Look there, and restore the file; if there is no such job, delete "
                "the file: then one is ordered"
            )
        written = [entry.generation for entry in journal.jobs() if entry.order == request.key]
        return self._begin(max(newest, *written, 0) + 1)

    def _begin(self, generation: int) -> JobEntry:
        """Write down that a job is going to be asked for."""
        request = self._request
        return self._save(
            JobEntry(
                order=request.key,
                number=self._collection,
                generation=generation,
                session=self._journal.session,
                address=request.address,
                model=request.model,
                rows=len(request.rows),
                created=now(),
            )
        )

    def _save(self, entry: JobEntry, **changes: Any) -> JobEntry:
        self.entry = self._journal.save(entry, **changes)
        return self.entry

    # --- waiting for it -----------------------------------------------------------------------------------------------

    def _wait(self, entry: JobEntry) -> JobEntry:
        began, pause = self._call.clock.now(), FIRST_WAIT
        nameless = unknown = None
        twins = began
        while True:
            entry, seen = self._seen(entry)
            job = seen
            if job.state not in ("succeeded", *FRUITLESS):
                entry, job = self._worked_on(entry, job)
            driven = job is not seen
            entry = self._noted(entry, job)
            now = self._call.clock.now()
            if job.state in FRUITLESS:
                raise self._job_error(job, entry)
            doubtful = (
                job.state == "succeeded" and entry.requests > 1
            )  # of several requests, one may come to light late
            if doubtful or (now - twins >= TWINS_EVERY and now - began <= TWINS_SECONDS):
                twins, before = now, entry.job
                entry = self._starter.keep_first(entry)
                if entry.job != before:
                    continue
            if job.state == "succeeded" and job.model:
                return entry
            if job.state == "succeeded" and nameless is not None and now - nameless >= FIND_MODEL_SECONDS:
                named = dataclasses.replace(job, model=self._found_model(job))
                if named.model:
                    return self._noted(entry, named)
            nameless = None if job.state != "succeeded" else now if nameless is None else nameless
            unknown = None if job.known else now if unknown is None else unknown
            self._give_up(entry, job, now - began, *(None if t is None else now - t for t in (nameless, unknown)))
            if driven:
                self._call.pause(0.0)  # the next piece is ours to do; whoever leaves is let go
            else:
                pause = self._starter.pause_longer(pause)

    def _seen(self, entry: JobEntry) -> tuple[JobEntry, RemoteJob]:
        """The job as it is: by its id, else by its marks.

        Raises:
            HostedError: If the service knows it by neither, for as long as its list may lag.
        """
        began, pause = self._call.clock.now(), FIRST_WAIT
        while True:
            wanted = str(entry.job)
            if (job := self._call(f"asking for job {wanted}", lambda: self._service.job(wanted))) is not None:  # noqa: B023
                return entry, job
            found = self._starter.find(entry)
            if found:
                if all(job.id != entry.job for job in found):
                    entry = self._starter.adopt(entry, found)
                return entry, next(job for job in found if job.id == entry.job)
            if self._call.clock.now() - began >= LIST_LAG:
                raise HostedError(
                    f"job {entry.job} is unknown at {entry.address}, by its id, its marks ({entry.order}) and its "
                    f"file: look there; if it is gone, --dspy-rebuild={self._request.context.stage} asks for a new job"
                )
            pause = self._starter.pause_longer(pause)

    def _worked_on(self, entry: JobEntry, job: RemoteJob) -> tuple[JobEntry, RemoteJob]:
        """The job after the next piece of its work, where that is driven from here."""
        last = entry

        def keep(kept: Any) -> None:
            nonlocal last
            last = self._save(last, kept=dict(kept))

        worked = self._call(
            f"training {job.id}", lambda: self._service.work(self._request, job, dict(last.kept or {}), keep)
        )
        return last, job if worked is None else worked

    def _noted(self, entry: JobEntry, job: RemoteJob) -> JobEntry:
        """Write down what is new, and show how far the job is."""
        self.job = job
        over = job.state in ("succeeded", *FRUITLESS)
        changed: dict[str, Any] = {"status": job.state if over else job.word, "trained_tokens": job.trained_tokens}
        if job.model:
            changed["fine_tuned_model"] = job.model
        if any(getattr(entry, name) != value for name, value in changed.items()):
            entry = self._save(entry, **changed)
        before = self.progress or JobProgress()
        progress = (None if job.state == "waiting" else self._progress_of(job)) or before
        total = progress.total_steps or before.total_steps
        note = STATUS_WORDS.get(job.word.lower(), job.word) if job.known else f"in state {job.word!r}, unknown here"
        self.progress = dataclasses.replace(progress, total_steps=total, note=note)
        return entry

    def _found_model(self, job: RemoteJob) -> str | None:
        return self._call(f"looking for the model of job {job.id}", lambda: self._service.find_model(job))

    def _progress_of(self, job: RemoteJob) -> JobProgress | None:
        try:
            return self._service.progress(job.id)
        except Exception as error:  # nothing depends on it
            if self._call.meaning(error) is None:
                raise
            return None

    def _give_up(
        self, entry: JobEntry, job: RemoteJob, waited: float, nameless: float | None, unknown: float | None
    ) -> None:
        """End the wait, where it has been long enough.

        Raises:
            JobPendingError: Saying what the next session will look for.
        """
        stage = self._request.context.stage
        if nameless is not None and nameless >= NAMELESS_SECONDS:
            raise JobPendingError(
                f"job {job.id} at {entry.address} has succeeded but names no model: look there what became of it; the "
                f"same command looks again, and --dspy-rebuild={stage} asks for a new job"
            )
        hint = resume_hint(entry, self.how_to_cancel)
        if unknown is not None and unknown >= UNKNOWN_SECONDS:
            raise JobPendingError(
                f"job {job.id} has been {job.word!r} for {duration(unknown)}, a state that is unknown here: look there "
                f"what it means; {hint}"
            )
        if self._timeout is not None and waited >= self._timeout:
            raise JobPendingError(
                f"job {job.id} is still {job.word!r} after {duration(waited)} (dspy_job_timeout); {hint}"
            )

    def _job_error(self, job: RemoteJob, entry: JobEntry) -> HostedError:
        again = f"--dspy-rebuild={self._request.context.stage} asks for a new job"
        if job.state == "cancelled":
            return HostedError(f"job {job.id} at {entry.address} was cancelled there; {again}")
        reason = job.failure or "it gives no reason"
        text = f"job {job.id} at {entry.address} failed: {reason}; mend what it names, then {again}"
        return HostedError(self._service.scrub(text))

    # --- what came out ------------------------------------------------------------------------------------------------

    def result(self, entry: JobEntry, deployment_settings: Mapping[str, Any]) -> TrainedResult:
        """How the model of a job that has succeeded answers: at once, or once it is called.

        Raises:
            JobPendingError: It does not answer yet, and something has to be done for it, or time has to pass.
        """
        job = RemoteJob(str(entry.job), "succeeded", model=entry.fine_tuned_model)
        name = endpoint_name(self._request.key)
        if not self._service.by_the_hour:
            served = self._served(job, Deployment(name, deployment_settings))
            return TrainedResult(served.model, served.settings)
        return TrainedResult(
            f"{self._service.name}/{job.model}",
            endpoint={
                "service": self._service.name,
                "address": self._service.address,
                "job": job.id,
                "model": str(job.model),
                "name": name,
                "settings": dict(deployment_settings),
            },
        )

    def _served(self, job: RemoteJob, deployment: Deployment) -> Served:
        """How the model of a job that has succeeded answers, once it does.

        Raises:
            JobPendingError: If that takes too long, or something has to be done for it.
        """
        began, pause = self._call.clock.now(), FIRST_WAIT
        while True:
            try:
                return self._call(f"asking {job.model} for a word", lambda: self._service.serve(job, deployment))
            except NotServedYet as wait:
                waited, limit = self._call.clock.now() - began, wait.patience
                if waited >= (limit if self._timeout is None else min(limit, self._timeout)):
                    raise JobPendingError(
                        f"the model {job.model} is trained, and {wait}; then run again: the trained model is found, "
                        "nothing is paid twice"
                    ) from None
            pause = self._starter.pause_longer(pause)


def resume_hint(entry: JobEntry, cancel: str) -> str:
    """How to come back to a job that goes on, or to end it."""
    return (
        f"it goes on at {entry.address}: the same command finds it again and pays nothing twice; to cancel it: {cancel}"
    )
