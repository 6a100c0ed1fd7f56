"""Training elsewhere: what services and launchers are told of a stage, and where what they do is written down."""

from __future__ import annotations

import functools
from typing import Any

from pytest_dspy_ft.evaluation.binding import predictor_lms
from pytest_dspy_ft.finetune.hosted.journal import Journal, TrainingJobContext
from pytest_dspy_ft.finetune.hosted.registry import is_hosted
from pytest_dspy_ft.finetune.launched.context import LaunchContext, is_launchable
from pytest_dspy_ft.finetune.settings import finetuners, requires_training, training_settings
from pytest_dspy_ft.ladder.build_doubts import BuildDoubts
from pytest_dspy_ft.ladder.built_stage import BuildRequest
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.ladder.recipe import Recipe
from pytest_dspy_ft.provenance.footprint import Following


class TrainingElsewhere:
    """Says where the jobs of an experiment's stages are written down, and on whose account.

    Args:
        context: The experiment in this session.
        doubts: Says whether what a job rests on is so still.
    """

    def __init__(self, context: LadderContext, doubts: BuildDoubts) -> None:
        self._context, self._doubts = context, doubts

    def job_context(self, request: BuildRequest, start: Any, following: Following | None) -> TrainingJobContext | None:
        """The stage that jobs elsewhere are for, with their journal; None where it trains nowhere else.

        Args:
            request: The stage.
            start: The program that is trained.
            following: Follows what collecting traces rests on; None where nothing is collected.
        """
        context, recipe, stage = self._context, request.recipe, request.stage
        name, settings = context.experiment.name, context.settings
        if not self._trains_elsewhere(request, start):
            return None
        journal = Journal(
            context.store.jobs_folder(name, stage.name, recipe.key),
            settings.session,
            rebuild=stage.name in context.rebuild,
            spent=self._spent_jobs(recipe),
            believed=functools.partial(self._doubts.believes, request),
            resting_on=(lambda: None) if following is None else following.footprint,
        )
        return TrainingJobContext(
            experiment=name,
            stage=stage.name,
            stage_key=recipe.key,
            journal=journal,
            seed=context.experiment.seed,
            timeout=settings.job_timeout,
            endpoints=context.endpoints,
            approve_spend=context.approve_spend if settings.budget is not None else None,
            training_price=lambda model: None if (price := settings.prices.of(model)) is None else price.training,
        )

    def launch_context(self, request: BuildRequest) -> LaunchContext | None:
        """Who trains models of this machine for a stage; None where this process does.

        Args:
            request: The stage.
        """
        context, recipe, stage = self._context, request.recipe, request.stage
        launcher = context.settings.launcher
        if launcher is None or not requires_training(stage.optimizer):
            return None
        return LaunchContext(
            launcher,
            context.store.jobs_folder(context.experiment.name, stage.name, recipe.key),
            context.settings.session,
            rebuild=stage.name in context.rebuild,
            spent=self._spent_jobs(recipe),
            timeout=context.settings.job_timeout,
            how_to_cancel=f"python -m pytest_dspy_ft trainings {context.store.root} --cancel",
        )

    def _trains_elsewhere(self, request: BuildRequest, start: Any) -> bool:
        launched, lms = self._context.settings.launcher is not None, predictor_lms(start, request.recipe.lm).values()
        return any(
            is_hosted(lm, training_settings(lm, tuner)) or (launched and is_launchable(lm))
            for tuner in finetuners(request.stage.optimizer)
            for lm in lms
        )

    def _spent_jobs(self, recipe: Recipe) -> frozenset[str]:
        """Jobs whose models are in the build that counts."""
        used = self._context.store.load_build(self._context.experiment.name, recipe.stage.name, recipe.key)
        records = used.manifest["record"]["training"] if used is not None else []
        return frozenset(record["job"] for record in records if record.get("job"))
