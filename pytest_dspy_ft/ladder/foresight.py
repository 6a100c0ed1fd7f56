"""What stands in the way of a stage, also of one that it needs: known before anything is done for any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pytest_dspy_ft.errors import ProviderError
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.finetune.launched.protocol import Launcher
from pytest_dspy_ft.finetune.settings import requires_training
from pytest_dspy_ft.ladder.preflight import stage_problems
from pytest_dspy_ft.ladder.recipe import stage_lm
from pytest_dspy_ft.lms.reachable import unanswerable


class Foresight:
    """Looks ahead, once for each stage of an experiment.

    Args:
        experiment: The experiment.
        launcher: Who trains models of this machine instead of this process; None: nobody.
    """

    def __init__(self, experiment: Experiment, launcher: Launcher | None) -> None:
        self._experiment, self._launcher = experiment, launcher
        self._found: dict[str, str] = {}

    def problem(self, name: str, is_built: Callable[[str], bool]) -> str:
        """What keeps a stage, or one that it needs, from being built; empty where nothing does.

        Args:
            name: The stage.
            is_built: Says whether a stage is there already; only asked where something stands in its way.
        """
        for needed in self._experiment.closure(name):
            if needed not in self._found:
                problem = self._look(self._experiment.stages[needed])
                self._found[needed] = "" if problem and is_built(needed) else problem
            if found := self._found[needed]:
                return found
        return ""

    def _look(self, stage: Stage) -> str:
        experiment = self._experiment
        lm = stage_lm(experiment, stage)
        # A job that was started before needs nothing new: whether that is so, the stage's own preflight knows.
        problems = stage_problems(experiment, stage, lm, self._launcher, started=True)
        if problem := next(problems, ""):
            return problem
        if stage.optimizer is None:
            return ""
        asked = _asked_in_building(experiment, stage)
        return next((f"stage {stage.name!r}: {why}" for each in asked if (why := unanswerable(each))), "")


def require_answers(experiment: Experiment, names: Iterable[str], is_measured: Callable[[str], bool]) -> None:
    """See that somebody can answer for each stage that is to be measured, before the first of them is asked.

    Args:
        experiment: The experiment.
        names: The stages.
        is_measured: Says whether a stage is measured already; only asked where nobody can answer.

    Raises:
        ProviderError: No key is there, or nobody listens.
    """
    for name in sorted(names):
        stage = experiment.stages[name]
        if requires_training(stage.optimizer):
            continue  # another model will answer
        for lm in _lms(experiment, [name]):
            if (why := unanswerable(lm)) and not is_measured(name):
                raise ProviderError(f"stage {name!r}: {why}")


def _asked_in_building(experiment: Experiment, stage: Stage) -> Iterable[Any]:
    """The LMs that answer while a stage is built: the teacher's where one is named, else its own."""
    names = [stage.teacher or stage.name]
    if stage.teacher is not None and not requires_training(stage.optimizer):
        names.append(stage.name)
    return _lms(experiment, names)


def _lms(experiment: Experiment, names: Iterable[str]) -> Iterable[Any]:
    """The LMs that the predictors of some stages run on, each once."""
    found = [
        predictor.lm or stage_lm(experiment, experiment.stages[name])
        for name in names
        for predictor in experiment.program.predictors()
    ]
    return {id(lm): lm for lm in found}.values()
