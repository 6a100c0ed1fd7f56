"""From an order to a finished job, paying for it once, whatever happens in between.

A request to start a job may be carried out although its reply never came. So, before it is repeated, the service is
asked for jobs with this order's mark; and where the request may still be under way, its training file is deleted first:
a job can no longer be started from it. What is known is written down before each such step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import openai

from pytest_dspy_ft.errors import HostedError, JobPendingError
from pytest_dspy_ft.finetune.hosted.journal import JobEntry, Journal
from pytest_dspy_ft.finetune.hosted.orders import Order
from pytest_dspy_ft.finetune.hosted.retries import UnreadableReplyError, is_ambiguous, is_transient, may_still_arrive
from pytest_dspy_ft.finetune.hosted.service import Service, file_of
from pytest_dspy_ft.text import duration

if TYPE_CHECKING:
    from openai.types.fine_tuning import FineTuningJob

SETTLE_SECONDS = 5.0
"""Until a job that was asked for is seen in the service's list."""
LOOKS = 2
"""How often the list is looked through for it."""
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
OVER = ("succeeded", "failed", "cancelled")
GRACE_LOOKS = 5
"""How often a job that has succeeded is looked at until it names its model."""


@dataclasses.dataclass(frozen=True)
class JobProgress:
    """Where a job is."""

    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    validation_loss: float | None = None
    note: str = ""
    """The service's word for it."""


class Ordering:
    """Carries one order out.

    Args:
        service: Where.
        journal: Where it is written down.
        order: What.
        number: Which collection of rows it belongs to.
        before_paying: Called before anything is uploaded for a new job; raises to refuse.
        tell: Told how far the job is.
        timeout: Seconds to wait for it; None: as long as it takes.
    """

    def __init__(
        self,
        service: Service,
        journal: Journal,
        order: Order,
        *,
        number: int,
        before_paying: Callable[[], None],
        tell: Callable[[JobProgress], None],
        timeout: float | None,
    ) -> None:
        self.service = self._service = service
        self._call = service.call
        self._journal = journal
        self._order = order
        self._number = number
        self._before_paying = before_paying
        self._tell = tell
        self._timeout = timeout
        self.entry: JobEntry | None = None
        """What is known of the job; None before anything was written down."""
        self.progress = JobProgress()

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
        order, journal = self._order, self._journal
        entry = journal.job(order, self._number)
        if entry is not None:
            return entry
        # Another machine, or a store that is gone, may have ordered the same.
        known = self._service.find(order.key) or []
        newest = max((_generation(job) for job in known), default=0)
        if known and not journal.rebuild:
            return self._adopt(journal.begin(order, self._number, newest), known)
        written = [entry.generation for entry in journal.jobs() if entry.order == order.key]
        return journal.begin(order, self._number, max(newest, *written, 0) + 1)

    def _adopt(self, entry: JobEntry, known: list[FineTuningJob]) -> JobEntry:
        """Note the job of an entry, found at the service."""
        mine = [job for job in known if _generation(job) in (0, entry.generation)]
        job = next((job for job in mine if job.status not in ("failed", "cancelled")), mine[0])
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
        for attempt in range(self._call.patience.tries):
            if entry.unsettled:
                entry = self._settle(entry)
            if entry.job is not None:
                return self._without_twins(entry)
            if attempt == 0:
                self._before_paying()
            entry = self._with_files(entry)
            # Written down before it is sent: from here on there may be a job.
            entry = self._save(entry, requests=entry.requests + 1, unsettled=True)
            try:
                job = self._service.start(
                    self._order, entry.generation, entry.training_file or "", entry.validation_file
                )
            except (openai.OpenAIError, ValueError, UnreadableReplyError) as error:
                if attempt == self._call.patience.tries - 1:
                    raise self._call.failure("starting the job", error) from None
                entry = self._not_started(entry, error)
            else:
                return self._without_twins(self._save(entry, job=job.id, status=job.status, unsettled=False))
        raise AssertionError("a last attempt either succeeds or raises")

    def _not_started(self, entry: JobEntry, error: BaseException) -> JobEntry:
        """After a failed request to start the job: what is known now.

        Raises:
            HostedError: If the service refuses it.
        """
        if not is_transient(error):
            # Perhaps because a file is gone: the next session uploads them anew.
            self._save(entry, unsettled=False, training_file=None, validation_file=None)
            raise self._call.failure("starting the job", error) from None
        if not is_ambiguous(error):
            entry = self._save(entry, unsettled=False)  # turned away, or never reached: there is no job
        self._call.pause(self._call.pause_after(error, entry.requests))
        if not may_still_arrive(error) and entry.unsettled and (found := self._find(entry)):
            return self._adopt(entry, found)
        if not may_still_arrive(error):
            entry = self._save(entry, unsettled=False)
        return entry

    def _settle(self, entry: JobEntry) -> JobEntry:
        """Find out what became of a request whose outcome is not known, and make sure that nothing more comes of it."""
        for look in range(LOOKS):
            if found := self._find(entry):
                return self._adopt(entry, found)
            if look < LOOKS - 1:
                self._call.pause(SETTLE_SECONDS)
        if entry.training_file is not None:
            self._service.delete_file(entry.training_file)
            entry = self._save(entry, withdrawn_files=(*entry.withdrawn_files, entry.training_file))
            if found := self._find(entry):  # it came through between our look and the deletion
                return self._adopt(entry, found)
        return self._save(entry, training_file=None, unsettled=False)

    def _find(self, entry: JobEntry) -> list[FineTuningJob]:
        files = [file for file in (entry.training_file, *entry.withdrawn_files) if file]
        found = self._service.find(self._order.key, files)
        if found is None:
            if not entry.unsettled:
                return []
            raise HostedError(
                f"{entry.address} lists no jobs, so it cannot be told whether the last request started one: look there "
                f"for a job with file {entry.training_file}; if there is none, --dspy-rebuild={self._order.stage} asks "
                "again"
            )
        return [job for job in found if _generation(job) in (0, entry.generation)]

    def _without_twins(self, entry: JobEntry) -> JobEntry:
        """Keep the first of several jobs of one order: two machines without a common store may have asked at once."""
        try:
            twins = [job for job in self._find(entry) if job.status not in ("failed", "cancelled")]
        except HostedError:
            return entry  # the job is there; whether another is, the next session may see
        if len(twins) < 2 or entry.job == twins[0].id:
            return entry
        if entry.job is not None:
            self._service.cancel(entry.job)
        return self._save(entry, job=twins[0].id, status=twins[0].status, training_file=file_of(twins[0]))

    def _with_files(self, entry: JobEntry) -> JobEntry:
        order = self._order
        name = f"dspy-{order.stage_key[:12]}-{order.key[:12]}"
        if entry.training_file is None:
            entry = self._save(entry, training_file=self._service.upload(f"{name}-train.jsonl", order.rows))
        if entry.validation_file is None and order.validation:
            entry = self._save(entry, validation_file=self._service.upload(f"{name}-valid.jsonl", order.validation))
        for file in (entry.training_file, entry.validation_file):
            if file is not None and self.vendor == "azure":
                self._until_processed(file)
        return entry

    def _until_processed(self, file: str) -> None:
        """Azure starts no job from a file that it has not looked at."""
        pause, started = FIRST_WAIT, self._call.clock.now()
        while (status := self._service.file_status(file)) != "processed":
            if status in ("error", "failed", "deleted"):
                raise HostedError(f"the service refuses file {file}: its status is {status!r}")
            if self._timeout is not None and self._call.clock.now() - started > self._timeout:
                raise HostedError(f"file {file} is still {status!r} after {duration(self._timeout)}; run again later")
            pause = self._grown(pause)

    # --- waiting for it ----------------------------------------------------------------------------------------------

    def _grown(self, pause: float) -> float:
        self._call.pause(pause * self._call.jitter.uniform(0.8, 1.2))
        return min(pause * WAIT_GROWTH, LONGEST_WAIT)

    def _wait(self, entry: JobEntry) -> JobEntry:
        assert entry.job is not None
        started, pause, grace = self._call.clock.now(), FIRST_WAIT, 0
        while True:
            job = self._service.job(entry.job)
            model = getattr(job, "fine_tuned_model", None)
            changed: dict[str, Any] = {"status": job.status, "trained_tokens": getattr(job, "trained_tokens", None)}
            if model:
                changed["fine_tuned_model"] = model
            if any(getattr(entry, name) != value for name, value in changed.items()):
                entry = self._save(entry, **changed)
            self._show(job)
            if job.status == "succeeded":
                if model:
                    return entry
                grace += 1
                if grace > GRACE_LOOKS:
                    raise HostedError(
                        f"job {job.id} at {entry.address} has succeeded but names no model; run again later"
                    )
            elif job.status in OVER:
                raise self._over_badly(job, entry)
            waited = self._call.clock.now() - started
            if self._timeout is not None and waited >= self._timeout:
                raise JobPendingError(
                    f"job {job.id} is still {job.status!r} after {duration(waited)} (dspy_job_timeout); "
                    f"{how_to_go_on(entry, self.vendor)}"
                )
            pause = self._grown(pause)

    def _show(self, job: FineTuningJob) -> None:
        note = STATUS_WORDS.get(job.status, job.status)
        progress = dataclasses.replace(self.progress, note=note)
        for event in self._service.events(job.id) if job.status not in ("validating_files", "queued") else ():
            data = event.data if isinstance(getattr(event, "data", None), dict) else {}
            if isinstance(data.get("step"), int):
                progress = JobProgress(
                    step=data["step"],
                    total_steps=_whole(data.get("total_steps")) or progress.total_steps,
                    loss=_number(data.get("train_loss")),
                    validation_loss=_number(data.get("valid_loss", data.get("full_valid_loss"))),
                    note=note,
                )
                break
        self.progress = progress
        self._tell(progress)

    def _over_badly(self, job: FineTuningJob, entry: JobEntry) -> HostedError:
        again = f"--dspy-rebuild={self._order.stage} asks for a new job"
        if job.status == "cancelled":
            return HostedError(f"job {job.id} at {entry.address} was cancelled there; {again}")
        said = {
            name: getattr(job.error, name, None) for name in ("message", "code", "param")
        }  # not all services say all
        told = ", ".join(
            (" ".join(str(value).split()) if name == "message" else f"{name} {value}")
            for name, value in said.items()
            if value
        )
        text = (
            f"job {job.id} at {entry.address} failed: {told or 'it gives no reason'}; mend what it names, then {again}"
        )
        return HostedError(self._call.access.scrub(text))


def how_to_go_on(entry: JobEntry, vendor: str) -> str:
    """How to come back to a job that goes on, or to end it."""
    key = '-H "api-key: $AZURE_API_KEY"' if vendor == "azure" else '-H "Authorization: Bearer $OPENAI_API_KEY"'
    path = (
        f"/openai/fine_tuning/jobs/{entry.job}/cancel?api-version=2024-10-21"
        if vendor == "azure"
        else (f"/fine_tuning/jobs/{entry.job}/cancel")
    )
    return (
        f"it goes on at {entry.address}: the same command finds it again and pays nothing twice; "
        f"to cancel it: curl -X POST {key} {entry.address}{path}"
    )


def _generation(job: FineTuningJob) -> int:
    """Which of an order's jobs this is; 0 where the service kept no marks."""
    try:
        return int((job.metadata or {}).get("dspy_ft_generation", "0"))
    except ValueError:
        return 0


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
