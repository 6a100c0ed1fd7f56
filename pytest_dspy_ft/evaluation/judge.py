"""Whose LM answers a metric: the judge's, the same for every stage, and counted apart from the program's calls."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pytest_dspy_ft.errors import ExperimentError
from pytest_dspy_ft.evaluation.coroutines import awaited, only_async
from pytest_dspy_ft.experiment.copies import on_copies
from pytest_dspy_ft.experiment.metrics import filled
from pytest_dspy_ft.lms.calls import current_path, passing
from pytest_dspy_ft.lms.threads import carried_into_threads
from pytest_dspy_ft.lms.usage import Meter
from pytest_dspy_ft.records.usage import Usage

NO_JUDGE = (
    "the metric asks for an LM, and there is none for it: no stage's LM judges its own answers. "
    "Say who does with Experiment(..., judge_lm=dspy.LM(...)), or give the metric an LM of its own "
    "(set_lm() on its module, or dspy.context(lm=...) inside it)"
)


class _NoJudge:
    """Stands where a metric would find an LM: whoever looks at it, as all that asks one does, is told what is missing.

    Args:
        missed: Called with the error before it is raised: metrics and optimizers may swallow it.
    """

    def __init__(self, missed: Callable[[ExperimentError], None]) -> None:
        self._missed = missed

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        error = ExperimentError(NO_JUDGE)
        self._missed(error)
        raise error

    def __repr__(self) -> str:
        return "no judge_lm"


@dataclass(frozen=True)
class MetricAnswer:
    """What a metric came to."""

    value: Any = None
    exception: Exception | None = None
    """What it raised instead."""
    usage: Usage | None = None
    """What its LM calls used; None where it made none."""
    lm_failure: Exception | None = None
    """What a provider failed, or withheld, of what it asked; raised, or caught by the metric."""


@dataclass(frozen=True)
class Judge:
    """The LM that answers a metric."""

    lm: Any = None
    """None: there is none, and a metric that asks for one is an error."""

    def answered(self, metric: Callable[..., Any], *args: Any) -> MetricAnswer:
        """What a metric says, or raises.

        Raises:
            ExperimentError: If it asked for an LM and there is none, whatever it made of that.
        """
        missing: list[ExperimentError] = []
        value, exception = None, None
        with self._answering(Meter(), missing.append) as meter:
            try:
                function = metric.acall if only_async(metric) else metric  # type: ignore[attr-defined]
                value = awaited(function, *filled(metric, args))
            except Exception as error:
                exception = error
        if missing:
            raise missing[0]
        return MetricAnswer(value, exception, meter.usage if meter.calls else None, meter.failure)

    def wrapped(self, metric: Callable[..., Any], meter: Meter, stage: str) -> Callable[..., Any]:
        """A metric for an optimizer, which calls it by itself: on copies of its data, awaited, and counted apart.

        Args:
            metric: The optimizer's.
            meter: Counts its LM calls.
            stage: Whose optimizer it is, for messages.
        """
        guard, on_copied = current_path().guard, on_copies(metric)

        @functools.wraps(on_copied)
        def judged(*args: Any, **kwargs: Any) -> Any:
            missing: list[ExperimentError] = []
            try:
                with self._answering(meter, missing.append):
                    return awaited(on_copied, *args, **kwargs)
            finally:
                if missing:  # whatever the metric made of it
                    error = ExperimentError(f"stage {stage!r}: {missing[0]}")
                    if guard is not None:  # an optimizer swallows it: no further call is sent, and the stage fails
                        guard.cause = guard.cause or error
                    raise error from None

        return judged

    @contextlib.contextmanager
    def _answering(self, meter: Meter, missed: Callable[[ExperimentError], None]) -> Iterator[Meter]:
        lm = self.lm if self.lm is not None else _NoJudge(missed)
        with passing({"lm": lm, "trace": []}, meters=(meter,)), carried_into_threads():
            yield meter


NOBODY: Final = Judge()
"""No LM answers a metric."""
