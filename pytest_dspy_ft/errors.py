"""Every error this package raises on purpose.

A message says what is wrong, where (file and line, option, stage) and what would be right; the plugin prints it
without a traceback. No message shows a key.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pytest_dspy_ft.text import did_you_mean, listed

P = ParamSpec("P")
R = TypeVar("R")


class DspyFtError(Exception):
    """Base of all errors whose message is meant for the user as it stands."""

    stage: str = ""
    """The stage that could not be built, or is not in a frozen store; empty where it is about none."""
    experiment: str = ""
    """The experiment of that stage."""

    def __str__(self) -> str:
        from pytest_dspy_ft.redaction import redact  # here: a session without errors has no use for it

        return redact(super().__str__())


class DatasetError(DspyFtError, ValueError):
    """A dataset cannot be read, split, or trusted (leakage)."""


class ExperimentError(DspyFtError, ValueError):
    """An experiment or one of its stages is declared wrongly."""


class MetricError(ExperimentError):
    """A metric cannot work: what it returned for the first answer is no score."""


class GateError(DspyFtError, ValueError):
    """A gate expression cannot be parsed, or names something that does not exist."""


class LMError(DspyFtError, ValueError):
    """A language model cannot be resolved or loaded."""


class ScriptError(DspyFtError, LookupError):
    """A scripted LM is asked for something that its script does not hold."""


class PriceError(DspyFtError, ValueError):
    """A line of ``dspy_prices`` makes no sense."""


class MissingDependencyError(LMError, ImportError):
    """A package or the weights of the embedded LM are not installed; the message holds the command that does it."""


class BuildError(DspyFtError, RuntimeError):
    """A stage could not be built."""


class NeededStageError(BuildError):
    """A stage could not be built, since one that it needs could not.

    Args:
        stage: The stage.
        needed: The one that it needs.
        error: Why that one could not be built.
    """

    def __init__(self, stage: str, needed: str, error: DspyFtError) -> None:
        super().__init__(f"stage {stage!r} needs stage {needed!r}, which failed: {error}")
        self.needed = needed
        self.stage, self.experiment = error.stage or needed, error.experiment


class TooFewTracesError(BuildError):
    """A fine-tuning was refused because too few traces are worth training on; the message is the diagnosis."""


class TrainingError(BuildError):
    """Fine-tuning failed."""


class ProviderError(DspyFtError, RuntimeError):
    """A provider refuses every call of an LM: its key, its rights, its quota, or an unknown model."""


class BudgetError(DspyFtError, RuntimeError):
    """The session's spend would pass ``--dspy-max-cost``."""


class ServingError(DspyFtError, RuntimeError):
    """A server that is to answer for a model of this machine does not, or does not load its adapter."""


class RecordingError(DspyFtError, RuntimeError):
    """A call is not recorded, or the recordings cannot be read or written."""


class StoreError(DspyFtError, RuntimeError):
    """The store lacks something that a frozen session needs, or cannot be written."""


class RecordError(DspyFtError, ValueError):
    """A saved record or baseline cannot be read."""


class CommentError(DspyFtError, RuntimeError):
    """A report could not be written as a comment on a pull request."""


class InitError(DspyFtError, ValueError):
    """``python -m pytest_dspy_ft init`` cannot write what it is asked for."""


class ExportError(DspyFtError, RuntimeError):
    """A stage may not be exported, or an exported program is not as it was written, or cannot be made again here."""


class HostedError(TrainingError):
    """A hosted fine-tuning job, or the service it runs on, failed; the message says what to do."""


class JobPendingError(HostedError):
    """A hosted job goes on without us; the next session finds it by itself."""


class DspyFtWarning(UserWarning):
    """Base of all warnings about gates and measurements; filter them by these classes."""


class ResolutionWarning(DspyFtWarning):
    """A split has too few examples for what a gate asks."""


class LeakageWarning(DspyFtWarning):
    """What should be apart is not: near-duplicates, a split that chose the program, examples that changed sides."""


class DatasetWarning(DspyFtWarning):
    """Data that may not be what was meant: a file not read as it stands (an index, rows of nothing), empty labels."""


class SplitWarning(DspyFtWarning):
    """The labels of one split differ from those of another far beyond chance."""


class MeasurementWarning(DspyFtWarning):
    """A measurement looks broken: constant predictions, a metric that returns the same for all."""


class ExportWarning(DspyFtWarning):
    """An exported program runs under other conditions than it was gated under."""


class ProviderWarning(DspyFtWarning):
    """An LM's provider is not waited for any more in this session."""


class LockWarning(DspyFtWarning):
    """A file system has no locks, and files stand for them."""


class RecordingWarning(DspyFtWarning):
    """A recorded line is not as it was written, and counts as missing."""


class EndpointWarning(DspyFtWarning):
    """An endpoint that costs by the hour may still run."""


class StoreWarning(DspyFtWarning):
    """Something in the store was not as it was written; it was set aside and will be made again."""


def raised_where_called(function: Callable[P, R]) -> Callable[P, R]:
    """A function that users call, whose errors look as if their own line had raised them: no line of ours is shown.

    An argument that it does not take is an :class:`ExperimentError`, which names the nearest one.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except DspyFtError as error:
            raise error.with_traceback(None) from error.__cause__
        except TypeError as error:
            if not (problem := _misfit(function, args, kwargs)):
                raise
            raise ExperimentError(problem) from error.__cause__

    return called


def _misfit(function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    """Why a function cannot be called with these arguments; empty where it can."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        taken = [name for name in signature.parameters if name not in ("self", "cls") and not name.startswith("_")]
        name = function.__qualname__.removesuffix(".__init__")
        unknown = [given for given in kwargs if given not in taken]
        if not unknown:
            return f"{name}(): {error}; it takes {', '.join(taken)}"
        return f"{name}() takes no {unknown[0]!r}{did_you_mean(unknown[0], taken)}; it takes {listed(taken)}"
    return ""
