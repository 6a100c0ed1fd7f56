"""A stage that exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_dspy_ft.ladder.recipe import Recipe
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.store.store import Build


@dataclass(frozen=True)
class BuiltStage:
    """A stage that exists: its program, and where it lies in the store."""

    recipe: Recipe
    build: Build
    program: Any
    """The master copy; hand out copies of it."""
    record: BuildRecord

    @property
    def lm(self) -> Any:
        """The LM the stage was put on (a trained model is on the predictors)."""
        return self.recipe.lm
