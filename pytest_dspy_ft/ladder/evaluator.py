"""Evaluations: each is read from the store where it is there, and measured where it is not, once in a session."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

from pytest_dspy_ft.errors import (
    ExperimentError,
    MeasurementWarning,
    MetricError,
    ProviderError,
    RecordingError,
    StoreError,
)
from pytest_dspy_ft.evaluation.kept_predictions import UnrestorableError
from pytest_dspy_ft.gates.guards import measurement_doubts
from pytest_dspy_ft.ladder.builder import StageBuilder
from pytest_dspy_ft.ladder.built_stage import BuiltStage
from pytest_dspy_ft.ladder.context import LadderContext, Measuring
from pytest_dspy_ft.ladder.drift import judging_lms, may_drift
from pytest_dspy_ft.ladder.evaluation_task import EvaluationTask, EvaluationTasks
from pytest_dspy_ft.ladder.formats import check_formats
from pytest_dspy_ft.ladder.measuring import WAITED, Begun, measure_missing, score_again
from pytest_dspy_ft.ladder.recipe import metric_keys
from pytest_dspy_ft.ladder.stopping import EarlyEnds, Parts
from pytest_dspy_ft.ladder.stored_outputs import KnownOutputs, known_outputs, predictions_of
from pytest_dspy_ft.lms.resolve import is_local
from pytest_dspy_ft.lms.usage import repriced
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult, settled_calls
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.records.output import Reply
from pytest_dspy_ft.store.evaluation_journal import EvaluationJournal
from pytest_dspy_ft.store.outputs import OutputsPlace
from pytest_dspy_ft.text import counted
from pytest_dspy_ft.tracebacks import warn


class StageEvaluator:
    """Measures stages and programs of one experiment, and keeps the results.

    Args:
        context: The experiment in this session.
        builder: Has the stages.

    Attributes:
        results: All evaluations of this session, by stage and split.
        ends: Decides when one may end early.
    """

    def __init__(self, context: LadderContext, builder: StageBuilder) -> None:
        self._context, self._builder = context, builder
        self._experiment, self._store, self._settings = context.experiment, context.store, context.settings
        self._tasks = EvaluationTasks(context)
        self._metric_keys = metric_keys(context.experiment)
        self._metric_refused: MetricError | None = None
        self.ends = EarlyEnds(context)
        self._refused: dict[tuple[str, Split], ProviderError | RecordingError] = {}
        self._doubts: dict[tuple[str, Split], str] = {}
        self.results: dict[tuple[str, Split], StageResult] = {}

    # --- what is asked of it -----------------------------------------------------------------------------------------

    def evaluate(self, stage_or_program: str | Any, on: Split, *, partly: bool = False) -> StageResult:
        """A stage, or any program, measured on a split; see :meth:`pytest_dspy_ft.Ladder.evaluate`.

        Args:
            stage_or_program: What to measure.
            on: The split.
            partly: It may end early; else it is made whole.
        """
        self._experiment.examples(on)
        if not isinstance(stage_or_program, str):
            task = self._tasks.of_program(stage_or_program, on)
        elif (known := self.results.get((stage_or_program, on))) is not None and (partly or not known.stopped):
            return known
        else:
            task = self._tasks.of_stage(self._builder.build(stage_or_program), on)
        result = self._stored(task)
        if result is None:
            result = self._measure_once(task, self.ends.parts(task, self.find) if partly else None)
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
        if (known := self.results.get((name, on))) is not None and not known.stopped:
            return known
        built = self._builder.find(name)
        if built is None or not self._experiment.dataset.sizes[on]:
            return None
        return self._stored(self._tasks.of_stage(built, on))

    def why_unmeasured(self, name: str, on: Split) -> str:
        """Why the store's evaluation of a stage does not count, in words; empty where it has none."""
        if doubt := self._doubts.get((name, on)):
            return doubt
        built = self._builder.find(name)
        if built is None:
            return ""
        key = self._tasks.of_stage(built, on).key
        return self._store.why_missing("evaluation", self._experiment.name, name, on, key)

    def why_scored_again(self, name: str, on: Split) -> str:
        """Why stored outputs of a stage would be scored again, and the program not run; empty where it would be."""
        built = self._builder.find(name)
        if built is None or not self._experiment.dataset.sizes[on]:
            return ""
        task = self._tasks.of_stage(built, on)
        anew = self._is_compared_anew(task)
        begun = self._begun(task, anew)
        if begun.anew or not begun.known.whole(task.call_ids(self._experiment.examples(on))):
            self._doubts.setdefault((name, on), begun.known.doubt)
            return ""
        for output in begun.known.chosen():
            try:
                if output.scorable:
                    begun.kept.read(output)
            except UnrestorableError as problem:
                self._doubts[name, on] = f"a prediction cannot be given again: {problem}"
                return ""
        return self._doubts.get((name, on)) or self._why_again(task, begun.measuring) or self._why_scored(task)

    def foreseen_end(self, name: str, on: Split) -> str:
        """When measuring a stage would end early, in words, going by what the store has of this and other stages."""

        def newest(stage: str) -> StageResult | None:
            return next(self._store.evaluations_of(self._experiment.name, stage, on), None)

        return self.ends.foreseen(name, on, lambda stage, on: self.find(stage, on) or newest(stage), newest(name))

    def replies(self, result: StageResult, examples: Collection[str]) -> dict[str, list[Reply]]:
        """The LM's answers for some examples of an evaluation; see :meth:`pytest_dspy_ft.Ladder.replies`."""
        found: dict[str, list[Reply]] = {}
        if not result.outputs or not examples:
            return found
        place = OutputsPlace(result.experiment, result.stage, result.on, result.outputs)
        wanted = f'"{next(iter(examples))}"' if len(examples) == 1 else ""
        for stored in self._store.load_outputs(place, replies=True, wanted=wanted):
            for outputs in stored.calls.values():
                for output in outputs:
                    if output.id in examples:
                        found.setdefault(output.id, []).extend(output.replies)
        return found

    def repeats_of(self, name: str) -> int:
        """How many times each example will be evaluated on a stage; where it is not built yet, as its LM suggests."""
        built = self._builder.find(name)
        if built is not None:
            return self._tasks.repeats(built.program, built.lm)
        return self._tasks.repeats(self._experiment.program, self._builder.recipe(name).lm)

    # --- what the store has ------------------------------------------------------------------------------------------

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
        if doubt := self._context.doubt(result.footprint, self._context.measuring(task.program, task.lm).whole):
            self._doubts[task.name, task.on] = doubt
            return None
        if not own and self._is_compared_anew(task, result):
            return None
        if result.waited and self._measures_alone():
            self._doubts[task.name, task.on] = WAITED
            return None
        if unscored := self._unscored(result):
            self._doubts[task.name, task.on] = f"not scored by {unscored} as it is declared"
            return None
        if not own and not self._settings.frozen and result.may_improve:
            return None  # what a provider failed then it may answer now
        result = result.with_metrics(self._metric_keys)
        update = {
            "loaded": not own or bool(result.rescored),
            "rescored": result.rescored if own else "",
            "metrics": dict(self._metric_keys),
        }
        return repriced(result, self._settings.prices).model_copy(update=update)

    def _unscored(self, result: StageResult) -> str:
        """The further metrics that have not scored an evaluation, or had another content when they did."""
        missing = [name for name, key in self._metric_keys.items() if result.metrics.get(name) != key]
        return " and ".join(f"metric {name!r}" for name in missing)

    def _measures_alone(self) -> bool:
        """True where calls are made one by one, so that none waits for another's batch."""
        return self._settings.num_threads == 1 and self._settings.serving is None

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

    def _measure_once(self, task: EvaluationTask, parts: Parts | None) -> StageResult:
        """Measure; what a provider refused is not tried again in this session, whichever gate asks."""
        place = (task.name, task.on)
        if place in self._refused:
            raise self._refused[place]
        if self._metric_refused is not None:
            raise self._metric_refused
        check_formats(self._experiment, task.name, task.program, task.lm)
        try:
            return self._measure(task, parts)
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

    def _measure(self, task: EvaluationTask, parts: Parts | None) -> StageResult:
        context, anew = self._context, self._is_compared_anew(task)
        if self._settings.frozen:
            return self._frozen(task, anew)
        locks = (f"evaluation-{task.key}", f"outputs-{task.outputs_key}")
        output = context.library_output(task.name, f"measuring on {task.on}")
        with context.locked(f"measures {task.name} on {task.on}", *locks), context.logging(output):
            if (found := self._stored(task)) is not None:
                return found  # another process measured it while we waited
            begun = self._begun(task, anew)
            why = "" if anew else self._why_again(task, begun.measuring)
            with self._journal(task, begun.measuring) as journal:
                result = self._score_again(task, begun, why, journal)
                if result is not None:
                    return repriced(result, self._settings.prices)
                why = why or begun.known.doubt
                with self._store.outputs_under_way(task.outputs_place) as outputs:
                    result = measure_missing(
                        context, task, begun, journal, outputs, untried=self._untried(), parts=parts
                    )
            if why:
                context.caution(f"{task.name} on {task.on} was measured again ({why})")
            if result.stopped:
                return repriced(result, self._settings.prices)
            self._store.save_evaluation(result)
            context.mark_recorded(task.key, f"{task.name} on {task.on}")
            context.mark_recorded(task.outputs_key, f"{task.name} on {task.on}, outputs")
        return repriced(result, self._settings.prices)  # some of it may have been measured in another session

    def _begun(self, task: EvaluationTask, anew: bool) -> Begun:
        """What the store has of an evaluation that is to be made."""
        measuring = self._context.measuring(task.program, task.lm)
        kept = predictions_of(self._context, task)
        if anew or self._context.must_record(task.outputs_key):
            return Begun(measuring, kept, KnownOutputs(), {}, anew=True)
        known = known_outputs(self._context, task, measuring, kept)
        if known.batched and self._measures_alone():
            return Begun(measuring, kept, KnownOutputs(doubt=WAITED), {}, anew=True)
        if known.renewed:
            return Begun(measuring, kept, KnownOutputs(), {}, anew=True)
        return Begun(measuring, kept, known, *self._measured_earlier(task, measuring))

    def _score_again(
        self, task: EvaluationTask, begun: Begun, why: str, journal: EvaluationJournal | None = None
    ) -> StageResult | None:
        """The evaluation scored from outputs that are whole; None where calls are missing, or not restorable."""
        known, examples = begun.known, self._experiment.examples(task.on)
        if begun.anew or not known.whole(task.call_ids(examples), with_failures=journal is None):
            return None
        result = score_again(self._context, task, begun, journal)
        if isinstance(result, dict):
            known.leave_out(result, all_of_them=task.answered_here)
            return None
        if result.rescored:
            result = result.model_copy(update={"rescored": why or self._why_scored(task), "loaded": True})
            calls = result.judge.lm_calls
            took = f"{counted(calls, 'LM call')} of its judge" if calls else "0 LM calls"
            self._context.caution(
                f"{task.name} on {task.on} was scored again from stored outputs ({result.rescored}), {took}"
            )
        if journal is not None or self._settings.rescore:
            self._store.save_evaluation(result)
            self._context.mark_recorded(task.key, f"{task.name} on {task.on}")
        return result

    def _why_scored(self, task: EvaluationTask) -> str:
        """Why outputs are scored whose scores nothing speaks against: there are none for this metric."""
        earlier = self._store.evaluations_of(task.experiment, task.name, task.on)
        same = any(result.outputs == task.outputs_key or result.build == task.digest for result in earlier)
        return "another metric" if same else "its evaluation was interrupted"

    def _frozen(self, task: EvaluationTask, anew: bool) -> StageResult:
        """The evaluation as stored outputs give it without any call.

        Raises:
            StoreError: The store has none.
        """
        experiment = self._experiment
        if anew:
            raise StoreError(
                f"stage {task.name!r} of experiment {experiment.name!r} ran on an LM that may have changed behind its "
                f"name: --dspy-compare measures it anew on {task.on}, and --dspy-frozen calls no LM; add "
                "--dspy-compare-stored to compare what the store has"
            )
        begun = self._begun(task, anew)
        why = self._doubts.get((task.name, task.on)) or self._why_again(task, begun.measuring)
        if (result := self._score_again(task, begun, why)) is not None:
            return repriced(result, self._settings.prices)
        place = (experiment.name, task.name, task.on, task.key)
        missed = begun.known.doubt or self._doubts.get(place[1:3]) or self._store.why_missing("evaluation", *place)
        options = "--dspy-frozen" + (" and --dspy-stop-early" if self._settings.stopping is not None else "")
        raise StoreError(
            f"the evaluation of stage {task.name!r} of experiment {experiment.name!r} on {task.on} is not in the "
            f"store {self._store.root} for this data, metric and LM{missed and f' ({missed})'}; run once without "
            f"{options} to make it"
        )

    def _why_again(self, task: EvaluationTask, measuring: Measuring) -> str:
        """Which code is not what it was in the last evaluation of this kind; empty where there was none, or none is."""
        if doubt := self._doubts.pop((task.name, task.on), ""):
            return doubt
        last = next(self._store.evaluations_of(task.experiment, task.name, task.on), None)
        if last is None:
            return ""
        return self._context.doubt(last.footprint, measuring.whole)

    def _measured_earlier(
        self, task: EvaluationTask, measuring: Measuring
    ) -> tuple[dict[str, ExampleResult], Footprint | None]:
        """Single calls of an earlier evaluation that are not made again, by ``call_id``; and what they rest on."""
        if self._context.rebuilds(task.name):
            return {}, None
        if is_local(task.lm) and task.repeats > 1:
            return {}, None  # the engine counts its samples: some of them alone would come out as others
        earlier = self._store.load_evaluation(self._experiment.name, task.name, task.on, task.key)
        if earlier is None or (earlier.judge_lm and earlier.judge_lm != self._context.judge_digest):
            return {}, None
        if earlier.waited and self._measures_alone():
            return {}, None
        if self._context.doubt(earlier.footprint, measuring.whole):
            return {}, None
        calls = settled_calls(call for example in earlier.examples for call in example.each)
        standing = [name for name, key in self._metric_keys.items() if earlier.metrics.get(name) == key]
        return {one: call.with_metrics(standing) for one, call in calls.items()}, earlier.footprint

    def _untried(self) -> bool:
        """True where nothing tells yet in this session that the metrics can work."""
        return not any("scored" in result.outcomes for result in self.results.values())

    def _journal(
        self, task: EvaluationTask, measuring: Measuring
    ) -> contextlib.AbstractContextManager[EvaluationJournal]:
        """Paid answers survive an interruption; a local LM's are free, and its batches are those of one whole run."""
        if task.answered_here or self._metric_keys:  # scores do not say by which metrics; outputs under way are kept
            nowhere = EvaluationJournal({}, None, lambda result: None, lambda footprint: None)
            return contextlib.nullcontext(nowhere)
        place = (self._experiment.name, task.name, task.on, task.key)
        return self._store.journal(*place, lambda footprint: not self._context.doubt(footprint, measuring.whole))

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
            warn(doubt, MeasurementWarning)
