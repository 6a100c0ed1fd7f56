"""Checks before a stage is compiled: failures that would come late, found before anything is spent."""

from __future__ import annotations

import importlib.util
from typing import Any

import dspy

from pytest_dspy_ft.errors import BuildError, DspyFtError
from pytest_dspy_ft.evaluation.programs import adapter_of
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.finetune.hosted.journal import TrainingJobContext
from pytest_dspy_ft.finetune.settings import finetuners, requires_training, training_settings
from pytest_dspy_ft.ladder.optimizer_traps import with_steps
from pytest_dspy_ft.ladder.recipe import Recipe
from pytest_dspy_ft.lms.calls import active_recorder


def preflight(experiment: Experiment, recipe: Recipe, job_context: TrainingJobContext | None = None) -> None:
    """Find out what would fail late, before anything is spent.

    Args:
        experiment: The experiment.
        recipe: The stage's recipe.
        job_context: What hosted fine-tuning jobs are for; None where no LM is trained elsewhere.

    Raises:
        BuildError: With what is missing and how to get it.
    """
    stage, optimizer = recipe.stage, recipe.stage.optimizer
    if not experiment.dataset.sizes["train"]:
        raise BuildError(
            f"stage {stage.name!r}: the train split is empty, and {type(optimizer).__name__} learns from it"
        )
    searches = any(isinstance(step, dspy.MIPROv2) for step in with_steps(optimizer))
    if searches and importlib.util.find_spec("optuna") is None:
        raise BuildError(
            f"stage {stage.name!r}: MIPROv2 needs optuna, and would find out only after its LM calls: "
            "pip install 'dspy[optuna]'"
        )
    if not requires_training(optimizer):
        return
    adapter = adapter_of(experiment)
    if not isinstance(adapter, dspy.ChatAdapter) or isinstance(adapter, dspy.JSONAdapter):
        raise BuildError(
            f"stage {stage.name!r}: {type(adapter).__name__} cannot write training rows; "
            "give the experiment adapter=dspy.ChatAdapter()"
        )
    recorder = active_recorder()
    for lm in [predictor.lm or recipe.lm for predictor in experiment.program.predictors()]:
        if recorder is not None and recorder.offline and recorder.covers(lm):
            continue  # what its training came to is recorded
        if job_context is not None and _check_hosted(lm, optimizer, job_context):
            continue
        provider = getattr(lm, "provider", None)
        if not getattr(provider, "finetunable", False):
            raise BuildError(
                f"stage {stage.name!r}: {lm.model!r} cannot be fine-tuned by its provider "
                f"({type(provider).__name__}); use --dspy-lm=local to train on this machine, "
                "or an LM whose provider trains, such as openai/..."
            )


def _check_hosted(lm: Any, optimizer: Any, job_context: TrainingJobContext) -> bool:
    """Check an LM that is trained elsewhere; gives False where its training is not ours to order."""
    from pytest_dspy_ft.finetune.hosted.provider import hosted_provider
    from pytest_dspy_ft.finetune.hosted.registry import is_hosted

    started = any(entry.job is not None for entry in job_context.journal.jobs())
    for finetuner in finetuners(optimizer):
        train_kwargs = training_settings(lm, finetuner)
        try:
            if not is_hosted(lm, train_kwargs) or (provider := hosted_provider(lm, train_kwargs)) is None:
                return False
            provider.check(lm, train_kwargs, started=started)
        except DspyFtError as error:
            raise BuildError(f"stage {job_context.stage!r}: {error}") from None
    return True
