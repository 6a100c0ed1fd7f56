"""From a request to a finished job, paying for it once, whatever happens in between.

A request to start a job may be carried out although its reply never came. So, before it is repeated, the service is
asked for jobs with this request's mark; and where it may still be under way, its training file is deleted first: a job
can no longer be started from it. What is known is written down before each such step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import HostedError, JobPendingError
from pytest_dspy_ft.finetune.hosted.failures import (
    REQUEST_FAILURES,
    failure_meaning,
    request_error,
)
from pytest_dspy_ft.finetune.hosted.job_request import JobRequest
from pytest_dspy_ft.finetune.hosted.journal import FAILED_STATUSES, JobEntry, now
from pytest_dspy_ft.finetune.hosted.service import FineTuningApi, JobProgress, failure_reason, file_of, generation_of
from pytest_dspy_ft.text import duration

if TYPE_CHECKING:
    from openai.types.fine_tuning import FineTuningJob

LIST_CHECKS = 2
"""How often the service's list is looked through for a job that was asked for."""
LIST_DELAY = 5.0
"""Seconds between these checks: until such a job is seen in the list."""
FIRST_WAIT, LONGEST_WAIT, WAIT_GROWTH = 2.0, 30.0, 1.5
STATUS_WORDS = {
    "validating_files": "checking the files",
    "queued": "queued",
    "running": "training",
    "pausing": "pausing",
    "paused": "paused at the service: resume it there",
    "resuming": "resuming",
    "cancelling": "being cancelled",
}
MODEL_NAME_CHECKS = 5
"""How often a job that has succeeded is looked at until it names its model."""


class JobRunner:
    """Carries one request for a job out.

    Args:
        service: Where.
        request: What is asked for; its context says where it is written down, and how long it is waited for.
        collection: Which collection of rows it belongs to.
        before_paying: Called before anything is uploaded for a new job; raises to refuse.
    """

    def __init__(
        self,
        service: FineTuningApi,
        request: JobRequest,
        *,
        collection: int,
        before_paying: Callable[[], None],
    ) -> None:
        self.service = service
        self._call = service.call
        self._request = request
        self._journal = request.context.journal
        self._timeout = request.context.timeout
        self._collection = collection
        self._before_paying = before_paying
        self.entry: JobEntry | None = None
        """The job as it is written down; None before that."""
        self.progress: JobProgress | None = None
        """Where the job is; None before the first sign of life."""

    @property
    def vendor(self) -> str:
        """``openai`` or ``azure``."""
        return self._call.access.vendor

    def run(self) -> JobEntry:
        """Start the job, or go on with the one that was started before, and wait for it.

        Raises:
            HostedError: If it failed, was cancelled, was refused, or the service is out of reach.
            JobPendingError: If it takes longer than the timeout; it goes on.
        """
        entry = self.entry = self._entry()
        if entry.job is None:
            entry = self._start(entry)
        elif entry.session != self._journal.session:
            entry = self._save(entry, resumed=True)
        return self._wait(entry)

    # --- which job ---------------------------------------------------------------------------------------------------

    def _entry(self) -> JobEntry:
        """The entry to go on with: the one that is written down, one for a job that the service knows, or a new one."""
        request, journal = self._request, self._journal
        entry = journal.job(request.key, self._collection)
        if entry is not None:
            return entry
        # Another machine, or a store that is gone, may have asked for the same.
        known = self.service.find(request.key) or []
        newest = max((generation_of(job) for job in known), default=0)
        if known and not journal.rebuild:
            return self._adopt(self._begin(newest), known)
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

    def _adopt(self, entry: JobEntry, known: list[FineTuningJob]) -> JobEntry:
        """Note the job of an entry, found at the service."""
        mine = [job for job in known if generation_of(job) in (0, entry.generation)]
        job = next((job for job in mine if job.status not in FAILED_STATUSES), mine[0])
        return self._save(
            entry,
            job=job.id,
            status=job.status,
            training_file=file_of(job),
            unsettled=False,
            resumed=entry.session != self._journal.session or entry.requests == 0,
        )

    def _save(self, entry: JobEntry, **changes: Any) -> JobEntry:
        self.entry = self._journal.save(entry, **changes)
        return self.entry

    # --- starting it -------------------------------------------------------------------------------------------------

    def _start(self, entry: JobEntry) -> JobEntry:
        tries = self._call.backoff.rounds + 1
        for attempt in range(tries):
            if entry.unsettled:
                entry = self._resolve_unknown_start(entry)
            if entry.job is not None:
                return self._keep_first(entry)
            if attempt == 0:
                self._before_paying()
            entry = self._with_files(entry)
            # Written down before it is sent: from here on there may be a job.
            entry = self._save(entry, requests=entry.requests + 1, unsettled=True)
            try:
                job = self.service.start(
                    self._request, entry.generation, entry.training_file or "", entry.validation_file
                )
            except REQUEST_FAILURES as error:
                if attempt == tries - 1:
                    raise request_error("starting the job", error, self._call.access) from None
                entry = self._after_failed_start(entry, error)
            else:
                return self._keep_first(self._save(entry, job=job.id, status=job.status, unsettled=False))
        raise AssertionError("a last attempt either succeeds or raises")

    def _after_failed_start(self, entry: JobEntry, error: BaseException) -> JobEntry:
        """Note what a failed request to start the job leaves behind, and wait before the next.

        Raises:
            HostedError: If the service refuses it.
        """
        meaning = failure_meaning(error)
        if meaning == "final":
            # Perhaps because a file is gone: the next session uploads them anew.
            self._save(entry, unsettled=False, training_file=None, validation_file=None)
            raise request_error("starting the job", error, self._call.access) from None
        if meaning == "not_done":
            entry = self._save(entry, unsettled=False)
        self._call.pause_after(error, entry.requests)
        if meaning == "unknown":
            if found := self._find(entry):
                return self._adopt(entry, found)
            entry = self._save(entry, unsettled=False)
        return entry

    def _resolve_unknown_start(self, entry: JobEntry) -> JobEntry:
        """Find out what became of a request whose outcome is not known, and make sure that nothing more comes of it."""
        for check in range(LIST_CHECKS):
            if found := self._find(entry):
                return self._adopt(entry, found)
            if check < LIST_CHECKS - 1:
                self._call.pause(LIST_DELAY)
        if entry.training_file is not None:
            self.service.delete_file(entry.training_file)
            entry = self._save(entry, withdrawn_files=(*entry.withdrawn_files, entry.training_file))
            if found := self._find(entry):  # it came through between our last check and the deletion
                return self._adopt(entry, found)
        return self._save(entry, training_file=None, unsettled=False)

    def _find(self, entry: JobEntry) -> list[FineTuningJob]:
        files = [file for file in (entry.training_file, *entry.withdrawn_files) if file]
        found = self.service.find(self._request.key, files)
        if found is None:
            if not entry.unsettled:
                return []
            raise HostedError(
                f"{entry.address} lists no jobs, so it cannot be told whether the last request started one: look there "
                f"for a job with file {entry.training_file}; if there is none, "
                f"--dspy-rebuild={self._request.context.stage} asks again"
            )
        return [job for job in found if generation_of(job) in (0, entry.generation)]

    def _keep_first(self, entry: JobEntry) -> JobEntry:
        """Keep the first of several jobs of one request: two machines without a common store may have asked at once."""
        try:
            jobs = [job for job in self._find(entry) if job.status not in FAILED_STATUSES]
        except HostedError:
            return entry  # the job is there; whether another is, the next session may see
        if len(jobs) < 2 or entry.job == jobs[0].id:
            return entry
        if entry.job is not None:
            self.service.cancel(entry.job)
        return self._save(entry, job=jobs[0].id, status=jobs[0].status, training_file=file_of(jobs[0]))

    def _with_files(self, entry: JobEntry) -> JobEntry:
        request = self._request
        name = f"dspy-{request.context.stage_key[:12]}-{request.key[:12]}"
        if entry.training_file is None:
            entry = self._save(entry, training_file=self.service.upload(f"{name}-train.jsonl", request.rows))
        if entry.validation_file is None and request.validation:
            entry = self._save(entry, validation_file=self.service.upload(f"{name}-valid.jsonl", request.validation))
        for file in (entry.training_file, entry.validation_file):
            if file is not None and self.vendor == "azure":
                self._until_processed(file)
        return entry

    def _until_processed(self, file: str) -> None:
        """Azure starts no job from a file that it has not looked at."""
        pause, started = FIRST_WAIT, self._call.clock.now()
        while (status := self.service.file_status(file)) != "processed":
            if status in ("error", "failed", "deleted"):
                raise HostedError(f"the service refuses file {file}: its status is {status!r}")
            if self._timeout is not None and self._call.clock.now() - started > self._timeout:
                raise HostedError(f"file {file} is still {status!r} after {duration(self._timeout)}; run again later")
            pause = self._pause_longer(pause)

    # --- waiting for it ----------------------------------------------------------------------------------------------

    def _pause_longer(self, pause: float) -> float:
        """Let about so many seconds pass, and return how many the next pause takes."""
        self._call.pause(pause * self._call.jitter.uniform(0.8, 1.2))
        return min(pause * WAIT_GROWTH, LONGEST_WAIT)

    def _wait(self, entry: JobEntry) -> JobEntry:
        assert entry.job is not None
        started, pause, nameless = self._call.clock.now(), FIRST_WAIT, 0
        while True:
            job = self.service.job(entry.job)
            model = getattr(job, "fine_tuned_model", None)
            changed: dict[str, Any] = {"status": job.status, "trained_tokens": getattr(job, "trained_tokens", None)}
            if model:
                changed["fine_tuned_model"] = model
            if any(getattr(entry, name) != value for name, value in changed.items()):
                entry = self._save(entry, **changed)
            self._note_progress(job)
            if job.status == "succeeded":
                if model:
                    return entry
                nameless += 1
                if nameless > MODEL_NAME_CHECKS:
                    raise HostedError(
                        f"job {job.id} at {entry.address} has succeeded but names no model; run again later"
                    )
            elif job.status in FAILED_STATUSES:
                raise self._job_error(job, entry)
            waited = self._call.clock.now() - started
            if self._timeout is not None and waited >= self._timeout:
                raise JobPendingError(
                    f"job {job.id} is still {job.status!r} after {duration(waited)} (dspy_job_timeout); "
                    f"{resume_hint(entry, self.vendor)}"
                )
            pause = self._pause_longer(pause)

    def _note_progress(self, job: FineTuningJob) -> None:
        before = self.progress or JobProgress()
        started = job.status not in ("validating_files", "queued")
        now = (self.service.progress(job.id) if started else None) or before
        total = now.total_steps or before.total_steps
        self.progress = dataclasses.replace(now, total_steps=total, note=STATUS_WORDS.get(job.status, job.status))

    def _job_error(self, job: FineTuningJob, entry: JobEntry) -> HostedError:
        again = f"--dspy-rebuild={self._request.context.stage} asks for a new job"
        if job.status == "cancelled":
            return HostedError(f"job {job.id} at {entry.address} was cancelled there; {again}")
        reason = failure_reason(job) or "it gives no reason"
        text = f"job {job.id} at {entry.address} failed: {reason}; mend what it names, then {again}"
        return HostedError(self._call.access.scrub(text))


def resume_hint(entry: JobEntry, vendor: str) -> str:
    """How to come back to a job that goes on, or to end it."""
    key = '-H "api-key: $AZURE_API_KEY"' if vendor == "azure" else '-H "Authorization: Bearer $OPENAI_API_KEY"'
    path = f"/fine_tuning/jobs/{entry.job}/cancel"
    if vendor == "azure":
        path = f"/openai{path}?api-version=2024-10-21"
    return (
        f"it goes on at {entry.address}: the same command finds it again and pays nothing twice; "
        f"to cancel it: curl -X POST {key} {entry.address}{path}"
    )
