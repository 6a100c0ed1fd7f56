"""Why a stage that the store has does not count now, and why one has to be built."""

from __future__ import annotations

from typing import Any

from pytest_dspy_ft.ladder.built_stage import BuildRequest
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.ladder.recipe import Recipe
from pytest_dspy_ft.provenance.footprint import Provenance
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.store.store import Build


class BuildDoubts:
    """Holds the store's builds against what they would be made of now.

    Args:
        context: The experiment in this session.
    """

    def __init__(self, context: LadderContext) -> None:
        self._context = context
        self._known: dict[str, str] = {}

    def provenance(self, request: BuildRequest) -> Provenance:
        """What building a stage leads to: its optimizer, the program, all LMs that take part."""
        program = self._context.experiment.program
        own = (predictor.lm for predictor in program.predictors() if predictor.lm is not None)
        upstream = (built.lm for built in request.upstream.values())
        return self._context.building(request.stage, [request.recipe.lm, *own, *upstream])

    def counts(self, request: BuildRequest, build: Build) -> bool:
        """True where the store's build is what building now would make; else why not is remembered."""
        context, stage, manifest = self._context, request.stage, build.manifest
        if context.must_renew(stage.name, request.recipe.key, manifest.get("session")):
            return False
        if manifest["upstream"] != request.upstream_digests:
            return False  # a stage below was built anew since, and came out differently
        if manifest.get("judge", context.judge_digest) != context.judge_digest:
            return False  # the metric of its optimizer asked the LM that was configured, and that is another one now
        kept = manifest.get("footprint")
        doubt = context.doubt(None if kept is None else Footprint.model_validate(kept), self.provenance(request))
        if doubt:
            self._known[stage.name] = doubt
        return not doubt

    def believes(self, request: BuildRequest, footprint: Footprint | None) -> bool:
        """True where what was kept of an attempt to build a stage rests on code that is the same now."""
        return not self._context.doubt(footprint, self.provenance(request))

    def reason(self, recipe: Recipe) -> str:
        """The reason why a stage has to be built: which part of its key is not what an earlier build had."""
        context, stage = self._context, recipe.stage
        name, store = context.experiment.name, context.store
        if stage.name in context.rebuild:
            return "--dspy-rebuild"
        if context.must_record(recipe.key):
            known = store.load_build(name, stage.name, recipe.key)
            if known is not None and not context.is_own(known.manifest.get("session")):
                return "its LM calls are to be recorded"
        if doubt := self._known.get(stage.name) or store.why_missing("build", name, stage.name, recipe.key):
            return doubt
        older = store.newest_manifest(name, stage.name)
        return "never built before" if older is None else self._changed_since(recipe, older)

    def _changed_since(self, recipe: Recipe, older: dict[str, Any]) -> str:
        changed = recipe.changed_parts(older["parts"])
        if not changed and older.get("judge", self._context.judge_digest) != self._context.judge_digest:
            return "changed: the LM that is configured, which its metric asks"
        if not changed:
            return "a stage it builds on came out differently"
        footprint = Footprint.model_validate(older.get("footprint") or {})
        names = self._context.building(recipe.stage, [recipe.lm]).changes(footprint)
        return f"changed: {', '.join(changed)}" + (f" ({', '.join(names)})" if names else "")
