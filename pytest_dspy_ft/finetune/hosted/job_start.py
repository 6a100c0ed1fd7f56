"""A job started once: its files, the request for it, and what became of a request whose outcome is not known.

A request to start a job may be carried out although its reply never came, and although a gateway answered it with an
error; and the service's list may show the job only minutes later. So, before it is repeated, its training file is
deleted (a job can no longer be started from it), and the service is asked for jobs with this request's mark until such
a job would be seen. What is known is written down before each such step.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

from pytest_dspy_ft.errors import HostedError
from pytest_dspy_ft.finetune.hosted.job_request import JobRequest
from pytest_dspy_ft.finetune.hosted.journal import JobEntry
from pytest_dspy_ft.finetune.hosted.port import FRUITLESS, JOB_MARK, FileNotReady, RemoteJob
from pytest_dspy_ft.finetune.hosted.retries import RetryingCaller
from pytest_dspy_ft.text import duration

FIRST_WAIT, LONGEST_WAIT, WAIT_GROWTH = 2.0, 30.0, 1.5
LIST_DELAY = 5.0
"""Seconds until a job that was asked for is seen in most services' lists; its file is withdrawn after that."""
LIST_LAG = 600.0
"""Seconds until it is seen in the list of any: before that it may be there."""
DOUBTFUL_TRIES = 3
"""So many requests to start a job whose outcome is not known are settled before it is left to the next session."""
LONGEST_CHECK = 3600.0
"""Seconds for which a service may look at a file, where no job timeout says less."""

Save = Callable[..., JobEntry]


class JobStarter:
    """Starts one job.

    Args:
        call: Makes requests of the service with patience.
        request: What is asked for.
        save: Writes an entry down, with changes, and gives it.
        before_paying: Called before anything is uploaded for a new job; raises to refuse.
    """

    def __init__(
        self, call: RetryingCaller, request: JobRequest, *, save: Save, before_paying: Callable[[], None]
    ) -> None:
        self._call = call
        self._service = call.service
        self._request = request
        self._save = save
        self._before_paying = before_paying
        self._unready_since: float | None = None
        self._pause = FIRST_WAIT

    def start(self, entry: JobEntry) -> JobEntry:
        """Have a job started, or find the one that was.

        Raises:
            HostedError: If the service refuses it, is out of reach, or cannot tell what became of an earlier request.
        """
        failures, doubtful, approved = 0, 0, False
        while True:
            if entry.unsettled:
                entry = self._settled(entry)
            if entry.job is not None:
                return self.keep_first(entry)
            if not approved:
                self._before_paying()
                approved = True
            entry = self._with_files(entry)
            # Written down before it is sent: from here on there may be a job.
            entry = self._save(entry, requests=entry.requests + 1, unsettled=True, asked=time.time())
            try:
                job = self._asked_for(entry)
            except FileNotReady:
                entry = self._save(entry, unsettled=False)
                self._wait_for_files(entry, refused=True)
            except Exception as error:
                failures += 1
                entry = self._after_failure(entry, error, failures, doubtful)
                doubtful += entry.unsettled
            else:
                return self.keep_first(self._save(entry, job=job.id, status=job.word, unsettled=False))

    def _asked_for(self, entry: JobEntry) -> RemoteJob:
        marks = self._request.metadata(entry.generation)
        return self._service.start(self._request, marks, entry.training_file or "", entry.validation_file)

    def _after_failure(self, entry: JobEntry, error: Exception, failures: int, doubtful: int) -> JobEntry:
        """Note what a failed request to start the job leaves behind, and wait before the next.

        Raises:
            HostedError: If the service refuses it, or has failed often enough.
        """
        if (meaning := self._call.meaning(error)) is None:
            raise error
        if meaning == "final":
            entry = self._save(entry, unsettled=False)
            self._drop_files(entry)  # perhaps one of them is the reason: the next session uploads them anew
        if meaning == "not_done":
            entry = self._save(entry, unsettled=False)
        hopeless = failures > self._call.backoff.rounds or doubtful + entry.unsettled >= DOUBTFUL_TRIES
        if meaning == "final" or hopeless:
            raise self._call.error("starting the job", error) from None
        self._call.pause_after(error, failures)
        return entry

    # --- what became of a request -------------------------------------------------------------------------------------

    def _settled(self, entry: JobEntry) -> JobEntry:
        """Find out what became of a request whose outcome is not known, and make sure that nothing more comes of it."""
        clock, began = self._call.clock, self._call.clock.now()
        before = 0.0 if entry.asked is None else max(0.0, time.time() - entry.asked)
        pause = LIST_DELAY
        while True:
            if found := self.find(entry):
                return self.adopt(entry, found)
            waited = before + clock.now() - began
            if entry.training_file is not None and waited >= LIST_DELAY:
                withdrawn = entry.training_file
                self._call(f"withdrawing file {withdrawn}", functools.partial(self._service.withdraw, withdrawn))
                files = (*entry.withdrawn_files, withdrawn)
                entry = self._save(entry, withdrawn_files=files, training_file=None)
                continue  # it may have come through between our last look and the deletion
            if waited >= LIST_LAG:
                return self._save(entry, unsettled=False)
            self._call.pause(pause)
            pause = min(pause * WAIT_GROWTH, 2 * LONGEST_WAIT)

    def find(self, entry: JobEntry) -> list[RemoteJob]:
        """The jobs of an entry that the service lists, oldest first.

        Raises:
            HostedError: It lists none, and it has to be known whether there is one.
        """
        files = [file for file in (entry.training_file, *entry.withdrawn_files) if file]
        found = self.listed(self._request.metadata(entry.generation), files)
        if found is None:
            if not entry.unsettled:
                return []
            raise HostedError(
                f"{entry.address} lists no jobs, so it cannot be told whether the last request started one: look there "
                f"for a job with file {entry.training_file}; if there is none, "
                f"--dspy-rebuild={self._request.context.stage} asks again"
            )
        spoilt = [job for job in found if job.state in FRUITLESS and job.training_file in entry.withdrawn_files]
        return [job for job in found if job.generation in (0, entry.generation) and job not in spoilt]

    def listed(self, marks: dict[str, str], files: Iterable[str] = ()) -> list[RemoteJob] | None:
        """The jobs with these marks, or files, oldest first; None where the service lists none."""
        wanted = list(files)
        found = self._call("looking for jobs started before", lambda: self._service.find(marks, wanted))
        if found is None:
            return None
        mine = [job for job in found if job.marks.get(JOB_MARK, self._request.key) == self._request.key]
        return sorted(mine, key=lambda job: (job.created or 0.0, job.id))

    def adopt(self, entry: JobEntry, found: list[RemoteJob]) -> JobEntry:
        """Note the job of an entry, found at the service."""
        mine = [job for job in found if job.generation in (0, entry.generation)]
        job = next((job for job in mine if job.state not in FRUITLESS), mine[0])
        return self._save(
            entry,
            job=job.id,
            status=job.word,
            training_file=job.training_file or entry.training_file,
            unsettled=False,
            resumed=entry.session != self._request.context.journal.session or entry.requests == 0,
        )

    def keep_first(self, entry: JobEntry) -> JobEntry:
        """Keep the first of several jobs of one request: a late one, or another machine's that asked at once."""
        try:
            jobs = [job for job in self.find(entry) if job.state not in FRUITLESS]
        except HostedError:
            return entry  # the job is there; whether another is, the next look may show
        if len(jobs) < 2:
            return entry
        first = next((job for job in jobs if job.state == "succeeded"), jobs[0])
        for job in jobs:
            if job.id != first.id and job.state != "succeeded":
                self._call(f"cancelling job {job.id}", functools.partial(self._service.cancel, job.id))
        if entry.job == first.id:
            return entry
        return self._save(entry, job=first.id, status=first.word, training_file=first.training_file)

    # --- files --------------------------------------------------------------------------------------------------------

    def _with_files(self, entry: JobEntry) -> JobEntry:
        request = self._request
        if entry.training_file is None:
            entry = self._save(entry, training_file=self._uploaded(entry, "train", request.rows))
        if entry.validation_file is None and request.validation:
            entry = self._save(entry, validation_file=self._uploaded(entry, "valid", request.validation))
        if self._service.awaits_files:
            self._wait_for_files(entry)
        return entry

    def _uploaded(self, entry: JobEntry, kind: str, rows: Any) -> str:
        name = self._request.file_name(entry.generation, kind)
        return self._call(f"uploading {name}", lambda: self._service.upload(name, rows))

    def _wait_for_files(self, entry: JobEntry, *, refused: bool = False) -> None:
        """Wait until the service has looked at the files.

        Args:
            entry: Whose files.
            refused: It refused to start a job from them so far, whatever it says of them.

        Raises:
            HostedError: If it takes too long, or the service does not want them.
        """
        if refused:
            self._wait_a_little_longer(entry)
        for file in (entry.training_file, entry.validation_file):
            while file is not None and (state := self._state_of(file)) != "ready":
                if state in ("refused", "gone"):
                    self._drop_files(entry)
                    raise HostedError(f"the service refuses file {file}: it is {state}; run again to upload it anew")
                self._wait_a_little_longer(entry)

    def _wait_a_little_longer(self, entry: JobEntry) -> None:
        timeout, now = self._request.context.timeout, self._call.clock.now()
        limit = LONGEST_CHECK if timeout is None else timeout
        self._unready_since = now if self._unready_since is None else self._unready_since
        if now - self._unready_since > limit:
            raise HostedError(
                f"the service is still looking at file {entry.training_file} after {duration(limit)}; run again later: "
                "it is not uploaded again"
            )
        self._pause = self.pause_longer(self._pause)

    def _state_of(self, file: str) -> str:
        return self._call(f"asking for file {file}", lambda: self._service.file_state(file))

    def _drop_files(self, entry: JobEntry) -> None:
        """Leave no file at the service that no job was started from; one that stays there is used again."""
        left: dict[str, str | None] = {"training_file": entry.training_file, "validation_file": entry.validation_file}
        for name, file in left.items():
            if file is not None:
                with contextlib.suppress(HostedError):
                    self._call(f"withdrawing file {file}", functools.partial(self._service.withdraw, file))
                    left[name] = None
        self._save(entry, **left)

    def pause_longer(self, pause: float) -> float:
        """Let about so many seconds pass, and return how many the next pause takes."""
        self._call.pause(pause * self._call.jitter.uniform(0.8, 1.2))
        return min(pause * WAIT_GROWTH, LONGEST_WAIT)
