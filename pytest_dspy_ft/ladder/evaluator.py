"""Evaluations: each is read from the store where it is there, and measured where it is not, once in a session."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_dspy_ft.errors import (
    ExperimentError,
    MeasurementWarning,
    MetricError,
    ProviderError,
    RecordingError,
    StoreError,
)
from pytest_dspy_ft.evaluation.binding import predictor_lms, unbound_program
from pytest_dspy_ft.evaluation.evaluate import Measurement
from pytest_dspy_ft.evaluation.programs import adapter_of, copy_program
from pytest_dspy_ft.evaluation.repeats import evaluate_repeatedly, samples
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.fingerprint import digest_json, fingerprint, lm_identity
from pytest_dspy_ft.gates.guards import measurement_doubts
from pytest_dspy_ft.ladder.builder import StageBuilder
from pytest_dspy_ft.ladder.built_stage import BuiltStage
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.ladder.drift import judging_lms, may_drift
from pytest_dspy_ft.ladder.recipe import evaluation_key, metric_keys
from pytest_dspy_ft.lms.cache import NoResponses, responses_from
from pytest_dspy_ft.lms.resolve import begin_work, is_local
from pytest_dspy_ft.lms.usage import repriced
from pytest_dspy_ft.provenance.footprint import Following, Provenance
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult, settled_calls
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.store.evaluation_journal import EvaluationJournal


@dataclass(frozen=True)
class EvaluationTask:
    """A program to measure on a split, and what its evaluation is filed under."""

    name: str
    """The stage; for a program that is none, ``program-`` and the beginning of its fingerprint."""
    on: Split
    program: Any
    lm: Any
    """The LM that is bound around its calls; it says how many threads it likes."""
    model: str
    """The model that answers, for the record."""
    key: str
    repeats: int
    """How many times each example is evaluated."""
    digest: str = ""
    """Content hash of the stage's build; empty for a program that is no stage."""


class StageEvaluator:
    """Measures stages and programs of one experiment, and keeps the results.

    Args:
        context: The experiment in this session.
        builder: Has the stages.

    Attributes:
        results: All evaluations of this session, by stage and split.
    """

    def __init__(self, context: LadderContext, builder: StageBuilder) -> None:
        self._context, self._builder = context, builder
        self._experiment, self._store, self._settings = context.experiment, context.store, context.settings
        self._metric_keys = metric_keys(context.experiment)
        self._metric_refused: MetricError | None = None
        self._refused: dict[tuple[str, Split], ProviderError | RecordingError] = {}
        self._doubts: dict[tuple[str, Split], str] = {}
        self.results: dict[tuple[str, Split], StageResult] = {}

    # --- what is asked of it -----------------------------------------------------------------------------------------

    def evaluate(self, stage_or_program: str | Any, on: Split) -> StageResult:
        """A stage, or any program, measured on a split; see :meth:`pytest_dspy_ft.Ladder.evaluate`."""
        self._experiment.examples(on)
        if not isinstance(stage_or_program, str):
            task = self._program_task(stage_or_program, on)
        elif (known := self.results.get((stage_or_program, on))) is not None:
            return known
        else:
            task = self._stage_task(self._builder.build(stage_or_program), on)
        result = self._stored(task)
        if result is None:
            result = self._measure_once(task)
        self.results[task.name, on] = result
        if isinstance(stage_or_program, str):
            self._check_reached(self._builder.build(stage_or_program), result)
        self._context.note_adapter()
        self._warn_of_doubts(result)
        if task.repeats < self._settings.repeats:
            self._context.caution(
                f"--dspy-repeats={self._settings.repeats} changes nothing for {task.model}: at temperature 0 it gives "
                "the same answer every time, so each example was measured once"
            )
        return result

    def find(self, name: str, on: Split) -> StageResult | None:
        """A stage's evaluation as this session or the store has it; None where it would have to be measured."""
        if (name, on) in self.results:
            return self.results[name, on]
        built = self._builder.find(name)
        if built is None or not self._experiment.dataset.sizes[on]:
            return None
        return self._stored(self._stage_task(built, on))

    def why_unmeasured(self, name: str, on: Split) -> str:
        """Why the store's evaluation of a stage does not count, in words; empty where it has none."""
        if doubt := self._doubts.get((name, on)):
            return doubt
        built = self._builder.find(name)
        if built is None:
            return ""
        key = self._stage_task(built, on).key
        return self._store.why_missing("evaluation", self._experiment.name, name, on, key)

    def repeats_of(self, name: str) -> int:
        """How many times each example will be evaluated on a stage; where it is not built yet, as its LM suggests."""
        built = self._builder.find(name)
        if built is not None:
            return self._repeats(built.program, built.lm)
        return self._repeats(self._experiment.program, self._builder.recipe(name).lm)

    # --- what is to be measured --------------------------------------------------------------------------------------

    def _stage_task(self, built: BuiltStage, on: Split) -> EvaluationTask:
        subject = {"stage": built.recipe.key, "digest": built.build.digest}
        return self._task(built.recipe.stage.name, on, built.program, built.lm, built.record.lm, subject)

    def _program_task(self, given: Any, on: Split) -> EvaluationTask:
        program, lm = unbound_program(copy_program(given), self._experiment.lm)
        lms = [lm_identity(asked) for asked in predictor_lms(program, lm).values()]
        subject = {"program": fingerprint(program), "lms": digest_json(lms)}
        return self._task(f"program-{subject['program'][:8]}", on, program, lm, lm.model, subject)

    def _task(
        self, name: str, on: Split, program: Any, lm: Any, model: str, subject: Mapping[str, str]
    ) -> EvaluationTask:
        repeats, serving = self._repeats(program, lm), self._settings.serving
        served = serving is not None and any(map(is_local, predictor_lms(program, lm).values()))
        server = serving.identity() if serving is not None and served else None
        key = evaluation_key(self._experiment, subject, on, repeats=repeats, server=server)
        return EvaluationTask(name, on, program, lm, model, key, repeats, subject.get("digest", ""))

    def _repeats(self, program: Any, lm: Any) -> int:
        return self._settings.repeats if self._settings.repeats > 1 and samples(program, lm) else 1

    def _stored(self, task: EvaluationTask) -> StageResult | None:
        """The evaluation from the store, unless it is to be made anew and this session has not done so yet."""
        result = self._store.load_evaluation(self._experiment.name, task.name, task.on, task.key)
        if result is None:
            return None
        if result.judge_lm and result.judge_lm != self._context.judge_digest:
            return None  # its metric asked the LM that was configured, and that is another one now
        own = self._context.is_own(result.session)
        if self._context.must_renew(task.name, task.key, result.session):
            return None
        if doubt := self._context.doubt(result.footprint, self._context.measuring(task.program, task.lm)):
            self._doubts[task.name, task.on] = doubt
            return None
        if not own and self._is_compared_anew(task, result):
            return None
        if result.waited and self._settings.num_threads == 1 and self._settings.serving is None:
            self._doubts[task.name, task.on] = "its calls waited for each other's batches; --dspy-num-threads=1"
            return None
        if unscored := self._unscored(result):
            self._doubts[task.name, task.on] = f"not scored by {unscored} as it is declared"
            return None
        if not own and not self._settings.frozen and result.may_improve:
            return None  # what a provider failed then it may answer now
        result = result.with_metrics(self._metric_keys)
        update = {"loaded": not own, "metrics": dict(self._metric_keys)}
        return repriced(result, self._settings.prices).model_copy(update=update)

    def _unscored(self, result: StageResult) -> str:
        """The further metrics that have not scored an evaluation, or had another content when they did."""
        missing = [name for name, key in self._metric_keys.items() if result.metrics.get(name) != key]
        return " and ".join(f"metric {name!r}" for name in missing)

    def _is_compared_anew(self, task: EvaluationTask, stored: StageResult | None = None) -> bool:
        """True for an evaluation that is compared with an earlier one, and whose LM may have changed since."""
        if (task.name, task.on) not in self._settings.measure_anew:
            return False
        if stored is None:
            stored = self._store.load_evaluation(self._experiment.name, task.name, task.on, task.key)
        lms = [task.lm, *judging_lms(self._experiment), *(p.lm for p in task.program.predictors())]
        known = [lm for lm in lms if lm is not None]
        return may_drift(known, stored, served=self._settings.serving is not None)

    # --- measuring ---------------------------------------------------------------------------------------------------

    def _measure_once(self, task: EvaluationTask) -> StageResult:
        """Measure; what a provider refused is not tried again in this session, whichever gate asks."""
        place = (task.name, task.on)
        if place in self._refused:
            raise self._refused[place]
        if self._metric_refused is not None:
            raise self._metric_refused
        try:
            return self._measure(task)
        except MetricError as error:
            on = f"the first answers of {task.name!r} on {task.on}"
            self._metric_refused = MetricError(
                f"experiment {self._experiment.name!r}: {error} (found on {on}: no other call was made)"
            )
            raise self._metric_refused from None
        except (ProviderError, RecordingError) as error:
            message = f"stage {task.name!r} could not be evaluated on {task.on}: {error}"
            self._refused[place] = type(error)(message)
            raise self._refused[place] from error

    def _measure(self, task: EvaluationTask) -> StageResult:
        context, experiment = self._context, self._experiment
        anew = self._is_compared_anew(task)
        if self._settings.frozen and anew:
            raise StoreError(
                f"stage {task.name!r} of experiment {experiment.name!r} ran on an LM that may have changed behind its "
                f"name: --dspy-compare measures it anew on {task.on}, and --dspy-frozen calls no LM; add "
                "--dspy-compare-stored to compare what the store has"
            )
        if self._settings.frozen:
            missed = self._doubts.get((task.name, task.on)) or self._store.why_missing(
                "evaluation", experiment.name, task.name, task.on, task.key
            )
            raise StoreError(
                f"the evaluation of stage {task.name!r} of experiment {experiment.name!r} on {task.on} is not in the "
                f"store {self._store.root} for this data, metric and LM{missed and f' ({missed})'}; run once without "
                "--dspy-frozen to make it"
            )
        started = time.monotonic()
        with self._store.lock(f"evaluation-{task.key}"):
            if (found := self._stored(task)) is not None:
                return found  # another process measured it while we waited
            task = self._ready(task)
            begin_work(task.lm)
            provenance = self._context.measuring(task.program, task.lm)
            why = "" if anew else self._why_again(task, provenance)
            earlier, footprint_then = ({}, None) if anew else self._measured_earlier(task, provenance)
            following = provenance.following()
            with self._journal(task, provenance) as journal, responses_from(NoResponses()), context.paying():
                following.rest_on(footprint_then, journal.footprint)
                journal.rest_on(following.footprint())
                following.seen = journal.rest_on
                measurement = Measurement(
                    experiment.examples(task.on),
                    experiment.metric,
                    self._runtime(task, following),
                    self._settings.progress,
                    f"{task.name}: evaluating on {task.on}",
                    {} if anew or context.must_record(task.key) else {**earlier, **self._scored(journal.done)},
                    experiment.metrics,
                    untried=not any(e.outcome == "scored" for r in self.results.values() for e in r.examples),
                    record=journal.add,
                )
                with following.follower.session():
                    results = evaluate_repeatedly(task.program, measurement, task.repeats)
            footprint = following.footprint()
            context.note_unseen(footprint)
            result = StageResult(
                experiment=experiment.name,
                stage=task.name,
                on=task.on,
                lm=task.model,
                key=task.key,
                examples=tuple(results),
                wall_seconds=time.monotonic() - started,
                session=self._settings.session,
                build=task.digest,
                unseen=footprint.unseen,
                footprint=footprint,
                judge_lm=context.judge_digest if any(map(_asked_judge, results)) else "",
                batched=self._batched(task),
                metrics=self._metric_keys,
            )
            self._store.save_evaluation(result)
            if why:
                context.caution(f"{task.name} on {task.on} was measured again ({why})")
            context.mark_recorded(task.key, f"{task.name} on {task.on}")
        return repriced(result, self._settings.prices)  # some of it may have been measured in another session

    def _runtime(self, task: EvaluationTask, following: Following) -> Runtime:
        settings, adapter = self._settings, adapter_of(self._experiment)
        runtime = Runtime(task.lm, adapter, settings.num_threads, settings.patience)
        return replace(runtime, around=following.one, judge=self._context.judge)

    def _batched(self, task: EvaluationTask) -> bool:
        """True where an LM of this process answers several calls of a program at once."""
        if self._settings.serving is not None or not any(map(is_local, predictor_lms(task.program, task.lm).values())):
            return False
        return Runtime(task.lm, None, self._settings.num_threads).threads(len(self._experiment.examples(task.on))) > 1

    def _ready(self, task: EvaluationTask) -> EvaluationTask:
        """The task with a program of its own; where there is a server, with LMs that answer from there."""
        program, serving = copy_program(task.program), self._settings.serving
        if serving is None:
            return replace(task, program=program)
        served: dict[int, Any] = {}
        with self._settings.progress.task(f"loading adapters at {serving.address}", unit="s") as shown:
            shown.advance(0)
            for lm in predictor_lms(program, task.lm).values():
                if id(lm) not in served:
                    served[id(lm)] = serving.served(lm)
            for predictor in program.predictors():
                predictor.lm = served.get(id(predictor.lm))
        return replace(task, program=program, lm=served.get(id(task.lm)) or next(iter(served.values()), task.lm))

    def _why_again(self, task: EvaluationTask, provenance: Provenance) -> str:
        """Which code is not what it was in the last evaluation of this kind; empty where there was none, or none is."""
        if doubt := self._doubts.pop((task.name, task.on), ""):
            return doubt
        last = self._store.newest_evaluation(self._experiment.name, task.name)
        if last is None or last.on != task.on:
            return ""
        return self._context.doubt(last.footprint, provenance)

    def _measured_earlier(
        self, task: EvaluationTask, provenance: Provenance
    ) -> tuple[dict[str, ExampleResult], Footprint | None]:
        """Single calls of an earlier evaluation that are not made again, by ``call_id``; and what they rest on."""
        if self._context.rebuilds(task.name):
            return {}, None
        if is_local(task.lm) and task.repeats > 1:
            return {}, None  # the engine counts its samples: some of them alone would come out as others
        earlier = self._store.load_evaluation(self._experiment.name, task.name, task.on, task.key)
        if earlier is None or earlier.waited or self._unscored(earlier):
            return {}, None
        if self._context.doubt(earlier.footprint, provenance):
            return {}, None
        return settled_calls(call for example in earlier.examples for call in example.each), earlier.footprint

    def _scored(self, done: Mapping[str, ExampleResult]) -> dict[str, ExampleResult]:
        """Those of a journal's calls that every further metric has scored, as far as there was something to score."""
        wanted = self._metric_keys.keys()
        return {key: call for key, call in done.items() if call.prediction is None or wanted <= call.further.keys()}

    def _journal(
        self, task: EvaluationTask, provenance: Provenance
    ) -> contextlib.AbstractContextManager[EvaluationJournal]:
        """Paid answers survive an interruption; a local LM's are free, and its batches are those of one whole run."""
        if is_local(task.lm) and self._settings.serving is None:
            nowhere = EvaluationJournal({}, None, lambda result: None, lambda footprint: None)
            return contextlib.nullcontext(nowhere)
        place = (self._experiment.name, task.name, task.on, task.key)
        return self._store.journal(*place, lambda footprint: not self._context.doubt(footprint, provenance))

    def _check_reached(self, built: BuiltStage, result: StageResult) -> None:
        """A stage on an LM of its own must be answered by it: a program may switch the LM for all that it asks."""
        used, name = result.usage, result.stage
        if built.lm is self._experiment.lm or not used.models or used.cached_calls:
            return
        own = [p.lm for p in self._experiment.program.predictors()]
        models = {built.lm.model, *(lm.model for lm in built.lms.values() if all(lm is not mine for mine in own))}
        if models.isdisjoint(used.models):
            raise ExperimentError(
                f"stage {name!r} runs on lm={built.lm.model!r}, which answered none of its {used.lm_calls} LM calls on "
                f"{result.on}: the program asked {', '.join(used.models)} instead, by dspy.context(lm=...) or an LM "
                "that it calls by itself. Let it ask the LM that is configured, or leave out the stage's lm="
            )

    def _warn_of_doubts(self, result: StageResult) -> None:
        """Say what a measurement shows that a working program and metric would hardly show."""
        for doubt in measurement_doubts(result, self._context.described_examples(result.on)):
            self._context.caution(doubt)
            warnings.warn(doubt, MeasurementWarning, stacklevel=4)


def _asked_judge(result: ExampleResult) -> bool:
    """True where a metric asked an LM."""
    return result.judge is not None or any(said.judge is not None for said in result.further.values())
