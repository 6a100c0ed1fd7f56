"""A session's wishes for a ladder."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypedDict

from pytest_dspy_ft.constants import StopRule
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.guards import MAX_ERRORS
from pytest_dspy_ft.lms.budget import Budget
from pytest_dspy_ft.lms.patience import DEFAULT_PATIENCE, Patience
from pytest_dspy_ft.lms.prices import Prices
from pytest_dspy_ft.lms.providers import Providers
from pytest_dspy_ft.progress import Progress, SilentProgress
from pytest_dspy_ft.records.base import Split

if TYPE_CHECKING:
    from pytest_dspy_ft.finetune.launched.protocol import Launcher
    from pytest_dspy_ft.lms.serving import Serving


@dataclass(frozen=True)
class Stopping:
    """A session's wish that evaluations end when their verdicts are decided."""

    rule: StopRule
    gates: Callable[[], Collection[Gate]]
    """All gates that the session will judge for the experiment."""
    divisor: Callable[[], int] = lambda: 1
    """The most that the error of a gate's confidence is divided by, since others are judged beside it."""


class LadderOptions(TypedDict, total=False):
    """The settings as keyword arguments of :class:`~pytest_dspy_ft.Ladder`; None stands for the default."""

    frozen: bool
    rebuild: Collection[str]
    limit: int | None
    num_threads: int | None
    prices: Prices | None
    repeats: int
    max_errors: float
    progress: Progress | None
    session: str | None
    job_timeout: float | None
    budget: Budget | None
    patience: Patience
    providers: Providers
    serving: Serving | None
    launcher: Launcher | None
    measure_anew: Collection[tuple[str, Split]]
    stopping: Stopping | None
    rescore: bool


@dataclass(frozen=True)
class LadderSettings:
    """How the stages of one experiment are built, measured and judged in one session."""

    frozen: bool = False
    """Build nothing and call no LM; what is missing raises :class:`~pytest_dspy_ft.errors.StoreError`."""
    rebuild: Collection[str] = ()
    """Stages to build anew, with what depends on them; ``all`` for every stage."""
    limit: int | None = None
    """At most so many examples of each split."""
    num_threads: int | None = None
    """Threads for evaluation; None lets the LM decide."""
    prices: Prices = field(default_factory=Prices)
    """What models cost where list prices are not what is paid."""
    repeats: int = 1
    """How many times each example is evaluated, where the LM samples."""
    max_errors: float = MAX_ERRORS
    """The share of a split that may fail to be measured before a stage's gates fail."""
    progress: Progress = field(default_factory=SilentProgress)
    """Where progress is shown."""
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Identifies the session, so that its processes rebuild a stage once between them."""
    job_timeout: float | None = None
    """Seconds to wait for a hosted fine-tuning job, which goes on after that; None: as long as it takes."""
    budget: Budget | None = None
    """What may be spent; None for no limit."""
    patience: Patience = DEFAULT_PATIENCE
    """How failures of the LMs' provider are waited out."""
    providers: Providers = field(default_factory=Providers)
    """How long one call may take, how long each provider is waited for in all, and what is known of them."""
    serving: Serving | None = None
    """Servers that answer for models of this machine when they are evaluated; None: they answer here."""
    launcher: Launcher | None = None
    """Who trains models of this machine, see :func:`pytest_dspy_ft.launcher_for`; None: they are trained in this
    process."""
    measure_anew: Collection[tuple[str, Split]] = ()
    """Evaluations (stage, split) that do not count as the store has them where an LM may have changed behind its name,
    see :func:`pytest_dspy_ft.lms.resolve.may_change`; builds stay as they are."""
    stopping: Stopping | None = None
    """When evaluations that gates need may end early; None: each is made as a whole."""
    rescore: bool = False
    """Keep the scores that stored outputs are given in a frozen session, which else changes nothing."""

    @property
    def trained_by(self) -> str | None:
        """The engine that trains models of this machine; None where they are trained in this process."""
        return None if self.launcher is None else self.launcher.engine

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> LadderSettings:
        """The settings that keyword arguments describe.

        Raises:
            TypeError: If there is no such setting; the message lists the choices.
        """
        choices = [setting.name for setting in fields(cls)]
        if unknown := sorted(set(options) - set(choices)):
            raise TypeError(f"Ladder takes no {', '.join(unknown)}; choose from {', '.join(choices)}")
        return cls(**{name: value for name, value in options.items() if value is not None})
