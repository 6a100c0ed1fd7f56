"""The port for training services: what each must be able to do, in our words, and nothing of any vendor's.

A service is an adapter: it turns each call into one request (or what is one to the user) with the vendor's own client,
and lets the vendor's errors pass. Patience, the journal of what was paid for, the waiting, the user's approval of costs
and the settling of requests whose outcome is not known stay above it and serve all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pytest_dspy_ft.finetune.hosted.job_request import GENERATION_MARK, JOB_MARK, JobRequest, TrainingSettings

if TYPE_CHECKING:
    import datetime

    from pytest_dspy_ft.finetune.rows import ChatRow

__all__ = [
    "GENERATION_MARK",
    "JOB_MARK",
    "Deployment",
    "FailureMeaning",
    "FileNotReady",
    "FileState",
    "JobProgress",
    "JobRequest",
    "JobState",
    "NotServedYet",
    "RemoteJob",
    "Served",
    "ServiceLimits",
    "TrainingService",
    "TrainingSettings",
    "UnreadableReplyError",
]

JobState = Literal["waiting", "running", "paused", "succeeded", "failed", "cancelled"]
FRUITLESS: tuple[JobState, ...] = ("failed", "cancelled")
"""Of jobs that will never give a model."""

FileState = Literal["ready", "processing", "refused", "gone"]

FailureMeaning = Literal["final", "not_done", "unknown", "in_flight"]
"""Of a failed request. ``final``: the same request would fail again. All others may succeed a little later.
``not_done``: it was turned away, or never reached the service. ``unknown``: it may have been carried out.
``in_flight``: it may have been carried out, or may still be (a broken connection, a gateway that gave up)."""


@dataclass(frozen=True)
class RemoteJob:
    """A job at a service, in our words."""

    id: str
    state: JobState
    word: str = ""
    """The service's own word for the state."""
    known: bool = True
    """False where the word is none that we know: ``state`` is a guess then."""
    model: str | None = None
    """What came out, as the service calls it."""
    marks: Mapping[str, str] = field(default_factory=dict)
    """As they were given to :meth:`TrainingService.start`, or as much of them as the service keeps."""
    training_file: str | None = None
    created: float | None = None
    """Seconds since the epoch."""
    trained_tokens: int | None = None
    cost: float | None = None
    """US dollars, where the service tells it."""
    failure: str = ""
    """Why it failed, as the service says it, on one line."""

    @property
    def generation(self) -> int:
        """Which of the jobs with the same rows this is; 0 where the service kept no marks."""
        try:
            return int(self.marks.get(GENERATION_MARK, "0"))
        except ValueError:
            return 0


@dataclass(frozen=True)
class JobProgress:
    """Where a job is."""

    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    validation_loss: float | None = None
    note: str = ""
    """The service's word for it."""


@dataclass(frozen=True)
class ServiceLimits:
    """What a service takes for a model, and for how long."""

    min_rows: int = 1
    context: int | None = None
    """Tokens of one training row; None where nobody knows."""
    closed: str | None = None
    """Why no new job can be started, in words that say what else could be done; None where one can."""
    closing_soon: str | None = None
    """A word of warning where what is paid for will not answer for long."""


@dataclass(frozen=True)
class Deployment:
    """How a result is to be made callable."""

    name: str
    """Chosen by us and written down before :meth:`TrainingService.serve` is called, so that what a killed session left
    running is found by it: letters, digits and dashes, at most 60 of them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """From :attr:`~pytest_dspy_ft.finetune.hosted.job_request.TrainingSettings.deployment_settings`, as JSON."""


@dataclass(frozen=True)
class Served:
    """Where and how a result answers: the DSPy LM is ``lm.copy(model=model, **settings)``."""

    model: str
    """DSPy's name: ``openai/ft:...``; it may live at another address."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """``api_base``, ``max_tokens`` and the like, as JSON, never a key: ``api_key_variable`` names the environment
    variable that holds one."""
    release: str = ""
    """Handle of what must be released; empty where nothing is. The deployment's name is one, too."""


class NotServedYet(Exception):  # noqa: N818 - it is no error: the model is there, and answers a little later
    """The model exists and is not callable yet.

    Args:
        message: What is missing, and what the user may do, in words that may end a message.
        patience: Seconds for which it is worth asking again.
    """

    def __init__(self, message: str, patience: float = 900.0) -> None:
        super().__init__(message)
        self.patience = patience


class FileNotReady(Exception):  # noqa: N818 - nor is this
    """A job was not started since the service is still looking at its file: nothing has to be uploaded again."""


class UnreadableReplyError(Exception):
    """A reply that is not what the service's API promises: not JSON, or without what every such reply holds."""


class TrainingService(Protocol):
    """A service that trains models. Subclass it: what a vendor lacks is left as it is here.

    Attributes:
        name: ``openai``, ``azure``, ``together``, ...; also what ``train_kwargs={"service": ...}`` says.
        address: Where requests go, fit to be shown: without user name, password or query.
        awaits_files: Whether a job is started only once :meth:`file_state` calls its files ready.
        by_the_hour: Whether a result that is served costs money while nobody asks it. Such a result is served when it
            is first called, and released when it is not needed any more; others are served once, after training.
    """

    name: str
    address: str
    awaits_files: bool = False
    by_the_hour: bool = False

    # --- before anything is asked for ---------------------------------------------------------------------------------

    def require_key(self) -> None:
        """Check that there is a key; it is not checked whether it is right.

        Raises:
            LMError: Naming the variable to set.
        """

    def settings(self, train_kwargs: Mapping[str, Any]) -> TrainingSettings:
        """The settings that ``train_kwargs`` describe.

        Raises:
            TrainingError: If one is unknown (the message lists the choices) or out of range.
        """
        ...

    def model_name(self, model: str) -> str:
        """What the service calls a model of DSPy's: its name without the prefix."""
        return model.partition("/")[2] or model

    def known_limits(self, model: str, today: datetime.date) -> ServiceLimits:
        """What is known of :meth:`limits` without a request."""
        return ServiceLimits()

    def limits(self, model: str, today: datetime.date) -> ServiceLimits:
        """What the service takes for a model, in its own words for it; one that can be asked is asked once."""
        return self.known_limits(model, today)

    def estimate(self, order: JobRequest) -> float | None:
        """US dollars that a job will cost, as the service says; None: our own estimate counts."""
        return None

    # --- files --------------------------------------------------------------------------------------------------------

    def upload(self, name: str, rows: Sequence[ChatRow]) -> str:
        """Upload rows and give the file's id."""
        ...

    def file_state(self, file: str) -> FileState:
        """Whether a job can be started from a file."""
        return "ready"

    def withdraw(self, file: str) -> None:
        """Delete a file, so that no job can be started from it any more; one that is gone already is fine."""

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def start(
        self, order: JobRequest, marks: Mapping[str, str], training_file: str, validation_file: str | None
    ) -> RemoteJob:
        """Start a job. An optional argument that the service refuses by name is left out and the request made again.

        Raises:
            FileNotReady: The service is still looking at a file.
        """
        ...

    def job(self, job: str) -> RemoteJob | None:
        """How a job is; None where the service knows none of that id."""
        ...

    def progress(self, job: str) -> JobProgress | None:
        """The newest step that a job tells of, if any; it is asked without patience, and no error of it counts."""
        return None

    def find(self, marks: Mapping[str, str], files: Iterable[str]) -> list[RemoteJob] | None:
        """The jobs with a request's mark (``dspy_ft_job``), or that train on one of the files.

        ``dspy_ft_generation`` may be among the marks; jobs of other generations may be in the list all the same.
        None where the service lists no jobs.
        """
        return None

    def cancel(self, job: str) -> None:
        """Cancel a job; one that is over already, or unknown, is fine."""

    def work(
        self, order: JobRequest, job: RemoteJob, kept: Mapping[str, Any], keep: Callable[[Mapping[str, Any]], None]
    ) -> RemoteJob | None:
        """Do the next bounded piece of a job whose loop is driven by the client.

        Args:
            order: What is trained, and how.
            job: The job as it was last seen.
            kept: What was kept last, by whichever session; empty at first.
            keep: Writes down, as JSON, what a later session resumes from: it is on the disk when this returns.

        Returns:
            The job after that piece; None where the service drives its jobs by itself.
        """
        return None

    def find_model(self, job: RemoteJob) -> str | None:
        """The model of a job that has succeeded and does not name it, from wherever else the service tells it."""
        return None

    def how_to_cancel(self, job: str) -> str:
        """A command, or words, that end a job which we leave."""
        return f"cancel job {job} at {self.address}"

    # --- results ------------------------------------------------------------------------------------------------------

    def serve(self, job: RemoteJob, deployment: Deployment) -> Served:
        """Make a result callable, where that takes anything, and say how it is called. It may be called again.

        Raises:
            NotServedYet: It is on its way.
        """
        ...

    def release(self, served: Served) -> bool:
        """Stop what :meth:`serve` started, whatever state it is in, given its handle or the deployment's name.

        Returns:
            False where nothing of that name is there.
        """
        return False

    # --- failures -----------------------------------------------------------------------------------------------------

    def meaning(self, error: BaseException) -> FailureMeaning | None:
        """The meaning of an error for its request; None for what is no failed request."""
        ...

    def describe(self, error: BaseException) -> str:
        """What came back, or did not, in one line."""
        return " ".join(f"{type(error).__name__}: {error}".split())[:500]

    def advice(self, error: BaseException) -> str:
        """What to do about it, as the end of a sentence."""
        return "run again later, what is done is kept"

    def scrub(self, text: str) -> str:
        """A text without any key, should the service have echoed it."""
        return text

    def close(self) -> None:
        """Close the connections."""
