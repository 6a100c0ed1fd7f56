"""DSPy's door to hosted fine-tuning, put on every LM that a stage trains and that a service trains elsewhere.

It may also be given by hand, to change how patient it is: ``dspy.LM("openai/...", provider=HostedProvider(...))``.
"""

from __future__ import annotations

import copy
import datetime
import random
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import HostedError, JobPendingError
from pytest_dspy_ft.finetune.hosted.job_request import make_request
from pytest_dspy_ft.finetune.hosted.job_runner import JobRunner, resume_hint
from pytest_dspy_ft.finetune.hosted.journal import JobEntry, TrainingJobContext
from pytest_dspy_ft.finetune.hosted.openai_api.access import is_hosted_model
from pytest_dspy_ft.finetune.hosted.port import JobProgress, TrainingService
from pytest_dspy_ft.finetune.hosted.preflight import check_request
from pytest_dspy_ft.finetune.hosted.registry import is_hosted, service_for
from pytest_dspy_ft.finetune.hosted.results import TrainedResult
from pytest_dspy_ft.finetune.hosted.retries import (
    HOSTED_BACKOFF,
    Clock,
    RetryingCaller,
    WatchStoppedError,
)
from pytest_dspy_ft.finetune.rows import ChatRow
from pytest_dspy_ft.insides.training import OpenAIProvider, Provider, TrainDataFormat, TrainingJob, TrainingStatus
from pytest_dspy_ft.lms.patience import Backoff
from pytest_dspy_ft.tracebacks import warn

if TYPE_CHECKING:
    import httpx

STATUSES = {
    "waiting": TrainingStatus.pending,
    "running": TrainingStatus.running,
    "paused": TrainingStatus.running,
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
        outcome: How the trained model answers; None before it does.
        crash: What stopped the watching thread, where that was no ordinary error.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cost: float | None = None
        self.crash: BaseException | None = None
        self.wake = threading.Event()
        self.runner: JobRunner | None = None
        self.outcome: TrainedResult | None = None

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
        seen = None if self.runner is None else self.runner.job
        return TrainingStatus.pending if seen is None else STATUSES[seen.state]

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
        cancel = "" if self.runner is None else self.runner.how_to_cancel
        return f"hosted job {entry.job} was left: {resume_hint(entry, cancel)}"


class HostedProvider(Provider):  # type: ignore[misc]
    """Trains at services elsewhere: OpenAI, Azure, any compatible address, and those of :mod:`registry`.

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

    def service(self, lm: Any, train_kwargs: Mapping[str, Any]) -> TrainingService:
        """The service that trains an LM.

        Raises:
            LMError: If the LM has no address.
            TrainingError: If ``train_kwargs`` name a service that there is not.
        """
        service = service_for(lm, train_kwargs, self._http_client)
        if service is None:
            raise HostedError(
                f"no service is known that trains {lm.model!r}; name one with train_kwargs={{'service': ...}}"
            )
        return service

    def check(self, lm: Any, train_kwargs: Mapping[str, Any], *, started: bool = False, with_key: bool = True) -> None:
        """Find out what can be known before any trace is collected: a key, known settings, an open door.

        Args:
            lm: What is to be trained.
            train_kwargs: How.
            started: A job was started before, so that nothing new needs to be.
            with_key: Its key has to be there; False where it may still come.

        Raises:
            LMError: If the LM has no key or no address.
            TrainingError: If a setting is unknown or out of range, or the vendor takes no new jobs.
        """
        service = self.service(lm, train_kwargs)
        if with_key:
            service.require_key()
        elif callable(require_client := getattr(service, "require_client", None)):
            require_client()
        service.settings(train_kwargs)
        if not started and (reason := service.known_limits(service.model_name(lm.model), self._today()).closed):
            raise HostedError(f"{lm.model} cannot be fine-tuned at {service.address}: {reason}")

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
        try:
            return self._finetune(job, self._context, model, train_data, dict(train_kwargs or {}))
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
        model: str,
        rows: list[ChatRow],
        kwargs: dict[str, Any],
    ) -> str:
        collection = int(kwargs.pop("collection", 1))
        service = self.service(self._lm, kwargs)
        settings = service.settings(kwargs)
        request = make_request(
            rows, settings, model=service.model_name(model), address=service.address, context=context
        )
        price = None if context.training_price is None else context.training_price(model)
        call = RetryingCaller(service, self._clock, self._jitter, job.wake, self._backoff)

        def before_paying() -> None:
            limits = call(f"asking about {request.model}", lambda: service.limits(request.model, self._today()))
            estimate = check_request(request, limits, price=price)
            if limits.closing_soon is not None:
                warn(f"stage {context.stage!r}: {limits.closing_soon}", ClosingWarning)
            if context.approve_spend is not None:
                told = call("asking for the price", lambda: service.estimate(request))
                context.approve_spend(
                    estimate.cost if told is None else told,
                    f"fine-tuning {request.model} for stage {context.stage!r} ({estimate.trained_tokens:,} tokens)",
                )

        try:
            service.require_key()
            job.runner = runner = JobRunner(call, request, collection=collection, before_paying=before_paying)
            entry = runner.run()
            job.outcome = runner.result(entry, settings.deployment_settings)
        finally:
            service.close()
        told = None if runner.job is None else runner.job.cost
        if told is not None:
            job.cost = told
        elif entry.trained_tokens is not None and price is not None:
            job.cost = entry.trained_tokens * price / 1e6
        return job.outcome.model


def hosted_provider(lm: Any, train_kwargs: Mapping[str, Any] | None = None) -> HostedProvider | None:
    """The provider that trains an LM elsewhere; None for an LM that brings another one that can train."""
    own = getattr(lm, "provider", None)
    if isinstance(own, HostedProvider):
        return own
    if is_hosted(lm, train_kwargs) and (type(own) in (OpenAIProvider, Provider) or own is None):
        return HostedProvider()
    return None
