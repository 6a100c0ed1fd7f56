"""Stages: each is loaded from the store where it is there, and built where it is not, once in a session."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_dspy_ft.errors import BuildError, DspyFtError, NeededStageError, StoreError, TooFewTracesError
from pytest_dspy_ft.evaluation.binding import put_lm
from pytest_dspy_ft.evaluation.programs import copy_program
from pytest_dspy_ft.experiment.stage import BASELINE, Stage
from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.finetune.hosted.journal import now
from pytest_dspy_ft.finetune.kept_collections import KeptCollection
from pytest_dspy_ft.finetune.trace_files import TraceFiles
from pytest_dspy_ft.ladder.build_doubts import BuildDoubts
from pytest_dspy_ft.ladder.built_stage import BuildRequest, BuiltStage
from pytest_dspy_ft.ladder.compile import Attempt, Compiled, CompileTask, compile_stage
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.ladder.foresight import Foresight
from pytest_dspy_ft.ladder.keeping import StageKeeper, check_examples, declared_objects
from pytest_dspy_ft.ladder.kept_traces import stage_collections
from pytest_dspy_ft.ladder.paid_answers import PaidAnswers
from pytest_dspy_ft.ladder.prompts import prompts_of
from pytest_dspy_ft.ladder.recipe import Recipe, make_recipe
from pytest_dspy_ft.ladder.shipping_notes import note_for_shipping
from pytest_dspy_ft.ladder.trained_models import attach_models, keep_adapters
from pytest_dspy_ft.ladder.training_elsewhere import TrainingElsewhere
from pytest_dspy_ft.ladder.upgrades import Upgrades
from pytest_dspy_ft.lms.cache import NoResponses, responses_from
from pytest_dspy_ft.lms.calls import active_recorder
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.lms.resolve import begin_work
from pytest_dspy_ft.lms.usage import repriced
from pytest_dspy_ft.progress import in_passing
from pytest_dspy_ft.provenance.footprint import Following
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.report.diagnosis import refusal
from pytest_dspy_ft.store.build_details import PROGRAM
from pytest_dspy_ft.store.store import Build


class StageBuilder:
    """Loads and builds the stages of one experiment, and keeps what became of them.

    Args:
        context: The experiment in this session.

    Attributes:
        records: One for each stage that was built, loaded, failed or skipped, by name.
    """

    def __init__(self, context: LadderContext) -> None:
        self._context = context
        self._experiment, self._store, self._settings = context.experiment, context.store, context.settings
        self._built: dict[str, BuiltStage] = {}
        self._failed: dict[str, DspyFtError] = {}
        self._attempts: dict[str, Attempt] = {}
        self._doubts = BuildDoubts(context)
        self._upgrades = Upgrades(context)
        self._elsewhere = TrainingElsewhere(context, self._doubts)
        self._foresight = Foresight(self._experiment, self._settings.launcher)
        self.records: dict[str, BuildRecord] = {}

    # --- what is asked of it -----------------------------------------------------------------------------------------

    def build(self, name: str) -> BuiltStage:
        """The stage, loaded or built; see :meth:`pytest_dspy_ft.Ladder.build`."""
        stage = self._experiment.stage(name)
        if name in self._built:
            return self._built[name]
        if name in self._failed:
            raise self._failed[name].with_traceback(None)  # else it grows with every test that asks
        try:
            if not self._settings.frozen and (ahead := self._foresight.problem(name, self._is_built)):
                raise BuildError(ahead)
            upstream = {needed: self._build_needed(stage, needed) for needed in stage.needs}
            return self._keep(self._load_or_build(self._request(stage, upstream)))
        except Exception as problem:
            error = problem if isinstance(problem, DspyFtError) else None
            if error is None:
                error = BuildError(f"stage {name!r} could not be built: {describe_exception(problem)}")
            error.stage, error.experiment = error.stage or name, self._experiment.name
            self._failed[name] = error
            self.records[name] = self._failure(stage, error)
            raise error from (None if error is problem else problem)

    def find(self, name: str) -> BuiltStage | None:
        """The stage as this session or the store has it; None where it would have to be built."""
        if name in self._built:
            return self._built[name]
        stage = self._experiment.stage(name)
        upstream: dict[str, BuiltStage] = {}
        for needed in stage.needs:
            if (found := self.find(needed)) is None:
                return None
            upstream[needed] = found
        loaded = self._load(self._request(stage, upstream))
        return None if loaded is None else self._keep(loaded)

    def in_session(self, name: str) -> BuiltStage | None:
        """The stage, where this session has built or loaded it already; None where it did neither."""
        return self._built.get(name)

    def recipe(self, name: str) -> Recipe:
        """The recipe of a stage, found out without building or calling anything."""
        stage = self._experiment.stage(name)
        return self._recipe(stage, {needed: self.recipe(needed) for needed in stage.needs})

    def why(self, name: str) -> str:
        """The reason why a stage that is not in the store has to be built: which part of its key changed."""
        waiting = [needed for needed in self._experiment.stage(name).needs if self.find(needed) is None]
        reason = self._reason(self.recipe(name))
        return reason if not waiting or "came out" not in reason else f"it stands on {', '.join(waiting)}"

    def _reason(self, recipe: Recipe) -> str:
        return self._upgrades.reason(recipe) or self._doubts.reason(recipe)

    def skip(self, name: str, reason: str) -> None:
        """Note that a stage is out of this session's reach."""
        if name not in self.records:
            self.records[name] = self._record(self._experiment.stage(name), key="", status="skipped", reason=reason)

    # --- loading -----------------------------------------------------------------------------------------------------

    def _is_built(self, name: str) -> bool:
        return self.find(name) is not None

    def _build_needed(self, stage: Stage, needed: str) -> BuiltStage:
        try:
            return self.build(needed)
        except BuildError as error:
            raise NeededStageError(stage.name, needed, error) from error

    def _request(self, stage: Stage, upstream: Mapping[str, BuiltStage]) -> BuildRequest:
        recipes = {name: built.recipe for name, built in upstream.items()}
        return BuildRequest(self._recipe(stage, recipes), upstream)

    def _recipe(self, stage: Stage, needed: Mapping[str, Recipe]) -> Recipe:
        return make_recipe(self._experiment, stage, needed, trained_by=self._settings.trained_by)

    def _keep(self, built: BuiltStage) -> BuiltStage:
        name = built.recipe.stage.name
        self._built[name], self.records[name] = built, built.record
        return built

    def _load_or_build(self, request: BuildRequest) -> BuiltStage:
        name, progress = request.stage.name, self._settings.progress
        with in_passing(progress, f"{name}: looking into the store"):
            loaded = self._load(request)
        if loaded is not None:
            return loaded
        self._refuse_again(request)
        if self._settings.frozen:
            raise StoreError(
                f"stage {name!r} of experiment {self._experiment.name!r} is not in the store {self._store.root} "
                f"as it is declared now ({self._reason(request.recipe)}); run once without --dspy-frozen to "
                "build it"
            )

        with self._context.locked(f"builds {name}", f"stage-{request.recipe.key}"):
            if (loaded := self._load(request)) is not None:
                return loaded  # another process built it while we waited
            self._refuse_again(request)
            if refusal := self._upgrades.refusal(request):
                raise BuildError(refusal)
            with in_passing(progress, f"{name}: building"):
                return self._build(request)

    def _load(self, request: BuildRequest) -> BuiltStage | None:
        """The stage from the store, also as another DSPy built it; None where nothing that counts now is there."""
        if (found := self._load_filed(request)) is not None:
            self._upgrades.keep_prompts(found)
            return found
        others = filter(None, map(self._load_filed, self._upgrades.requests(request)))
        return next(filter(self._upgrades.counts, others), None)

    def _load_filed(self, request: BuildRequest) -> BuiltStage | None:
        """The stage as it is filed under a request's key; None where there is none, or where it does not count now."""
        recipe, stage = request.recipe, request.stage
        build = self._store.load_build(self._experiment.name, stage.name, recipe.key)
        if build is None:
            return None
        if not self._doubts.counts(request, build):
            return None
        record = repriced(build.record, self._settings.prices)
        for bootstrap in record.bootstraps:
            if bootstrap.kept < stage.min_traces:  # asked for since it was built; an empty store would fail too
                wanted = bootstrap.model_copy(update={"minimum": stage.min_traces})
                raise TooFewTracesError(refusal(wanted, stage.name))
        own = self._context.is_own(build.manifest.get("session"))
        return self._assemble(request, build, record, "built" if own else "loaded")

    def _assemble(self, request: BuildRequest, build: Build, record: BuildRecord, status: str) -> BuiltStage:
        content = build.read(PROGRAM)

        def start() -> Any:
            program = self._start(request)
            attach_models(program, request.recipe.lm, content["models"], build.folder, self._context.endpoints)
            return program

        keeper = self._keeper(request, start, build.folder)
        record = record.model_copy(update={"status": status, "digest": build.digest})
        built = BuiltStage(request.recipe, build, functools.partial(keeper.read, content), record)
        if "again" not in content:
            built.program  # noqa: B018  what cannot be read is found now; what is compiled again waits until it is needed
            if not self._settings.frozen:
                note_for_shipping(self._store, self._experiment, built)
        build.mark_used()
        return built

    def _keeper(self, request: BuildRequest, start: Callable[[], Any], folder: Path) -> StageKeeper:
        known = declared_objects(self._experiment, request.stage)
        return StageKeeper(
            request.stage, request.recipe.lm, known, start, functools.partial(self._compile_again, request, folder)
        )

    def _compile_again(self, request: BuildRequest, folder: Path) -> Any:
        """The stage's program once more, from a compilation that takes no LM call.

        Raises:
            BuildError: If it takes some today.
        """
        compiled = self._compile(request, self._task(request, self._start(request), folder, None))
        if compiled.calls:
            raise BuildError(
                f"stage {request.stage.name!r}: its program is compiled again each time, as it took no LM call when it "
                f"was built; today it took {compiled.calls}: --dspy-rebuild={request.stage.name} builds it anew"
            )
        return compiled.program

    def _start(self, request: BuildRequest) -> Any:
        """A fresh copy of the program a stage starts from, with the LMs it is to have of its own."""
        stage = request.stage
        if stage.name == BASELINE:
            return copy_program(self._experiment.program)
        program = copy_program(request.upstream[stage.start].program)
        if stage.lm is not None:  # it answers instead of trained models, too
            own = {name for name, p in self._experiment.program.named_predictors() if p.lm is not None}
            for name, predictor in program.named_predictors():
                if name not in own:
                    predictor.lm = None
        return program

    def _teacher(self, request: BuildRequest) -> Any:
        """A fresh copy of the teacher's program, on its own LM where that is another one than the stage's; or None."""
        if request.stage.teacher is None:
            return None
        built = request.upstream[request.stage.teacher]
        program = copy_program(built.program)
        return program if built.lm is request.recipe.lm else put_lm(program, built.lm)

    # --- building ----------------------------------------------------------------------------------------------------

    def _build(self, request: BuildRequest) -> BuiltStage:
        """Compile the stage and file it. The caller holds its lock."""
        context, recipe, stage, store = self._context, request.recipe, request.stage, self._store
        reason = self._doubts.reason(recipe)
        workspace = store.workspace(self._experiment.name, stage.name, recipe.key)
        keeper = self._keeper(request, functools.partial(self._start, request), workspace)
        if stage.optimizer is not None:
            keeper.known.look()  # what is declared, not what the optimizer will have noted on itself
        if stage.optimizer is not None and stage.work != "finetune":
            check_examples(self._experiment, stage, keeper.known)
        following = self._doubts.provenance(request).following()
        task = self._task(request, self._start(request), workspace, following)
        begin_work(recipe.lm)
        self._attempts[stage.name] = task.attempt
        try:
            with following.follower.block():
                compiled = self._compile(request, task)
        except TooFewTracesError:
            task.trace_files.refuse(request.upstream_digests, self._settings.session, following.footprint())
            context.mark_recorded(recipe.key, f"stage {stage.name}")
            raise
        context.mark_recorded(recipe.key, f"stage {stage.name}")
        footprint = following.footprint()
        context.note_unseen(footprint)
        with self._answers(recipe).counting_if_unkept():
            content = keeper.write(compiled)
        models = keep_adapters(compiled, task.workspace)
        record = self._record(
            stage,
            key=recipe.key,
            status="built",
            reason=reason,
            lm=compiled.model,
            strategy=compiled.strategy,
            unseen=footprint.unseen,
            **task.attempt.fields(),
        )
        task.trace_files.copy_to(task.workspace)
        _write_json(task.workspace / PROGRAM, {**content, "models": models})
        manifest = {
            "key": recipe.key,
            "dspy": recipe.version,
            "prompts": prompts_of(self._experiment, compiled.program, recipe.lm),
            "parts": recipe.part_digests,
            "upstream": request.upstream_digests,
            "session": self._settings.session,
            "created": now(),
            "notes": compiled.notes,
            "record": record.model_dump(mode="json"),
            "footprint": footprint.model_dump(mode="json"),
            **({"judge": context.judge_digest} if record.judge.lm_calls else {}),
            "declared": context.declared(),
        }
        build = store.commit_build(self._experiment.name, stage.name, recipe.key, task.workspace, manifest)
        task.trace_files.remove()  # they are in the stage's folder now
        # What is used from here on is what was written, so that this session and all later ones measure the same.
        return self._assemble(request, build, record, "built")

    def _task(self, request: BuildRequest, start: Any, workspace: Path, following: Following | None) -> CompileTask:
        recipe = request.recipe
        return CompileTask(
            experiment=self._experiment,
            settings=self._settings,
            recipe=recipe,
            start=start,
            teacher=self._teacher(request),
            judge=self._context.judge,
            workspace=workspace,
            trace_files=self._trace_files(recipe),
            attempt=Attempt(),
            output=self._context.library_output(recipe.stage.name, "building"),
            collections=stage_collections(self._context, self._doubts, request, following),
            job_context=self._elsewhere.job_context(request, start, following),
            launch=self._elsewhere.launch_context(request),
        )

    def _compile(self, request: BuildRequest, task: CompileTask) -> Compiled:
        logging = self._context.logging(task.output)
        with self._responses(request.recipe), self._context.paying(), logging:
            return compile_stage(task)

    def _trace_files(self, recipe: Recipe) -> TraceFiles:
        name = recipe.stage.name
        return TraceFiles(self._store.traces_folder(self._experiment.name, name, recipe.key), name)

    def kept_traces(self, name: str) -> KeptCollection | None:
        """The traces that a stage would be trained on without collecting any; None where it would collect."""
        stage = self._experiment.stage(name)
        found = {needed: self.find(needed) for needed in stage.needs}
        upstream = {needed: built for needed, built in found.items() if built is not None}
        if len(upstream) < len(found) or active_recorder() is not None:
            return None
        collections = stage_collections(self._context, self._doubts, self._request(stage, upstream), None)
        return None if collections is None else collections.find()

    def _responses(self, recipe: Recipe) -> contextlib.AbstractContextManager[None]:
        """Answers that an interrupted build of the same key already paid for; none when a rebuild was asked for."""
        if recipe.stage.name in self._context.rebuild:
            return responses_from(NoResponses())
        return responses_from(self._answers(recipe).responses())

    def _answers(self, recipe: Recipe) -> PaidAnswers:
        return PaidAnswers(self._store.root / "responses", self._experiment.name, recipe)

    # --- reasons and failures ----------------------------------------------------------------------------------------

    def _refuse_again(self, request: BuildRequest) -> None:
        """Refuse a stage whose very traces were refused before, without collecting them again."""
        stage = request.stage
        anew = stage.name in self._context.rebuild or self._context.must_record(request.recipe.key)
        files, session = self._trace_files(request.recipe), self._settings.session
        believed = functools.partial(self._doubts.believes, request)
        if records := files.refused(request.upstream_digests, stage.min_traces, session, believed, own_only=anew):
            self._attempts[stage.name] = Attempt(earlier=records)
            raise TooFewTracesError(
                f"{refusal(records[-1], stage.name)}\n  every trace, with all replies: {files.last}\n"
                f"  collected in an earlier session; --dspy-rebuild={stage.name} collects anew"
            )

    def _failure(self, stage: Stage, error: DspyFtError) -> BuildRecord:
        """The record of a stage that could not be built: what was collected and spent on it counts all the same."""
        attempt = self._attempts.get(stage.name)
        spent = attempt.fields() if attempt is not None else {}
        return self._record(stage, key="", status="failed", reason=_reason(error), **spent)

    def _record(self, stage: Stage, **fields: Any) -> BuildRecord:
        return BuildRecord(experiment=self._experiment.name, stage=stage.name, kind=stage.work, **fields)


def _reason(error: DspyFtError) -> str:
    """Why a stage failed, as it stands beside its name: that of the stage it needs stands beside that one's."""
    return f"needs stage {error.needed!r}, which failed" if isinstance(error, NeededStageError) else str(error)


def _write_json(path: Path, value: Any) -> None:
    """Write JSON that gives the same values again, keys in their order: a demo may hold a lone surrogate."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, text, flushed=False)
