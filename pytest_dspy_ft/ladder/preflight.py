"""Checks before a stage is compiled: failures that would come late, found before anything is spent."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dspy

from pytest_dspy_ft.errors import BuildError, DspyFtError
from pytest_dspy_ft.evaluation.programs import adapter_of
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.metrics import check_metric
from pytest_dspy_ft.experiment.optimizers import LabeledFinetune
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.finetune.hosted.journal import TrainingJobContext
from pytest_dspy_ft.finetune.launched.context import LaunchContext, is_launchable
from pytest_dspy_ft.finetune.launched.protocol import Launcher
from pytest_dspy_ft.finetune.rows import unwritable
from pytest_dspy_ft.finetune.settings import finetuners, requires_training, training_settings
from pytest_dspy_ft.finetune.traces import unteachable
from pytest_dspy_ft.ladder.optimizer_traps import METRICS, with_steps
from pytest_dspy_ft.ladder.recipe import Recipe
from pytest_dspy_ft.lms.calls import active_recorder
from pytest_dspy_ft.text import did_you_mean, listed


def preflight(
    experiment: Experiment,
    recipe: Recipe,
    job_context: TrainingJobContext | None = None,
    launch: LaunchContext | None = None,
) -> None:
    """Find out what would fail late, before anything is spent.

    Args:
        experiment: The experiment.
        recipe: The stage's recipe.
        job_context: What hosted fine-tuning jobs are for; None where no LM is trained elsewhere.
        launch: Who trains models of this machine instead of this process; None: nobody.

    Raises:
        BuildError: With what is missing and how to get it.
    """
    started = job_context is not None and any(entry.job is not None for entry in job_context.journal.jobs())
    launcher = None if launch is None else launch.launcher
    for problem in stage_problems(experiment, recipe.stage, recipe.lm, launcher, started=started):
        raise BuildError(problem)


def stage_problems(
    experiment: Experiment,
    stage: Stage,
    lm: Any,
    launcher: Launcher | None,
    *,
    started: bool = False,
    with_keys: bool = True,
) -> Iterator[str]:
    """What would keep a stage from being compiled, found out without calling anybody; each names the stage.

    Args:
        experiment: The experiment.
        stage: One of its stages.
        lm: The LM that it runs on.
        launcher: Who trains models of this machine instead of this process; None: nobody.
        started: A job was started before, so that nothing new needs to be.
        with_keys: Services have to have their keys now; False where they may still come.
    """
    if stage.optimizer is None:
        return
    where = f"stage {stage.name!r}"
    try:
        for problem in _problems(experiment, stage, _Trainer(lm, launcher, started, with_keys)):
            yield f"{where}: {problem}"
    except DspyFtError as error:
        yield f"{where}: {error}"


@dataclass(frozen=True)
class _Trainer:
    """Who is to train what, as :func:`stage_problems` is told."""

    lm: Any
    launcher: Launcher | None
    started: bool
    with_keys: bool


def _problems(experiment: Experiment, stage: Stage, trainer: _Trainer) -> Iterator[str]:
    optimizer = stage.optimizer
    if not experiment.dataset.sizes["train"]:
        yield (
            f"the train split is empty, and {type(optimizer).__name__} learns from it: give it some examples (split=, "
            "or Dataset(train=[...]))"
        )
    yield from _argument_problems(stage)
    for step in with_steps(optimizer):
        for name in METRICS:
            if (metric := getattr(step, name, None)) is not None:
                check_metric(f"the metric of {type(step).__name__}", metric)
    searches = any(isinstance(step, dspy.MIPROv2) for step in with_steps(optimizer))
    if searches and importlib.util.find_spec("optuna") is None:
        yield "MIPROv2 needs optuna, and would find out only after its LM calls: pip install 'dspy[optuna]'"
    if requires_training(optimizer):
        yield from _training_problems(experiment, stage, trainer)


def _argument_problems(stage: Stage) -> Iterator[str]:
    """What a stage hands to its optimizer that this one does not take."""
    optimizer, kind = stage.optimizer, type(stage.optimizer).__name__
    if not hasattr(optimizer, "compile"):
        return
    accepted = inspect.signature(optimizer.compile).parameters
    taken = [name for name in accepted if name not in ("self", "student")]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        return
    if stage.teacher is not None and "teacher" not in accepted:
        yield f"{kind} takes no teacher; leave out teacher={stage.teacher!r}"
    for name in stage.compile_args:
        if name not in taken:
            near = did_you_mean(name, taken)
            yield f"compile_args: {kind}.compile() takes no {name!r}{near}; it takes {', '.join(taken)}"
    steps = getattr(optimizer, "optimizers", None)
    if isinstance(steps, dict) and "strategy" in accepted:
        strategy = stage.compile_args.get("strategy", accepted["strategy"].default)
        unknown = [step for part in str(strategy).split("->") if (step := part.strip()) not in steps]
        if unknown:
            yield (
                f"strategy={strategy!r} names the step {unknown[0]!r}, and {kind} was made with {listed(steps)}: "
                f"name these, as in {' -> '.join(steps)!r}"
            )


def _training_problems(experiment: Experiment, stage: Stage, trainer: _Trainer) -> Iterator[str]:
    adapter, optimizer = adapter_of(experiment), stage.optimizer
    if why := unwritable(adapter):
        yield (
            f"{type(adapter).__name__} cannot write training rows, {why}; give the experiment "
            "adapter=dspy.ChatAdapter()"
        )
    if isinstance(optimizer, LabeledFinetune) and (
        # A stage may be given its own, which hold what the file's do not.
        missing := unteachable(
            experiment.program, stage.compile_args.get("trainset") or experiment.dataset.held("train")
        )
    ):
        yield missing
    recorder = active_recorder()
    for each in {id(own): own for own in (p.lm or trainer.lm for p in experiment.program.predictors())}.values():
        if recorder is not None and recorder.offline and recorder.covers(each):
            continue  # what its training came to is recorded
        for finetuner in finetuners(optimizer):
            if problem := _training_problem(each, training_settings(each, finetuner), trainer):
                yield f"{_step(optimizer, finetuner)}{problem}"


def _step(optimizer: Any, finetuner: Any) -> str:
    """Which step of an optimizer it is, for messages; empty for the optimizer itself."""
    steps = getattr(optimizer, "optimizers", {}).items()
    return next((f"step {name!r}: " for name, step in steps if finetuner in finetuners(step)), "")


def _training_problem(lm: Any, settings: dict[str, Any], trainer: _Trainer) -> str:
    """Why an LM cannot be trained with these settings; empty where nothing is in the way."""
    from pytest_dspy_ft.finetune.hosted.provider import hosted_provider
    from pytest_dspy_ft.finetune.hosted.registry import is_hosted

    if is_hosted(lm, settings) and (hosted := hosted_provider(lm, settings)) is not None:
        try:
            hosted.check(lm, settings, started=trainer.started, with_key=trainer.with_keys)
        except DspyFtError as error:
            return f"training {lm.model!r}: {error}"
        return ""
    provider = getattr(lm, "provider", None)
    if not getattr(provider, "finetunable", False):
        return (
            f"{lm.model!r} cannot be fine-tuned by its provider ({type(provider).__name__}); use --dspy-lm=local to "
            "train on this machine, or an LM whose provider trains, such as openai/..."
        )
    if not is_launchable(lm):
        return ""  # a provider of the user's own knows its settings
    if trainer.launcher is not None:
        return _launching_problem(settings, trainer.launcher)
    from pytest_dspy_ft.finetune.launched.provider import local_config

    try:
        local_config(settings)
    except DspyFtError as error:
        return str(error)
    return ""


def _launching_problem(settings: dict[str, Any], launcher: Launcher) -> str:
    """Why a launcher cannot train with these settings, or at all."""
    from pytest_dspy_ft.finetune.launched.provider import launch_config

    try:
        launch_config(settings, launcher)
        if callable(check := getattr(launcher, "check", None)):
            check()
    except BuildError as error:
        return str(error)
    except Exception as error:  # of a launcher of the user's own, too
        return f"--dspy-train ({launcher.name}): {error}"
    return ""
