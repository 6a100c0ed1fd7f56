"""A stage as it is wanted, and as it exists."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_dspy_ft.evaluation.binding import predictor_lms
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.ladder.recipe import Recipe
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.store.store import Build
from pytest_dspy_ft.text import LINE, shorten


@dataclass(frozen=True)
class BuiltStage:
    """A stage that exists: its program, and where it lies in the store."""

    recipe: Recipe
    build: Build
    make: Callable[[], Any]
    """Makes the program, the first time it is needed."""
    record: BuildRecord

    def __repr__(self) -> str:
        kind = self.recipe.stage.work
        return shorten(f"BuiltStage({self.recipe.stage.name!r}, {kind}, {self.record.status})", LINE)

    @functools.cached_property
    def program(self) -> Any:
        """The master copy; hand out copies of it."""
        return self.make()

    @property
    def lm(self) -> Any:
        """The LM the stage was put on, bound around calls of its program (a trained model is on the predictors)."""
        return self.recipe.lm

    @property
    def lms(self) -> dict[str, Any]:
        """The LM that each predictor asks, by its name."""
        return predictor_lms(self.program, self.lm)


@dataclass(frozen=True)
class BuildRequest:
    """A stage that is wanted: its recipe, and the stages it stands on."""

    recipe: Recipe
    upstream: Mapping[str, BuiltStage]
    """The stages that it needs, by name."""

    @property
    def stage(self) -> Stage:
        """The stage as it is declared."""
        return self.recipe.stage

    @property
    def upstream_digests(self) -> dict[str, str]:
        """Content hash of each build that it stands on."""
        return {name: built.build.digest for name, built in self.upstream.items()}
