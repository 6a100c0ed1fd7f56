"""A stage's optimizer, run on copies: preflight, compilation, and checks of what came out."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dspy

from pytest_dspy_ft.errors import BuildError, DspyFtError
from pytest_dspy_ft.evaluation.binding import predictor_lms, put_lm
from pytest_dspy_ft.evaluation.coroutines import with_forward
from pytest_dspy_ft.evaluation.judge import NOBODY, Judge
from pytest_dspy_ft.evaluation.programs import adapter_of
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.experiment.typed_labels import LabelTypes
from pytest_dspy_ft.finetune.hosted.journal import TrainingJobContext
from pytest_dspy_ft.finetune.kept_collections import KeptCollections
from pytest_dspy_ft.finetune.launched.context import LaunchContext
from pytest_dspy_ft.finetune.optimizer import TraceFinetune, require_same_predictors
from pytest_dspy_ft.finetune.settings import TraceFinetuneSettings, requires_training
from pytest_dspy_ft.finetune.trace_files import TraceFiles
from pytest_dspy_ft.ladder.library_output import LibraryOutput
from pytest_dspy_ft.ladder.optimizer_traps import (
    check_result,
    keep_own_instructions,
    own_examples,
    watch_steps,
    winning_strategy,
    with_own_data,
    with_stage_lm,
)
from pytest_dspy_ft.ladder.preflight import preflight
from pytest_dspy_ft.ladder.recipe import Recipe
from pytest_dspy_ft.ladder.settings import LadderSettings
from pytest_dspy_ft.lms.calls import guarded
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.lms.threads import carried_into_threads
from pytest_dspy_ft.lms.usage import Meter, measure
from pytest_dspy_ft.records.build import BootstrapRecord, StrategyRecord, TrainingRecord
from pytest_dspy_ft.records.usage import Usage
from pytest_dspy_ft.tracebacks import users_place

SHOWN_EVERY = 0.5
"""Seconds between two looks at how many LM calls an optimizer has made."""


@dataclass
class Attempt:
    """How far a compilation came: what it spent and collected counts, also where it fails."""

    tuners: list[TraceFinetune] = field(default_factory=list)
    meter: Meter | None = None
    judge_meter: Meter | None = None
    """Counts what metrics ask."""
    earlier: tuple[BootstrapRecord, ...] = ()
    """Collections of an earlier session, where they are the reason why nothing is attempted in this one."""

    @property
    def trainings(self) -> tuple[TrainingRecord, ...]:
        """All finished trainings."""
        return tuple(record for tuner in self.tuners for record in tuner.trainings)

    def fields(self) -> dict[str, Any]:
        """Its part of a ``BuildRecord``: usage, collections of traces in their order for each step, trainings."""
        usage = self.meter.usage if self.meter is not None else Usage()
        collected = [*self.earlier, *(record for tuner in self.tuners for record in tuner.bootstraps)]
        return {
            "usage": usage,
            "judge": self.judge_meter.usage if self.judge_meter is not None and self.judge_meter.calls else Usage(),
            "seconds": usage.seconds,
            "bootstrap": collected[-1] if collected else None,
            "earlier_bootstraps": tuple(collected[:-1]),
            "training": self.trainings,
        }


@dataclass(frozen=True)
class CompileTask:
    """A stage to compile, with all that it is compiled from and for."""

    experiment: Experiment
    settings: LadderSettings
    recipe: Recipe
    start: Any
    """Program of the stage it starts from; a copy that may be changed."""
    teacher: Any
    """Program of its teacher, or None; a copy."""
    workspace: Path
    """Folder of the build."""
    trace_files: TraceFiles
    """Where the traces that fine-tuning collects are written."""
    attempt: Attempt
    """Filled as the work goes on."""
    output: LibraryOutput
    """What DSPy says meanwhile."""
    judge: Judge = NOBODY
    """Whose LM answers the metric."""
    collections: KeptCollections | None = None
    """The stage's traces, whatever its training settings; None where they depend on a training."""
    job_context: TrainingJobContext | None = None
    """What hosted fine-tuning jobs are for; None where no LM is trained elsewhere."""
    launch: LaunchContext | None = None
    """Who trains models of this machine instead of this process; None: nobody."""

    @property
    def stage(self) -> Stage:
        """The stage."""
        return self.recipe.stage

    @property
    def runtime(self) -> Runtime:
        """LM, adapter, threads and patience that its programs run with."""
        settings, adapter = self.settings, adapter_of(self.experiment)
        return Runtime(self.recipe.lm, adapter, settings.num_threads, settings.patience, judge=self.judge)


@dataclass(frozen=True)
class Compiled:
    """The outcome of compiling a stage."""

    program: Any
    """What the optimizer gave back, with an LM on every predictor."""
    calls: int
    """LM calls that compiling took, answered from a cache or not."""
    models: dict[str, str]
    """Predictors whose LM is another model now, by name."""
    model: str
    """The model that answers: that of the first predictor."""
    folders: dict[str, Path]
    """Where the weights of those models lie, for models trained on this machine."""
    kept: dict[str, dict[str, Any]]
    """How those models answer, for models trained elsewhere where their names do not tell it."""
    strategy: StrategyRecord | None
    notes: dict[str, Any]


def compile_stage(task: CompileTask) -> Compiled:
    """Run a stage's optimizer on a copy of its start.

    Returns:
        The program's state and its models, ready to be kept.

    Raises:
        BuildError: With the stage and the cause, whatever the optimizer raised or swallowed.
        ProviderError: If a provider refused, or did not come back; also where the optimizer went on without it.
        RecordingError: If a call is not recorded and may not be made.
    """
    stage, lm = task.stage, task.recipe.lm
    before = predictor_lms(task.start, lm)
    own = {name: predictor.lm for name, predictor in task.start.named_predictors() if predictor.lm is not None}
    for program in filter(None, (task.start, task.teacher)):
        with_forward(program)
        if _wants_lms(stage):
            put_lm(program, lm)
    notes: dict[str, Any] = {}
    watched = guarded(f"stage {stage.name!r}", task.settings.patience)
    with watched, task.runtime.active(), measure() as meter, carried_into_threads():
        task.attempt.meter = meter
        program = task.start if stage.optimizer is None else _optimized(task, meter, notes)
    for name, predictor in program.named_predictors():  # some optimizers reset the LMs that they had of their own
        predictor.lm = own.get(name) if predictor.lm is None else predictor.lm
    lms = {name: predictor.lm or before.get(name, lm) for name, predictor in program.named_predictors()}
    models = {name: each.model for name, each in lms.items() if each.model != before.get(name, lm).model}
    if _wants_lms(stage):  # it was put there for the optimizer; bound around calls, it answers all the same
        for predictor in program.predictors():
            predictor.lm = None if predictor.lm is lm else predictor.lm
    if stage.work == "finetune" and requires_training(stage.optimizer) and not models:
        raise BuildError(
            f"stage {stage.name!r}: after fine-tuning, every predictor still runs on the model it had before"
        )
    return Compiled(
        program=program,
        calls=meter.calls,
        models=models,
        model=next((each.model for each in lms.values()), lm.model),
        folders={model: folder for tuner in task.attempt.tuners for model, folder in tuner.folders.items()},
        kept={model: kept for tuner in task.attempt.tuners for model, kept in tuner.kept.items()},
        strategy=winning_strategy(program, trained=bool(models)),
        notes=notes,
    )


def _wants_lms(stage: Stage) -> bool:
    """True where an optimizer of DSPy's trains weights, and wants an LM on each predictor; ours does not."""
    return stage.work in ("finetune", "better_together") and not isinstance(stage.optimizer, dspy.BootstrapFinetune)


def _optimized(task: CompileTask, meter: Meter, notes: dict[str, Any]) -> Any:
    """The program that the stage's optimizer makes of its start, checked to be a program."""
    stage = task.stage
    preflight(task.experiment, task.recipe, task.job_context, task.launch)
    task.attempt.judge_meter = judge_meter = Meter()
    ours = with_stage_lm(stage.optimizer, task.recipe.lm, task.experiment.ambient_lm)
    judged = partial(task.judge.wrapped, meter=judge_meter, stage=stage.name)
    optimizer = with_own_data(ours, judged, LabelTypes.of(task.experiment.program))
    optimizer = _with_tuners(optimizer, tuner_settings(task), task.attempt.tuners)
    keep_own_instructions(optimizer, notes)
    swallowed = watch_steps(optimizer, task.recipe.lm)
    # A tuner shows by itself how far it is.
    shown = not isinstance(optimizer, TraceFinetune)
    try:
        with _showing_calls(meter, task) if shown else contextlib.nullcontext():
            program = _run(task, optimizer)
    except DspyFtError:
        raise
    except Exception as error:
        name = getattr(stage.optimizer, "__name__", type(stage.optimizer).__name__)
        at = f" at {place}" if (place := users_place(error)) else ""
        raise BuildError(f"stage {stage.name!r}: {name} failed{at}: {describe_exception(error, 2000)}") from error
    check_result(stage, program, swallowed)
    return program


def tuner_settings(task: CompileTask) -> TraceFinetuneSettings:
    """How every :class:`TraceFinetune` of the stage is set up."""
    return TraceFinetuneSettings(
        stage=task.stage.name,
        teacher_name=task.stage.teacher or task.stage.start,
        accept=task.stage.accept,
        minimum=task.stage.min_traces,
        trace_files=task.trace_files,
        runtime=task.runtime,
        workspace=task.workspace,
        seed=task.experiment.seed,
        progress=task.settings.progress,
        launch=task.launch,
        collections=task.collections,
        job_context=task.job_context,
    )


def _with_tuners(optimizer: Any, settings: TraceFinetuneSettings, tuners: list[TraceFinetune]) -> Any:
    """The optimizer with every ``BootstrapFinetune`` in it replaced by our own, collected in ``tuners``."""
    if isinstance(optimizer, dspy.BootstrapFinetune):
        tuners.append(TraceFinetune(optimizer, settings))
        return tuners[-1]
    if hasattr(optimizer, "optimizers"):
        optimizer.optimizers = {n: _with_tuners(step, settings, tuners) for n, step in optimizer.optimizers.items()}
    return optimizer


def _run(task: CompileTask, optimizer: Any) -> Any:
    """Call an optimizer with what it accepts."""
    stage = task.stage
    trainset = own_examples(task.experiment.dataset.split("train"))
    if not hasattr(optimizer, "compile"):
        return optimizer(task.start, trainset=trainset, teacher=task.teacher)
    accepted = inspect.signature(optimizer.compile).parameters
    variadic = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    # `KNNFewShot` takes its examples when it is made.
    arguments: dict[str, Any] = {"trainset": trainset} if variadic or "trainset" in accepted else {}
    if task.teacher is not None:
        require_same_predictors(stage.name, task.start, [task.teacher])
        arguments["teacher"] = task.teacher
    arguments |= own_examples(dict(stage.compile_args), LabelTypes.of(task.experiment.program))
    return optimizer.compile(task.start, **arguments)


@contextlib.contextmanager
def _showing_calls(meter: Meter, task: CompileTask) -> Iterator[None]:
    """Show that an optimizer is alive: the LM calls it has made so far, and where it is, as it said last."""
    stop, name = threading.Event(), type(task.stage.optimizer).__name__
    with task.settings.progress.task(f"{task.stage.name}: optimizing by {name}", unit="LM calls") as shown:

        def show() -> None:
            while not stop.wait(SHOWN_EVERY):
                shown.advance(meter.calls, note=task.output.step)

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            shown.advance(meter.calls, note=task.output.told_errors)
