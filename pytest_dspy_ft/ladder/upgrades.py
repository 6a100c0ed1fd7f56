"""Stages that another version of DSPy built: loaded where their prompts are the same, else built anew when asked to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pytest_dspy_ft.constants import UPGRADED
from pytest_dspy_ft.errors import DspyFtError
from pytest_dspy_ft.finetune.settings import requires_training
from pytest_dspy_ft.ladder.built_stage import BuildRequest, BuiltStage
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.ladder.dspy_versions import FIRST, dspy_version, earlier_versions
from pytest_dspy_ft.ladder.estimates import calls_of
from pytest_dspy_ft.ladder.prompts import compare_prompts, prompts_of
from pytest_dspy_ft.ladder.recipe import Recipe, make_recipe
from pytest_dspy_ft.lms.resolve import is_local

_USERS: Final = frozenset({"format", "train", "accept", "seed", "training", "compile_args", "trained_by"})
"""The parts of a key that no version of DSPy changes."""

_UNLIKE: Final = {
    "changed": "changes its prompts",
    "unknown": "may change its prompts: those that it had were not kept",
}


@dataclass(frozen=True)
class _Changed:
    """What has changed since another version of DSPy built a stage."""

    version: str
    parts: tuple[str, ...]
    """Of its key, apart from the version."""


class Upgrades:
    """Finds what another version of DSPy built, and says what building it anew means.

    Args:
        context: The experiment in this session.
    """

    def __init__(self, context: LadderContext) -> None:
        self._context = context
        self._experiment, self._store = context.experiment, context.store
        self._found: dict[str, str] = {}

    # --- loading -----------------------------------------------------------------------------------------------------

    def requests(self, request: BuildRequest) -> Iterator[BuildRequest]:
        """The same stage as other versions of DSPy would have filed it, those that the store may have."""
        recipes = {name: built.recipe for name, built in request.upstream.items()}
        for version in self._versions(request.stage.name):
            recipe = make_recipe(
                self._experiment, request.stage, recipes, version=version, trained_by=self._context.settings.trained_by
            )
            yield BuildRequest(recipe, request.upstream)

    def counts(self, built: BuiltStage) -> bool:
        """True where a stage of another version has the prompts that it would have now; that is said once."""
        name, version = built.recipe.stage.name, built.recipe.version
        try:
            now = prompts_of(self._experiment, built.program, built.lm)
        except Exception:  # its program cannot be put back on what DSPy makes of the declaration
            now = {}
        verdict = compare_prompts(self._store.load_prompts(built.build), now)
        self._found[name] = verdict
        if verdict == "same":
            self._context.caution(
                f"stage {name!r} was built with DSPy {version}, and DSPy {dspy_version()} writes the same prompts: it "
                f"is loaded; --dspy-rebuild={name} builds it anew"
            )
        return verdict == "same"

    def keep_prompts(self, built: BuiltStage) -> None:
        """Keep the prompts of a stage beside it where an earlier version of this package kept none."""
        if built.recipe.version == dspy_version() and self._store.lacks_prompts(built.build):
            with contextlib.suppress(DspyFtError):  # a program that is compiled again, and today takes LM calls
                self._store.keep_prompts(built.build, prompts_of(self._experiment, built.program, built.lm))

    # --- building anew -----------------------------------------------------------------------------------------------

    def reason(self, recipe: Recipe) -> str:
        """The reason why a stage of another version has to be built anew; empty where there is another reason."""
        name, changed = recipe.stage.name, self._changed_since(recipe)
        if changed is None or name in self._context.rebuild:
            return ""
        asked = "" if self._context.may_upgrade or not self._pays(recipe) else f"; --dspy-rebuild={UPGRADED} builds it"
        return f"DSPy {changed.version} -> {dspy_version()} {self._unlike(name, changed)}{asked}"

    def refusal(self, request: BuildRequest) -> str:
        """Why a stage is not built anew in this session; empty where it may be."""
        name, recipe = request.stage.name, request.recipe
        if self._context.may_upgrade or name in self._context.rebuild or not (pays := self._pays(recipe)):
            return ""
        if (changed := self._changed_since(recipe)) is not None:
            return (
                f"stage {name!r} was built with DSPy {changed.version}, and DSPy {dspy_version()} "
                f"{self._unlike(name, changed)}: built anew, it {pays}, and that may cost what it cost before. "
                f"--dspy-plan shows what it takes, --dspy-rebuild={UPGRADED} builds it; with DSPy {changed.version} "
                "it is loaded"
            )
        for other in self.requests(request):
            folder = self._store.jobs_folder(self._experiment.name, name, other.recipe.key)
            if folder.is_dir() and any(folder.glob("job-*.json")):
                return (
                    f"stage {name!r}: a fine-tuning job was ordered with DSPy {other.recipe.version}, and DSPy "
                    f"{dspy_version()} would order another: let DSPy {other.recipe.version} finish the stage, or order "
                    f"anew with --dspy-rebuild={UPGRADED}"
                )
        return ""

    def _changed_since(self, recipe: Recipe) -> _Changed | None:
        """What changed since another version built a stage; None where it is more than a version may change."""
        manifest = self._store.newest_manifest(self._experiment.name, recipe.stage.name)
        if manifest is None:
            return None
        parts = recipe.changed_parts(manifest["parts"])
        if "dspy" not in parts or _USERS.intersection(parts):
            return None
        return _Changed(str(manifest.get("dspy") or FIRST), tuple(part for part in parts if part != "dspy"))

    def _unlike(self, name: str, changed: _Changed) -> str:
        if name in self._found:
            return _UNLIKE[self._found[name]]
        below = [one for one in self._experiment.closure(name) if self._found.get(one) == "changed"]
        if below:
            return f"changes the prompts of stage {below[0]!r}, which it stands on"
        return f"changes what it is made of ({', '.join(changed.parts)})" if changed.parts else _UNLIKE["unknown"]

    def _versions(self, stage: str) -> list[str]:
        """Versions other than the installed one that may have built a stage."""
        noted = self._store.dspy_versions(self._experiment.name, stage)
        return [v for v in dict.fromkeys([*earlier_versions(), *sorted(noted)]) if v != dspy_version()]

    def _pays(self, recipe: Recipe) -> str:
        """What building and measuring a stage anew pays for; empty where it asks but LMs of this machine, or none."""
        stage, program = recipe.stage, self._experiment.program
        if requires_training(stage.optimizer):
            return "trains again"
        lms: list[Any] = [recipe.lm, *(predictor.lm for predictor in program.predictors())]
        if stage.teacher is not None:
            lms.append(self._experiment.stages[stage.teacher].lm or self._experiment.lm)
        if all(lm is None or is_local(lm) for lm in lms):
            return ""
        calls = calls_of(stage, self._experiment.dataset.held("train"), len(program.predictors()))
        if calls is None or calls.program or calls.teacher or calls.other:
            return "asks its LM again"
        measured = self._store.newest_evaluation(self._experiment.name, stage.name) is not None
        return "is measured again" if measured else ""
