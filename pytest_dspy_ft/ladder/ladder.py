"""The ladder of one experiment in one session: every stage built or loaded once, every evaluation made once.

This is the core's front door. It knows nothing of pytest: use it from a script or a notebook::

    ladder = Ladder(experiment, store=".dspy_ft")
    print(ladder.evaluate("finetuned", on="test").score)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import uuid
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from pytest_dspy_ft.errors import (
    BudgetError,
    BuildError,
    DspyFtError,
    ExperimentError,
    MeasurementWarning,
    ProviderError,
    RecordingError,
    StoreError,
    TooFewTracesError,
)
from pytest_dspy_ft.evaluation.evaluate import Measurement
from pytest_dspy_ft.evaluation.programs import adapter_of, bound_program, copy_program, restore_state, written_program
from pytest_dspy_ft.evaluation.repeats import evaluate_repeatedly, samples
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.experiment.example_id import describe, example_id
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.stage import BASELINE, Stage
from pytest_dspy_ft.finetune.hosted.clients import is_hosted
from pytest_dspy_ft.finetune.hosted.journal import Journal, Work
from pytest_dspy_ft.finetune.optimizer import requires_training
from pytest_dspy_ft.finetune.trace_files import TraceFiles
from pytest_dspy_ft.fingerprint import digest_json, fingerprint, lm_identity
from pytest_dspy_ft.gates.gate import Gate, judge
from pytest_dspy_ft.gates.guards import MAX_ERRORS, measurement_doubts
from pytest_dspy_ft.ladder.builder import BuiltStage
from pytest_dspy_ft.ladder.compile import Attempt, compile_stage
from pytest_dspy_ft.ladder.recipe import KEY_FORMAT, Recipe, make_recipe
from pytest_dspy_ft.ladder.trained_models import attach_models, keep_adapters
from pytest_dspy_ft.lms.budget import Budget
from pytest_dspy_ft.lms.cache import KeptResponses, NoResponses, responses_from
from pytest_dspy_ft.lms.calls import active_recorder
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.lms.prices import Prices
from pytest_dspy_ft.lms.resolve import begin_work, is_local
from pytest_dspy_ft.lms.retry import DEFAULT_PATIENCE, Patience
from pytest_dspy_ft.lms.usage import SETTING as PRICES
from pytest_dspy_ft.lms.usage import repriced
from pytest_dspy_ft.progress import Progress, SilentProgress
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.records.build import BuildRecord, StageDetails
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.gate import VerdictRecord
from pytest_dspy_ft.records.run import ExampleContent, ExperimentRecord
from pytest_dspy_ft.records.trajectories import ladder_results
from pytest_dspy_ft.redaction import remember_secrets_of
from pytest_dspy_ft.report.diagnosis import refusal
from pytest_dspy_ft.store.build_details import PROGRAM, read_details
from pytest_dspy_ft.store.store import Build, Store

if TYPE_CHECKING:
    from pytest_dspy_ft.lms.serving import Serving


class Ladder:
    """Builds, evaluates and judges the stages of one experiment.

    Args:
        experiment: What to build.
        store: Where builds and evaluations are kept; a :class:`Store` or its directory.
        frozen: Build nothing and call no LM; what is missing raises :class:`StoreError`.
        rebuild: Stages to build anew, with what depends on them; ``all`` for every stage.
        limit: At most so many examples of each split.
        num_threads: Threads for evaluation; None lets the LM decide.
        prices: What models cost where list prices are not what is paid.
        repeats: How many times each example is evaluated, where the LM samples.
        max_errors: The share of a split that may fail to be measured before a stage's gates fail.
        progress: Where progress is shown; None shows none.
        session: Identifies the session, so that its processes rebuild a stage once between them.
        job_timeout: Seconds to wait for a hosted fine-tuning job, which goes on after that; None: as long as it takes.
        budget: What may be spent; None for no limit.
        patience: How failures of the LMs' provider are waited out.
        serving: A server that answers for models of this machine when they are evaluated; None: they answer here.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: Store | Path | str = ".dspy_ft",
        *,
        frozen: bool = False,
        rebuild: Collection[str] = (),
        limit: int | None = None,
        num_threads: int | None = None,
        prices: Prices | None = None,
        repeats: int = 1,
        max_errors: float = MAX_ERRORS,
        progress: Progress | None = None,
        session: str | None = None,
        job_timeout: float | None = None,
        budget: Budget | None = None,
        patience: Patience = DEFAULT_PATIENCE,
        serving: Serving | None = None,
    ) -> None:
        self.experiment = experiment if limit is None else experiment.limited(limit)
        self.store = store if isinstance(store, Store) else Store(store)
        self.frozen = frozen
        self.limit = limit
        self.num_threads = num_threads
        self.prices = prices or Prices()
        self.repeats = repeats
        self.max_errors = max_errors
        self.progress: Progress = progress or SilentProgress()
        self.session = session or uuid.uuid4().hex
        self.job_timeout = job_timeout
        self.budget = budget
        self.patience = patience
        self.serving = serving
        self._rebuild = self._with_dependents(rebuild)
        self._built: dict[str, BuiltStage] = {}
        self._failed: dict[str, Exception] = {}
        self._attempts: dict[str, Attempt] = {}
        self._records: dict[str, BuildRecord] = {}
        self._results: dict[tuple[str, Split], StageResult] = {}
        self._refused: dict[tuple[str, Split], ProviderError | RecordingError] = {}
        self._verdicts: list[VerdictRecord] = []
        self._stopped = ""
        self._cautions: dict[str, None] = {}
        for lm in self._all_lms():
            remember_secrets_of(lm)
        self._metric = fingerprint(experiment.metric)[:16]

    # --- stages ------------------------------------------------------------------------------------------------------

    def build(self, name: str) -> BuiltStage:
        """The stage, loaded from the store where it is there, built where it is not.

        Raises:
            ExperimentError: If there is no such stage.
            BuildError: If it, or a stage it needs, cannot be built. A failed build is not tried again in this session.
            StoreError: In a frozen session, if it is not in the store.
        """
        stage = self.experiment.stage(name)
        if name in self._built:
            return self._built[name]
        if name in self._failed:
            raise self._failed[name]
        try:
            upstream = {needed: self._upstream(stage, needed) for needed in stage.needs}
            built = self._load_or_build(stage, upstream)
        except Exception as problem:
            error = problem
            if not isinstance(problem, DspyFtError):
                error = BuildError(f"stage {name!r} could not be built: {describe_exception(problem)}")
            self._failed[name] = error
            self._records[name] = self._failure(stage, error)
            raise error from (None if error is problem else problem)
        self._built[name] = built
        self._records[name] = built.record
        return built

    def program(self, stage: str) -> Any:
        """A copy of a stage's program, ready to call anywhere: its LM and adapter come with it."""
        built = self.build(stage)
        program = copy_program(built.program)
        cache: KeptResponses | None = None
        if is_local(built.lm):
            # Same weights, same prompt, greedy: the same answer. Keeping it spares loading the model for one call.
            for predictor in program.predictors():
                predictor.lm = predictor.lm.copy(cache=True)
            cache = KeptResponses(self.store.root / "responses", digest_json(lm_identity(built.lm)))
        return bound_program(program, built.lm, adapter_of(self.experiment), cache, self._within_budget)

    def recipe(self, name: str) -> Recipe:
        """What determines a stage, found out without building or calling anything."""
        stage = self.experiment.stage(name)
        upstream = {needed: self.recipe(needed) for needed in stage.needs}
        keys, lms = ({n: getattr(r, part) for n, r in upstream.items()} for part in ("key", "lm"))
        return make_recipe(self.experiment, stage, keys, lms)

    def find(self, name: str) -> BuiltStage | None:
        """The stage as the store has it; None where it would have to be built."""
        if name in self._built:
            return self._built[name]
        upstream = {}
        for needed in self.experiment.stage(name).needs:
            if (found := self.find(needed)) is None:
                return None
            upstream[needed] = found
        loaded = self._load(self.recipe(name), upstream)
        if loaded is not None:
            self._built[name], self._records[name] = loaded, loaded.record
        return loaded

    def why(self, name: str) -> str:
        """Why a stage that is not in the store has to be built: which part of its key is not what it was."""
        waiting = [needed for needed in self.experiment.stage(name).needs if self.find(needed) is None]
        reason = self._why(self.recipe(name))
        return reason if not waiting or "came out" not in reason else f"it stands on {', '.join(waiting)}"

    def find_evaluation(self, name: str, on: Split) -> StageResult | None:
        """A stage's evaluation as the store has it; None where it would have to be measured."""
        if (name, on) in self._results:
            return self._results[name, on]
        built = self.find(name)
        if built is None or not self.experiment.dataset.split(on):
            return None
        return self._known_result(name, on, self._evaluation_key(_subject(built), on, built.program))

    def skip(self, name: str, reason: str) -> None:
        """Note that a stage is out of this session's reach."""
        if name not in self._records:
            self._records[name] = self._record(self.experiment.stage(name), key="", status="skipped", reason=reason)

    def _failure(self, stage: Stage, error: Exception) -> BuildRecord:
        """The record of a stage that could not be built: what was collected and spent on it counts all the same."""
        failed = self._record(stage, key="", status="failed", reason=str(error))
        if (attempt := self._attempts.get(stage.name)) is None:
            return failed
        return failed.model_copy(update=_of(attempt))

    def _upstream(self, stage: Stage, needed: str) -> BuiltStage:
        try:
            return self.build(needed)
        except BuildError as error:
            raise BuildError(f"stage {stage.name!r} needs stage {needed!r}, which failed: {error}") from error

    def _load_or_build(self, stage: Stage, upstream: Mapping[str, BuiltStage]) -> BuiltStage:
        keys = {name: built.recipe.key for name, built in upstream.items()}
        recipe = make_recipe(self.experiment, stage, keys, {n: b.lm for n, b in upstream.items()})
        if (loaded := self._load(recipe, upstream)) is not None:
            return loaded
        self._refuse_again(recipe, upstream)
        if self.frozen:
            raise StoreError(
                f"stage {stage.name!r} of experiment {self.experiment.name!r} is not in the store {self.store.root} "
                f"as it is declared now ({self._why(recipe)}); run once without --dspy-frozen to build it"
            )

        def waiting() -> None:
            with self.progress.task(f"{stage.name}: waiting for another process that builds it", unit="s") as task:
                task.advance(0)

        with self.store.lock(f"stage-{recipe.key}", waiting):
            if (loaded := self._load(recipe, upstream)) is not None:
                return loaded  # another process built it while we waited
            self._refuse_again(recipe, upstream)
            return self._build(recipe, upstream)

    def _refuse_again(self, recipe: Recipe, upstream: Mapping[str, BuiltStage]) -> None:
        """Refuse a stage whose very traces were refused before, without collecting them again."""
        stage = recipe.stage
        if stage.name in self._rebuild or self._unrecorded(recipe.key):
            return
        files = self._trace_files(recipe)
        if records := files.refused(_digests(upstream), stage.min_traces):
            self._attempts[stage.name] = Attempt(earlier=records)
            raise TooFewTracesError(
                f"{refusal(records[-1], stage.name)}\n  every trace, with all replies: {files.last}\n"
                f"  collected in an earlier session; --dspy-rebuild={stage.name} collects anew"
            )

    def _mark_recorded(self, recipe: Recipe) -> None:
        if self._unrecorded(recipe.key) and (recorder := active_recorder()) is not None:
            recorder.mark_complete(recipe.key, f"{self.experiment.name}: stage {recipe.stage.name}")

    def _trace_files(self, recipe: Recipe) -> TraceFiles:
        name = recipe.stage.name
        return TraceFiles(self.store.traces_folder(self.experiment.name, name, recipe.key), name)

    def _load(self, recipe: Recipe, upstream: Mapping[str, BuiltStage]) -> BuiltStage | None:
        build = self.store.load_build(self.experiment.name, recipe.stage.name, recipe.key)
        if build is None:
            return None
        if recipe.stage.name in self._rebuild and build.manifest.get("session") != self.session:
            return None
        if build.manifest.get("session") != self.session and self._unrecorded(recipe.key):
            return None
        if build.manifest["upstream"] != _digests(upstream):
            return None  # a stage below was built anew since, and came out differently
        record = repriced(BuildRecord.model_validate(build.manifest["record"]), self.prices)
        mine = build.manifest.get("session") == self.session
        record = record.model_copy(update={"status": "built" if mine else "loaded", "digest": build.digest})
        for bootstrap in record.bootstraps:
            if bootstrap.kept < recipe.stage.min_traces:  # asked for since it was built; an empty store would fail too
                wanted = bootstrap.model_copy(update={"minimum": recipe.stage.min_traces})
                raise TooFewTracesError(refusal(wanted, recipe.stage.name))
        return self._assemble(recipe, build, record, upstream)

    def _build(self, recipe: Recipe, upstream: Mapping[str, BuiltStage]) -> BuiltStage:
        stage = recipe.stage
        reason = self._why(recipe)
        workspace = self.store.workspace(self.experiment.name, stage.name, recipe.key)
        start = self._student(recipe, upstream)
        teacher = copy_program(upstream[stage.teacher].program) if stage.teacher else None
        begin_work(recipe.lm)
        attempt = self._attempts[stage.name] = Attempt()
        trace_files = self._trace_files(recipe)
        try:
            with self._build_responses(recipe), self._paying():
                compiled = compile_stage(
                    self.experiment,
                    recipe,
                    start,
                    teacher,
                    workspace=workspace,
                    num_threads=self.num_threads,
                    progress=self.progress,
                    trace_files=trace_files,
                    attempt=attempt,
                    work=self._work(recipe, start),
                    patience=self.patience,
                )
        except TooFewTracesError:
            trace_files.refuse(_digests(upstream))
            self._mark_recorded(recipe)
            raise
        self._mark_recorded(recipe)
        models = keep_adapters(compiled, workspace)
        record = self._record(
            stage,
            key=recipe.key,
            status="built",
            reason=reason,
            lm=compiled.model,
            strategy=compiled.strategy,
            **_of(attempt),
        )
        trace_files.copy_to(workspace)
        (workspace / PROGRAM).write_text(_json({"state": compiled.state, "models": models}), encoding="utf-8")
        build = self.store.commit_build(
            self.experiment.name,
            stage.name,
            recipe.key,
            workspace,
            {
                "key": recipe.key,
                "parts": recipe.part_digests,
                "upstream": _digests(upstream),
                "session": self.session,
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "notes": compiled.notes,
                "record": record.model_dump(mode="json"),
                "declared": self._declared(),
            },
        )
        trace_files.remove()  # they are in the stage's folder now
        # What is used from here on is what was written, so that this session and all later ones measure the same.
        return self._assemble(recipe, build, record.model_copy(update={"digest": build.digest}), upstream)

    def _assemble(
        self, recipe: Recipe, build: Build, record: BuildRecord, upstream: Mapping[str, BuiltStage]
    ) -> BuiltStage:
        program = self._student(recipe, upstream)
        content = build.read(PROGRAM)
        restore_state(program, content["state"])
        attach_models(program, content["models"], build.folder)
        build.mark_used()
        return BuiltStage(recipe, build, program, record)

    def _student(self, recipe: Recipe, upstream: Mapping[str, BuiltStage]) -> Any:
        """A fresh copy of the program a stage starts from, on the stage's LM."""
        stage = recipe.stage
        if stage.name == BASELINE:
            return written_program(self.experiment, recipe.lm)
        program = copy_program(upstream[stage.start].program)
        if stage.lm is not None:
            own = {name for name, p in self.experiment.program.named_predictors() if p.lm is not None}
            for name, predictor in program.named_predictors():
                if name not in own:
                    predictor.lm = stage.lm
        return program

    def _work(self, recipe: Recipe, start: Any) -> Work | None:
        """What hosted fine-tuning jobs of a stage are for, where it has any."""
        stage = recipe.stage
        if not requires_training(stage.optimizer) or not any(is_hosted(p.lm) for p in start.predictors()):
            return None
        name = self.experiment.name
        used = self.store.load_build(name, stage.name, recipe.key)
        records = used.manifest["record"]["training"] if used is not None else []
        journal = Journal(
            self.store.jobs_folder(name, stage.name, recipe.key),
            self.session,
            rebuild=stage.name in self._rebuild,
            spent=frozenset(record["job"] for record in records if record.get("job")),
        )
        return Work(
            experiment=name,
            stage=stage.name,
            stage_key=recipe.key,
            journal=journal,
            seed=self.experiment.seed,
            timeout=self.job_timeout,
            allowance=self._allow if self.budget is not None else None,
            training_price=lambda model: None if (price := self.prices.of(model)) is None else price.training,
        )

    def _build_responses(self, recipe: Recipe) -> contextlib.AbstractContextManager[None]:
        """Answers that an interrupted build of the same key already paid for; none when a rebuild was asked for."""
        if recipe.stage.name in self._rebuild:
            return responses_from(NoResponses())
        scope = digest_json({"stage": recipe.key, "address": str(recipe.lm.kwargs.get("api_base"))})
        return responses_from(KeptResponses(self.store.root / "responses", scope))

    def _why(self, recipe: Recipe) -> str:
        """Why a stage has to be built: which part of its key is not what an earlier build had."""
        stage = recipe.stage
        if stage.name in self._rebuild:
            return "--dspy-rebuild"
        if self._unrecorded(recipe.key):
            known = self.store.load_build(self.experiment.name, stage.name, recipe.key)
            if known is not None and known.manifest.get("session") != self.session:
                return "its LM calls are to be recorded"
        older = self.store.newest_manifest(self.experiment.name, stage.name)
        if older is None:
            return "never built before"
        mine, theirs = recipe.part_digests, older["parts"]
        changed = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        return f"changed: {', '.join(changed)}" if changed else "a stage it builds on came out differently"

    def _with_dependents(self, rebuild: Collection[str]) -> frozenset[str]:
        stages = self.experiment.stages
        if "all" in rebuild:
            return frozenset(stages)
        return frozenset(name for name in stages if set(self.experiment.closure(name)) & set(rebuild))

    def _record(self, stage: Stage, **fields: Any) -> BuildRecord:
        return BuildRecord(experiment=self.experiment.name, stage=stage.name, kind=stage.work, **fields)

    # --- evaluations -------------------------------------------------------------------------------------------------

    def evaluate(self, stage_or_program: str | Any, on: Split = "dev") -> StageResult:
        """A stage, or any program, measured on a split.

        Args:
            stage_or_program: A stage's name, or a ``dspy.Module``. Predictors without an LM run on the experiment's.
            on: ``train``, ``dev`` or ``test``.

        Raises:
            ExperimentError: If there is no such stage or split, or the split is empty.
            BuildError: If the stage cannot be built.
            ProviderError: If the LM's provider refuses to answer (key, quota, unknown model).
            RecordingError: If only recordings may answer, and one is missing.
            ServingError: If the server that is to answer does not, or does not load an adapter.
            StoreError: In a frozen session, if the evaluation is not in the store.
        """
        examples = self._split(on)
        if isinstance(stage_or_program, str):
            name = stage_or_program
            if (name, on) in self._results:
                return self._results[name, on]
            built = self.build(name)
            program, lm, what = built.program, built.lm, _subject(built)
            model = built.record.lm
        else:
            program = copy_program(stage_or_program)
            lm, model = self.experiment.lm, self.experiment.lm.model
            for _, predictor in program.named_predictors():
                predictor.lm = predictor.lm or lm
            lms = [lm_identity(p.lm) for p in program.predictors()]
            what = {"program": fingerprint(program), "lms": digest_json(lms)}
            name = f"program-{what['program'][:8]}"
        repeats = self._repeats(program)
        key = self._evaluation_key(what, on, program)
        result = self._known_result(name, on, key)
        if result is None:
            if (name, on) in self._refused:
                raise self._refused[name, on]  # it would be refused again, for each gate that asks
            try:
                result = self._measure(
                    program, examples, lm, repeats, name=name, on=on, key=key, model=model, build=what.get("digest", "")
                )
            except (ProviderError, RecordingError) as error:
                self._refused[name, on] = type(error)(f"stage {name!r} could not be evaluated on {on}: {error}")
                raise self._refused[name, on] from error
        self._results[name, on] = result
        self._doubt(result)
        if repeats < self.repeats:
            self.caution(
                f"--dspy-repeats={self.repeats} changes nothing for {model}: at temperature 0 it gives the same answer "
                "every time, so each example was measured once"
            )
        return result

    def repeats_of(self, name: str) -> int:
        """How many times each example will be evaluated on a stage; where it is not built yet, as its LM suggests."""
        built = self.find(name)
        return self._repeats(written_program(self.experiment, self.recipe(name).lm) if built is None else built.program)

    def _repeats(self, program: Any) -> int:
        return self.repeats if self.repeats > 1 and samples(program) else 1

    def _evaluation_key(self, what: Mapping[str, str], on: Split, program: Any) -> str:
        served = self.serving is not None and any(is_local(predictor.lm) for predictor in program.predictors())
        repeats = self._repeats(program)
        return digest_json(
            {
                **({"repeats": repeats} if repeats > 1 else {}),
                "format": KEY_FORMAT,
                "what": dict(what),
                "examples": self.experiment.dataset.fingerprint(on),
                "metric": fingerprint(self.experiment.metric),
                "adapter": fingerprint(adapter_of(self.experiment)),
                **({"served": self.serving.identity()} if served and self.serving is not None else {}),
            }
        )

    def _known_result(self, name: str, on: Split, key: str) -> StageResult | None:
        """The evaluation from the store, unless it is to be made anew and this session has not done so yet."""
        result = self.store.load_evaluation(self.experiment.name, name, on, key)
        if result is None:
            return None
        mine = result.session == self.session
        if not mine and self._unrecorded(key):
            return None
        if not mine and (name in self._rebuild or (result.errors and not self.frozen)):
            return None  # to be made anew, or at least what could not be measured then
        return repriced(result, self.prices).model_copy(update={"loaded": not mine})

    def _measure(
        self,
        program: Any,
        examples: Sequence[Any],
        lm: Any,
        repeats: int,
        *,
        name: str,
        on: Split,
        key: str,
        model: str,
        build: str,
    ) -> StageResult:
        experiment = self.experiment
        if self.frozen:
            raise StoreError(
                f"the evaluation of stage {name!r} of experiment {experiment.name!r} on {on} is not in the store "
                f"{self.store.root} for this data, metric and LM; run once without --dspy-frozen to make it"
            )
        started = time.monotonic()
        with self.store.lock(f"evaluation-{key}"):
            if (found := self._known_result(name, on, key)) is not None:
                return found  # another process measured it while we waited
            program = copy_program(program)
            if self.serving is not None:
                lm = self._serve(program, lm, self.serving)
            begin_work(lm)
            earlier = None if name in self._rebuild else self.store.load_evaluation(experiment.name, name, on, key)
            paying = self._paying()
            with self._journal(lm, name, on, key) as (journaled, record), responses_from(NoResponses()), paying:
                calls = (
                    [call for e in earlier.examples for call in e.each if call.outcome != "error"] if earlier else []
                )
                if is_local(lm) and repeats > 1:
                    calls = []  # the engine counts its samples: some of them alone would come out as others
                measured = {call.call_id: call for call in calls}
                done = {} if self._unrecorded(key) else {**measured, **journaled}
                measurement = Measurement(
                    examples,
                    experiment.metric,
                    Runtime(lm, adapter_of(experiment), self.num_threads, self.patience),
                    self.progress,
                    f"{name}: evaluating on {on}",
                    done,
                    record,
                )
                results = evaluate_repeatedly(program, measurement, repeats)
            result = StageResult(
                experiment=experiment.name,
                stage=name,
                on=on,
                lm=model,
                key=key,
                examples=tuple(results),
                wall_seconds=time.monotonic() - started,
                session=self.session,
                build=build,
            )
            self.store.save_evaluation(result)
            if self._unrecorded(key) and (recorder := active_recorder()) is not None:
                recorder.mark_complete(key, f"{experiment.name}: {name} on {on}")
        return repriced(result, self.prices)  # some of it may have been measured in another session

    def _unrecorded(self, key: str) -> bool:
        """Whether a stage or an evaluation in the store does not count, so that its calls are made and recorded."""
        recorder = active_recorder()
        if recorder is None or recorder.offline or self.frozen:
            return False
        return any(map(recorder.covers, self._all_lms())) and not recorder.is_complete(key)

    def _all_lms(self) -> list[Any]:
        """Every LM that building or evaluating a stage of the experiment may call, as far as it is declared."""
        experiment = self.experiment
        lms = [experiment.lm, *(stage.lm for stage in experiment.stages.values())]
        lms += [predictor.lm for predictor in experiment.program.predictors()]
        for stage in experiment.stages.values():
            for step in (stage.optimizer, *getattr(stage.optimizer, "optimizers", {}).values()):
                lms += [getattr(step, name, None) for name in ("prompt_model", "task_model")]
        return [lm for lm in lms if lm is not None]

    def _serve(self, program: Any, lm: Any, serving: Serving) -> Any:
        """Put a program's local LMs on the server; gives what the evaluation runs with in place of ``lm``."""
        served: dict[int, Any] = {}
        with self.progress.task(f"loading adapters at {serving.address}", unit="s") as task:
            task.advance(0)
            for predictor in program.predictors():
                if id(predictor.lm) not in served:
                    served[id(predictor.lm)] = serving.served(predictor.lm)
                predictor.lm = served[id(predictor.lm)]
        return served.get(id(lm)) or next(iter(served.values()), lm)

    @contextlib.contextmanager
    def _journal(self, lm: Any, name: str, on: Split, key: str) -> Iterator[tuple[Mapping[str, Any], Any]]:
        """Paid answers survive an interruption; a local LM's are free, and its batches are those of one whole run."""
        if is_local(lm) and self.serving is None:
            yield {}, lambda result: None
            return
        with self.store.journal(self.experiment.name, name, on, key) as journal:
            yield journal

    @contextlib.contextmanager
    def _paying(self) -> Iterator[None]:
        """LM calls cost what the session's prices say; they stop before its spend would pass the limit."""
        with dspy.context(**{PRICES: self.prices}), self._within_budget():
            yield

    def _allow(self, estimate: float | None, what: str) -> None:
        """Let a hosted job be paid for, or refuse it."""
        assert self.budget is not None
        try:
            self.budget.allow(estimate, what)
        except BudgetError as error:
            self._stopped = str(error)
            raise

    @contextlib.contextmanager
    def _within_budget(self) -> Iterator[None]:
        if self.budget is None:
            yield
            return
        try:
            with self.budget.active():
                yield
        except BudgetError as error:
            self._stopped = str(error)
            raise

    def _split(self, on: Split) -> Sequence[Any]:
        if on not in SPLITS:
            raise ExperimentError(f"no split {on!r}; choices are {', '.join(SPLITS)}")
        examples: Sequence[Any] = self.experiment.dataset.split(on)
        if not examples:
            raise ExperimentError(
                f"experiment {self.experiment.name!r}: the {on} split is empty, nothing can be measured on it"
            )
        return examples

    # --- gates -------------------------------------------------------------------------------------------------------

    def judge(self, gate: Gate, test: str = "", *, caution: str = "", divisor: int = 1) -> VerdictRecord:
        """Build and evaluate what a gate names, judge it, and put the verdict into the record.

        Args:
            gate: The gate.
            test: Node id of the test that holds it, for reports.
            caution: What its verdict is to be marked with.
            divisor: What the error its confidence allows is divided by, since other gates are judged beside it.
        """
        verdict = self.weigh(gate, divisor)
        notes = [f"  CAUTION: {caution}"] if caution else []
        if divisor > 1 and gate.confidence is not None:
            notes.append(f"  corrected by Holm's method for the session's other gates: error {1 - gate.confidence:.3g}")
            notes[-1] += f" / {divisor}"
        message = "\n".join([verdict.message, *notes])
        verdict = verdict.model_copy(update={"test": test, "caution": caution, "message": message, "tried": divisor})
        self._verdicts.append(verdict)
        return verdict

    def weigh(self, gate: Gate, divisor: int = 1) -> VerdictRecord:
        """Build and evaluate what a gate names, and judge it, without a record of it.

        Args:
            gate: The gate.
            divisor: What the error its confidence allows is divided by.
        """
        if gate.confidence is not None and divisor > 1:
            gate = dataclasses.replace(gate, confidence=1 - (1 - gate.confidence) / divisor)
        gate.check_names(self.experiment.stages)
        results = {name: self.evaluate(name, gate.on) for name in sorted(gate.score_stages)}
        rates = {}
        for name in sorted(gate.build_stages):
            bootstrap = self.build(name).record.bootstrap
            rates[name] = None if bootstrap is None else bootstrap.rate
        examples = {example_id(e): describe(e) for e in self._split(gate.on)} if results else {}
        return judge(
            gate,
            results,
            rates,
            experiment=self.experiment.name,
            examples=examples,
            ladder=ladder_results(self.record(), gate.on),
            seed=self.experiment.seed,
            max_errors=self.max_errors,
        )

    def caution(self, text: str) -> None:
        """Note something that readers of the figures should know."""
        self._cautions[text] = None

    def _doubt(self, result: StageResult) -> None:
        """Say what a measurement shows that a working program and metric would hardly show."""
        examples = {example_id(e): describe(e) for e in self._split(result.on)}
        for doubt in measurement_doubts(result, examples):
            self.caution(doubt)
            warnings.warn(doubt, MeasurementWarning, stacklevel=3)

    def details(self, stage: str) -> StageDetails | None:
        """Prompts, demos and losses of a stage; None where this session neither built nor loaded it."""
        built = self._built.get(stage)
        return None if built is None else read_details(stage, built.build)

    def contents(self, on: Split) -> dict[str, ExampleContent]:
        """The examples of a split by id, as data."""
        return {example_id(e): ExampleContent(**describe(e)) for e in self._split(on)}

    def _declared(self) -> dict[str, Any]:
        """What the store keeps of the experiment, to be read without it."""
        experiment = self.experiment
        sizes = {split: len(experiment.dataset.split(split)) for split in SPLITS}
        return {
            "lm": experiment.lm.model,
            "seed": experiment.seed,
            "sizes": sizes,
            "limit": self.limit,
            "order": list(experiment.stages),
        }

    def record(self) -> ExperimentRecord:
        """All that this session knows of the experiment so far."""
        experiment = self.experiment
        return ExperimentRecord(
            name=experiment.name,
            lm=experiment.lm.model,
            seed=experiment.seed,
            sizes={split: len(experiment.dataset.split(split)) for split in SPLITS},
            limit=self.limit,
            order=tuple(experiment.stages),
            stopped=self._stopped,
            stages=tuple(self._records[name] for name in experiment.stages if name in self._records),
            results=tuple(self._results.values()),
            verdicts=tuple(self._verdicts),
            cautions=tuple(self._cautions),
            metric=self._metric,
        )


def _of(attempt: Attempt) -> dict[str, Any]:
    """What a record says of the work done for a stage, finished or not."""
    *earlier, last = attempt.bootstraps or (None,)
    return {
        "usage": attempt.usage,
        "seconds": attempt.usage.seconds,
        "bootstrap": last,
        "earlier_bootstraps": tuple(earlier),
        "training": attempt.training,
    }


def _digests(upstream: Mapping[str, BuiltStage]) -> dict[str, str]:
    return {name: built.build.digest for name, built in upstream.items()}


def _subject(built: BuiltStage) -> dict[str, str]:
    """What an evaluation of a stage is of."""
    return {"stage": built.recipe.key, "digest": built.build.digest}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"
