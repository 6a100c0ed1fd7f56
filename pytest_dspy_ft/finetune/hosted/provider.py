"""DSPy's door to hosted fine-tuning, put on every ``openai/...`` and ``azure/...`` LM that a stage trains.

It may also be given by hand, to change how patient it is: ``dspy.LM("openai/...", provider=HostedProvider(...))``.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import random
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dspy.clients.openai import OpenAIProvider
from dspy.clients.provider import Provider, TrainingJob
from dspy.clients.utils_finetune import TrainDataFormat, TrainingStatus

from pytest_dspy_ft.errors import HostedError, JobPendingError
from pytest_dspy_ft.finetune.hosted.clients import Access, access_of, bare_model, is_hosted
from pytest_dspy_ft.finetune.hosted.journal import JobEntry, Work
from pytest_dspy_ft.finetune.hosted.ordering import JobProgress, Ordering, how_to_go_on
from pytest_dspy_ft.finetune.hosted.orders import Settings, make_order
from pytest_dspy_ft.finetune.hosted.preflight import check_order
from pytest_dspy_ft.finetune.hosted.retries import Caller, Clock, GoneError, Patience, WallClock
from pytest_dspy_ft.finetune.hosted.service import Service
from pytest_dspy_ft.finetune.hosted.vendors import closed, closing_soon

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


@dataclass(frozen=True)
class JobReport:
    """What a job was, for the records."""

    job: str
    model: str
    trained_tokens: int | None
    cost: float | None
    """US dollars, from the tokens that the service counted; None where it counts none or no price is known."""
    resumed: bool
    progress: JobProgress


class HostedTrainingJob(TrainingJob):  # type: ignore[misc]
    """A job elsewhere, watched by a thread of this process.

    Attributes:
        progress: Where it is; None before the first sign of life.
        report: What it was; None until it has succeeded.
        crash: What stopped the watching thread, where that was no ordinary error.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.progress: JobProgress | None = None
        self.report: JobReport | None = None
        self.crash: BaseException | None = None
        self.wake = threading.Event()
        self.ordering: Ordering | None = None

    @property
    def entry(self) -> JobEntry | None:
        """What is written down of it."""
        return None if self.ordering is None else self.ordering.entry

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
        vendor = "azure" if self.ordering is None else self.ordering.vendor
        return f"hosted job {entry.job} was left: {how_to_go_on(entry, vendor)}"


class HostedProvider(Provider):  # type: ignore[misc]
    """Trains over the OpenAI API: at OpenAI, on Azure, at any compatible address.

    Args:
        patience: How long a failing request is tried again.
        clock: Time, for tests.
        jitter: Spreads pauses, so that many sessions do not ask at once.
        http_client: Connections to use instead of the client's own; they are left open.
        today: The day it is.
    """

    def __init__(
        self,
        *,
        patience: Patience | None = None,
        clock: Clock | None = None,
        jitter: random.Random | None = None,
        http_client: httpx.Client | None = None,
        today: Callable[[], datetime.date] = datetime.date.today,
    ) -> None:
        super().__init__()
        self.finetunable = True
        self.TrainingJob = HostedTrainingJob
        self._patience = patience or Patience()
        self._clock = clock or WallClock()
        self._jitter = jitter or random.Random()
        self._http_client = http_client
        self._today = today
        self._lm: Any = None
        self._work: Work | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> HostedProvider:
        """Itself: DSPy deep-copies programs and their LMs freely; connections cannot be copied."""
        return self

    @staticmethod
    def is_provider_model(model: str) -> bool:
        """Whether a model is reached over the OpenAI API."""
        return model.startswith(("openai/", "azure/", "ft:"))

    def bound(self, lm: Any, work: Work) -> HostedProvider:
        """The provider for one LM in one stage."""
        provider = copy.copy(self)
        provider._lm, provider._work = lm, work
        return provider

    def check(self, lm: Any, train_kwargs: Mapping[str, Any], *, started: bool = False) -> None:
        """Find out what can be known before any trace is collected: a key, known settings, an open door.

        Args:
            lm: What is to be trained.
            train_kwargs: How.
            started: Whether a job was ordered before; then nothing new needs to be started.

        Raises:
            LMError: If the LM has no key or no address.
            TrainingError: If a setting is unknown or out of range, or the vendor takes no new jobs.
        """
        access = access_of(lm)
        access.require_key()
        Settings.from_kwargs(train_kwargs)
        if not started and (reason := closed(lm.model, access, self._today())):
            raise HostedError(f"{lm.model} cannot be fine-tuned at {access.address}: {reason}")

    def finetune(
        self,
        job: HostedTrainingJob,
        model: str,
        train_data: list[dict[str, Any]],
        train_data_format: TrainDataFormat | str | None,
        train_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Train and return the new model's name; DSPy calls this in the job's thread.

        Args:
            job: Told of progress.
            model: ``openai/...`` or ``azure/...``.
            train_data: Rows of ``{"messages": [...]}``.
            train_data_format: "chat"; None counts as that.
            train_kwargs: Fields of :class:`~pytest_dspy_ft.hosted.orders.Settings`, and ``collection`` (which
                collection of rows these are, see :mod:`~pytest_dspy_ft.hosted.journal`).

        Returns:
            The trained model's name, with the prefix of the one it was made from.

        Raises:
            HostedError: The job failed or was refused; the message says what to do.
            JobPendingError: It goes on without us.
            TrainingError: Rows or settings are wrong; nothing was paid.
        """
        if self._work is None:
            raise HostedError("a hosted model is trained by a Stage: its jobs are written down in the stage's store")
        if train_data_format is not None and train_data_format != TrainDataFormat.CHAT:
            raise HostedError(f"train_data_format={train_data_format!r}: hosted models are trained on chats")
        access = access_of(self._lm)
        try:
            return self._finetune(job, self._work, access, model, train_data, dict(train_kwargs or {}))
        except GoneError:
            raise JobPendingError("nobody waits for the job any more") from None
        except Exception:
            raise
        except BaseException as error:
            job.crash = error  # DSPy's thread would die of it without a word, and whoever waits would wait for ever
            raise HostedError(f"the thread that watched the job was stopped by {type(error).__name__}") from error

    def _finetune(
        self,
        job: HostedTrainingJob,
        work: Work,
        access: Access,
        model: str,
        rows: list[dict[str, Any]],
        kwargs: dict[str, Any],
    ) -> str:
        number = int(kwargs.pop("collection", 1))
        settings = Settings.from_kwargs(kwargs)
        order = make_order(
            rows,
            settings,
            model=bare_model(model),
            address=access.address,
            stage_key=work.stage_key,
            experiment=work.experiment,
            stage=work.stage,
            seed=work.seed,
        )
        price = None if work.training_price is None else work.training_price(model)

        def before_paying() -> None:
            estimate = check_order(order, access, today=self._today(), price=price)
            if soon := closing_soon(order.model, access, self._today()):
                warnings.warn(f"stage {work.stage!r}: {soon}", ClosingWarning, stacklevel=2)
            if work.allowance is not None:
                work.allowance(
                    estimate.cost,
                    f"fine-tuning {order.model} for stage {work.stage!r} ({estimate.trained_tokens:,} tokens)",
                )

        def tell(progress: JobProgress) -> None:
            job.progress = progress

        with contextlib.ExitStack() as stack:
            client = access.client(self._http_client)
            if self._http_client is None:  # connections that were given are not ours to close
                stack.enter_context(client)
            call = Caller(access, self._clock, self._jitter, job.wake, self._patience)
            job.ordering = Ordering(
                Service(client, call),
                work.journal,
                order,
                number=number,
                before_paying=before_paying,
                tell=tell,
                timeout=work.timeout,
            )
            entry = job.ordering.run()
            name = str(entry.fine_tuned_model)
            if access.vendor == "azure":
                name = self._deployed(job.ordering.service, settings.deployment or name, name)
        tokens = entry.trained_tokens
        job.report = JobReport(
            job=str(entry.job),
            model=name,
            trained_tokens=tokens,
            cost=None if tokens is None or price is None else tokens * price / 1e6,
            resumed=entry.resumed,
            progress=job.ordering.progress,
        )
        return f"{access.vendor}/{name}"

    def _deployed(self, service: Service, deployment: str, model: str) -> str:
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
