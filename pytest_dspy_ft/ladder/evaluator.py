"""Evaluations: each is read from the store where it is there, and measured where it is not, once in a session."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_dspy_ft.errors import MeasurementWarning, ProviderError, RecordingError, StoreError
from pytest_dspy_ft.evaluation.evaluate import Measurement
from pytest_dspy_ft.evaluation.programs import adapter_of, copy_program, written_program
from pytest_dspy_ft.evaluation.repeats import evaluate_repeatedly, samples
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.fingerprint import digest_json, fingerprint, lm_identity
from pytest_dspy_ft.gates.guards import measurement_doubts
from pytest_dspy_ft.ladder.builder import BuiltStage, StageBuilder
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.ladder.drift import judging_lms, may_drift
from pytest_dspy_ft.ladder.recipe import evaluation_key
from pytest_dspy_ft.lms.cache import NoResponses, responses_from
from pytest_dspy_ft.lms.resolve import begin_work, is_local
from pytest_dspy_ft.lms.usage import repriced
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult, settled_calls


@dataclass(frozen=True)
class EvaluationTask:
    """A program to measure on a split, and what its evaluation is filed under."""

    name: str
    """The stage; for a program that is none, ``program-`` and the beginning of its fingerprint."""
    on: Split
    program: Any
    lm: Any
    """The LM of predictors without one of their own; it says how many threads it likes."""
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
        self._refused: dict[tuple[str, Split], ProviderError | RecordingError] = {}
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

    def repeats_of(self, name: str) -> int:
        """How many times each example will be evaluated on a stage; where it is not built yet, as its LM suggests."""
        built = self._builder.find(name)
        if built is not None:
            return self._repeats(built.program)
        return self._repeats(written_program(self._experiment, self._builder.recipe(name).lm))

    # --- what is to be measured --------------------------------------------------------------------------------------

    def _stage_task(self, built: BuiltStage, on: Split) -> EvaluationTask:
        subject = {"stage": built.recipe.key, "digest": built.build.digest}
        return self._task(built.recipe.stage.name, on, built.program, built.lm, built.record.lm, subject)

    def _program_task(self, given: Any, on: Split) -> EvaluationTask:
        program, lm = copy_program(given), self._experiment.lm
        for predictor in program.predictors():
            predictor.lm = predictor.lm or lm
        lms = [lm_identity(predictor.lm) for predictor in program.predictors()]
        subject = {"program": fingerprint(program), "lms": digest_json(lms)}
        return self._task(f"program-{subject['program'][:8]}", on, program, lm, lm.model, subject)

    def _task(
        self, name: str, on: Split, program: Any, lm: Any, model: str, subject: Mapping[str, str]
    ) -> EvaluationTask:
        repeats, serving = self._repeats(program), self._settings.serving
        served = serving is not None and any(is_local(predictor.lm) for predictor in program.predictors())
        server = serving.identity() if serving is not None and served else None
        key = evaluation_key(self._experiment, subject, on, repeats=repeats, server=server)
        return EvaluationTask(name, on, program, lm, model, key, repeats, subject.get("digest", ""))

    def _repeats(self, program: Any) -> int:
        return self._settings.repeats if self._settings.repeats > 1 and samples(program) else 1

    def _stored(self, task: EvaluationTask) -> StageResult | None:
        """The evaluation from the store, unless it is to be made anew and this session has not done so yet."""
        result = self._store.load_evaluation(self._experiment.name, task.name, task.on, task.key)
        if result is None:
            return None
        own = self._context.is_own(result.session)
        if self._context.must_renew(task.name, task.key, result.session):
            return None
        if not own and self._is_compared_anew(task, result):
            return None
        if result.errors > result.own_errors and not own and not self._settings.frozen:
            return None  # what a provider failed then it may answer now
        return repriced(result, self._settings.prices).model_copy(update={"loaded": not own})

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
        try:
            return self._measure(task)
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
            raise StoreError(
                f"the evaluation of stage {task.name!r} of experiment {experiment.name!r} on {task.on} is not in the "
                f"store {self._store.root} for this data, metric and LM; run once without --dspy-frozen to make it"
            )
        started = time.monotonic()
        with self._store.lock(f"evaluation-{task.key}"):
            if (found := self._stored(task)) is not None:
                return found  # another process measured it while we waited
            task = self._ready(task)
            begin_work(task.lm)
            earlier = {} if anew else self._measured_earlier(task)
            with self._journal(task) as (journaled, record), responses_from(NoResponses()), context.paying():
                measurement = Measurement(
                    experiment.examples(task.on),
                    experiment.metric,
                    Runtime(task.lm, adapter_of(experiment), self._settings.num_threads, self._settings.patience),
                    self._settings.progress,
                    f"{task.name}: evaluating on {task.on}",
                    {} if anew or context.must_record(task.key) else {**earlier, **journaled},
                    record,
                )
                results = evaluate_repeatedly(task.program, measurement, task.repeats)
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
            )
            self._store.save_evaluation(result)
            context.mark_recorded(task.key, f"{task.name} on {task.on}")
        return repriced(result, self._settings.prices)  # some of it may have been measured in another session

    def _ready(self, task: EvaluationTask) -> EvaluationTask:
        """The task with a program of its own; where there is a server, with LMs that answer from there."""
        program, serving = copy_program(task.program), self._settings.serving
        if serving is None:
            return replace(task, program=program)
        served: dict[int, Any] = {}
        with self._settings.progress.task(f"loading adapters at {serving.address}", unit="s") as shown:
            shown.advance(0)
            for predictor in program.predictors():
                if id(predictor.lm) not in served:
                    served[id(predictor.lm)] = serving.served(predictor.lm)
                predictor.lm = served[id(predictor.lm)]
        return replace(task, program=program, lm=served.get(id(task.lm)) or next(iter(served.values()), task.lm))

    def _measured_earlier(self, task: EvaluationTask) -> dict[str, ExampleResult]:
        """The single calls of an earlier evaluation that need not be made again, by ``call_id``."""
        if self._context.rebuilds(task.name):
            return {}
        if is_local(task.lm) and task.repeats > 1:
            return {}  # the engine counts its samples: some of them alone would come out as others
        earlier = self._store.load_evaluation(self._experiment.name, task.name, task.on, task.key)
        return settled_calls(call for example in earlier.examples for call in example.each) if earlier else {}

    @contextlib.contextmanager
    def _journal(
        self, task: EvaluationTask
    ) -> Iterator[tuple[Mapping[str, ExampleResult], Callable[[ExampleResult], None]]]:
        """Paid answers survive an interruption; a local LM's are free, and its batches are those of one whole run."""
        if is_local(task.lm) and self._settings.serving is None:
            yield {}, lambda result: None
            return
        with self._store.journal(self._experiment.name, task.name, task.on, task.key) as journal:
            yield journal

    def _warn_of_doubts(self, result: StageResult) -> None:
        """Say what a measurement shows that a working program and metric would hardly show."""
        for doubt in measurement_doubts(result, self._context.described_examples(result.on)):
            self._context.caution(doubt)
            warnings.warn(doubt, MeasurementWarning, stacklevel=4)
