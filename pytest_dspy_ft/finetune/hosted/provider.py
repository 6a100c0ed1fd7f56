"""DSPy's door to hosted fine-tuning, put on every ``openai/...`` and ``azure/...`` LM that a stage trains.

It may also be given by hand, to change how patient it is: ``dspy.LM("openai/...", provider=HostedProvider(...))``.
"""

from __future__ import annotations

import copy
import datetime
import random
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import HostedError, JobPendingError
from pytest_dspy_ft.finetune.hosted.clients import Access, access_of, bare_model, is_hosted, is_hosted_model
from pytest_dspy_ft.finetune.hosted.job_request import HostedSettings, make_request
from pytest_dspy_ft.finetune.hosted.job_runner import JobRunner, resume_hint
from pytest_dspy_ft.finetune.hosted.journal import JobEntry, TrainingJobContext
from pytest_dspy_ft.finetune.hosted.preflight import check_request
from pytest_dspy_ft.finetune.hosted.retries import (
    HOSTED_BACKOFF,
    Clock,
    RetryingCaller,
    WatchStoppedError,
)
from pytest_dspy_ft.finetune.hosted.service import FineTuningApi, JobProgress
from pytest_dspy_ft.finetune.hosted.vendors import closing_soon, reason_closed
from pytest_dspy_ft.finetune.rows import ChatRow
from pytest_dspy_ft.insides.training import OpenAIProvider, Provider, TrainDataFormat, TrainingJob, TrainingStatus
from pytest_dspy_ft.lms.patience import Backoff

if TYPE_CHECKING:
    import httpx

STATUSES = {
    "validating_files": TrainingStatus.pending,
    "queued": TrainingStatus.pending,
    "succeeded": TrainingStatus.succeeded,
    "failed": TrainingStatus.failed,
    "cancelled": TrainingStatus.cancelled,
}


class ClosingWarning(UserWarning):
    """A vendor will soon close what is about to be paid for."""


class HostedTrainingJob(TrainingJob):  # type: ignore[misc]
    """A job elsewhere, watched by a thread of this process.

    Attributes:
        cost: US dollars, from the tokens that the service counted; None where it counts none or no price is known.
        crash: What stopped the watching thread, where that was no ordinary error.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cost: float | None = None
        self.crash: BaseException | None = None
        self.wake = threading.Event()
        self.runner: JobRunner | None = None

    @property
    def entry(self) -> JobEntry | None:
        """The job as it is written down; None before that."""
        return None if self.runner is None else self.runner.entry

    @property
    def progress(self) -> JobProgress | None:
        """Where it is; None before the first sign of life."""
        return None if self.runner is None else self.runner.progress

    def status(self) -> TrainingStatus:
        """Where the job stands, in DSPy's words."""
        if self.entry is None or self.entry.job is None:
            return TrainingStatus.not_started
        return STATUSES.get(self.entry.status, TrainingStatus.running)

    def leave(self, seconds: float = 10.0) -> str:
        """Stop watching the job, which goes on, and say how to come back to it.

        Args:
            seconds: How long to wait for a request under way: its reply holds the job's id.
        """
        self.wake.set()
        if self.thread is not None:
            self.thread.join(seconds)
        entry = self.entry
        if entry is None or (entry.job is None and not entry.unsettled):
            return "no hosted job was started yet; what was collected for it is kept"
        if entry.job is None:
            return f"a job was asked for at {entry.address}: the same command finds it, or asks again if there is none"
        vendor = "azure" if self.runner is None else self.runner.vendor
        return f"hosted job {entry.job} was left: {resume_hint(entry, vendor)}"


class HostedProvider(Provider):  # type: ignore[misc]
    """Trains over the OpenAI API: at OpenAI, on Azure, at any compatible address.

    Args:
        backoff: How long a failing request is tried again.
        clock: Time, for tests.
        jitter: Spreads pauses, so that many sessions do not ask at once.
        http_client: Connections to use instead of the client's own; they are left open.
        today: The day it is.
    """

    def __init__(
        self,
        *,
        backoff: Backoff = HOSTED_BACKOFF,
        clock: Clock | None = None,
        jitter: random.Random | None = None,
        http_client: httpx.Client | None = None,
        today: Callable[[], datetime.date] = datetime.date.today,
    ) -> None:
        super().__init__()
        self.finetunable = True
        self.TrainingJob = HostedTrainingJob
        self._backoff = backoff
        self._clock = clock or Clock()
        self._jitter = jitter or random.Random()
        self._http_client = http_client
        self._today = today
        self._lm: Any = None
        self._context: TrainingJobContext | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> HostedProvider:
        """Itself: DSPy deep-copies programs and their LMs freely; connections cannot be copied."""
        return self

    @staticmethod
    def is_provider_model(model: str) -> bool:
        """True for a model that is reached over the OpenAI API."""
        return is_hosted_model(model)

    def bound(self, lm: Any, context: TrainingJobContext) -> HostedProvider:
        """The provider for one LM in one stage."""
        provider = copy.copy(self)
        provider._lm, provider._context = lm, context
        return provider

    def check(self, lm: Any, train_kwargs: Mapping[str, Any], *, started: bool = False) -> None:
        """Find out what can be known before any trace is collected: a key, known settings, an open door.

        Args:
            lm: What is to be trained.
            train_kwargs: How.
            started: A job was started before, so that nothing new needs to be.

        Raises:
            LMError: If the LM has no key or no address.
            TrainingError: If a setting is unknown or out of range, or the vendor takes no new jobs.
        """
        access = access_of(lm)
        access.require_key()
        HostedSettings.from_kwargs(train_kwargs)
        if not started and (reason := reason_closed(lm.model, access, self._today())):
            raise HostedError(f"{lm.model} cannot be fine-tuned at {access.address}: {reason}")

    def finetune(
        self,
        job: HostedTrainingJob,
        model: str,
        train_data: list[ChatRow],
        train_data_format: TrainDataFormat | str | None,
        train_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Train and return the new model's name, with its vendor's prefix; DSPy calls this in the job's thread.

        Of ``train_kwargs``, ``collection`` says which collection of rows these are (see ``journal.py``); the others are
        fields of :class:`HostedSettings`.

        Raises:
            HostedError: The job failed or was refused; the message says what to do.
            JobPendingError: It goes on without us.
            TrainingError: Rows or settings are wrong; nothing was paid.
        """
        if self._context is None:
            raise HostedError("a hosted model is trained by a Stage: its jobs are written down in the stage's store")
        if train_data_format is not None and train_data_format != TrainDataFormat.CHAT:
            raise HostedError(f"train_data_format={train_data_format!r}: hosted models are trained on chats")
        access = access_of(self._lm)
        try:
            return self._finetune(job, self._context, access, model, train_data, dict(train_kwargs or {}))
        except WatchStoppedError:
            raise JobPendingError("nobody waits for the job any more") from None
        except Exception:
            raise
        except BaseException as error:
            job.crash = error  # DSPy's thread would die of it without a word, and whoever waits would wait for ever
            raise HostedError(f"the thread that watched the job was stopped by {type(error).__name__}") from error

    def _finetune(
        self,
        job: HostedTrainingJob,
        context: TrainingJobContext,
        access: Access,
        model: str,
        rows: list[ChatRow],
        kwargs: dict[str, Any],
    ) -> str:
        collection = int(kwargs.pop("collection", 1))
        settings = HostedSettings.from_kwargs(kwargs)
        request = make_request(rows, settings, model=bare_model(model), address=access.address, context=context)
        price = None if context.training_price is None else context.training_price(model)

        def before_paying() -> None:
            estimate = check_request(request, access, today=self._today(), price=price)
            if soon := closing_soon(request.model, access, self._today()):
                warnings.warn(f"stage {context.stage!r}: {soon}", ClosingWarning, stacklevel=2)
            if context.approve_spend is not None:
                context.approve_spend(
                    estimate.cost,
                    f"fine-tuning {request.model} for stage {context.stage!r} ({estimate.trained_tokens:,} tokens)",
                )

        client = access.client(self._http_client)
        try:
            call = RetryingCaller(access, self._clock, self._jitter, job.wake, self._backoff)
            job.runner = runner = JobRunner(
                FineTuningApi(client, call), request, collection=collection, before_paying=before_paying
            )
            entry = runner.run()
            name = str(entry.fine_tuned_model)
            if access.vendor == "azure":
                name = self._deployed(runner.service, settings.deployment or name, name)
        finally:
            if self._http_client is None:  # connections that were given are not ours to close
                client.close()
        if entry.trained_tokens is not None and price is not None:
            job.cost = entry.trained_tokens * price / 1e6
        return f"{access.vendor}/{name}"

    def _deployed(self, service: FineTuningApi, deployment: str, model: str) -> str:
        """The name under which Azure answers for a trained model, once somebody has deployed it there."""
        if service.answers(deployment):
            return deployment
        raise JobPendingError(
            f"the model {model} is trained, and Azure answers for it once it is deployed under the name {deployment!r} "
            "(or another, given as train_kwargs={'deployment': ...}): az cognitiveservices account deployment create "
            f"--deployment-name {deployment} --model-name {model} ...; then run again: the trained model is found, "
            "nothing is paid twice"
        )


def hosted_provider(lm: Any) -> HostedProvider | None:
    """The provider that trains an LM over the OpenAI API; None for an LM that brings another one that can train."""
    own = getattr(lm, "provider", None)
    if isinstance(own, HostedProvider):
        return own
    if is_hosted(lm) and (type(own) in (OpenAIProvider, Provider) or own is None):
        return HostedProvider()
    return None
