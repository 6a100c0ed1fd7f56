"""A stage from its recipe: true copies, preflight, compile, truth checks. The room that knows DSPy's traps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from pytest_dspy_ft.errors import BuildError, DspyFtError, ExperimentError
from pytest_dspy_ft.evaluation.programs import adapter_of, program_state
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.finetune.hosted.journal import TrainingJobContext
from pytest_dspy_ft.finetune.optimizer import TraceFinetune, require_same_predictors
from pytest_dspy_ft.finetune.settings import TraceFinetuneSettings, requires_training
from pytest_dspy_ft.finetune.trace_files import TraceFiles
from pytest_dspy_ft.ladder.preflight import preflight
from pytest_dspy_ft.ladder.recipe import Recipe, prepared
from pytest_dspy_ft.lms.calls import guarded
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.lms.retry import DEFAULT_PATIENCE, Patience
from pytest_dspy_ft.lms.usage import Meter, measure
from pytest_dspy_ft.progress import Progress
from pytest_dspy_ft.records.build import BootstrapRecord, CandidateRecord, StrategyRecord, TrainingRecord
from pytest_dspy_ft.records.usage import Usage


@dataclass
class Attempt:
    """How far a compilation came: what it spent and collected counts, also where it fails."""

    tuners: list[TraceFinetune] = field(default_factory=list)
    meter: Meter | None = None
    earlier: tuple[BootstrapRecord, ...] = ()
    """Collections of an earlier session, where they are the reason why nothing is attempted in this one."""

    @property
    def usage(self) -> Usage:
        """What it has spent on LM calls so far."""
        return self.meter.usage if self.meter is not None else Usage()

    @property
    def bootstraps(self) -> tuple[BootstrapRecord, ...]:
        """All collections of traces, in their order for each of its steps."""
        return (*self.earlier, *(record for tuner in self.tuners for record in tuner.bootstraps))

    @property
    def training(self) -> tuple[TrainingRecord, ...]:
        """All finished trainings."""
        return tuple(record for tuner in self.tuners for record in tuner.trainings)


@dataclass(frozen=True)
class Compiled:
    """What compiling a stage gave."""

    state: dict[str, Any]
    """Predictor states by name, as JSON; LMs left out."""
    models: dict[str, str]
    """Predictors whose LM is another model now, by name."""
    model: str
    """The model that answers: that of the first predictor."""
    folders: dict[str, Path]
    """Where the weights of those models lie, for models trained on this machine."""
    strategy: StrategyRecord | None
    notes: dict[str, Any]


def compile_stage(
    experiment: Experiment,
    recipe: Recipe,
    start: Any,
    teacher: Any,
    *,
    workspace: Path,
    num_threads: int | None,
    progress: Progress,
    trace_files: TraceFiles,
    attempt: Attempt,
    work: TrainingJobContext | None = None,
    patience: Patience = DEFAULT_PATIENCE,
) -> Compiled:
    """Run a stage's optimizer on a copy of its start.

    Args:
        experiment: The experiment.
        recipe: The stage's recipe.
        start: Program of the stage it starts from, LMs set; a copy that may be changed.
        teacher: Program of its teacher, or None; a copy.
        workspace: Folder of the build.
        num_threads: Threads for whatever evaluates inside; None lets the LM decide.
        progress: Told how far it is.
        trace_files: Where the traces that fine-tuning collects are written.
        attempt: Filled as the work goes on.
        work: What hosted fine-tuning jobs are for; None where no LM is trained elsewhere.
        patience: How failures of the LMs' provider are waited out.

    Returns:
        What compiling gave: the program's state and its models, ready to be kept.

    Raises:
        BuildError: With the stage and the cause, whatever the optimizer raised or swallowed.
        ProviderError: If a provider refused, or did not come back; also where the optimizer went on without it.
        RecordingError: If a call is not recorded and may not be made.
    """
    stage = recipe.stage
    before = {name: predictor.lm for name, predictor in start.named_predictors()}
    runtime = Runtime(recipe.lm, adapter_of(experiment), num_threads, patience)
    notes: dict[str, Any] = {}
    tuner_settings = {
        "stage": stage.name,
        "teacher_name": stage.teacher or stage.start,
        "accept": stage.accept,
        "minimum": stage.min_traces,
        "trace_files": trace_files,
        "runtime": runtime,
        "workspace": workspace,
        "seed": experiment.seed,
        "progress": progress,
        "job_context": work,
    }
    tuners = attempt.tuners
    with guarded(f"stage {stage.name!r}", patience), runtime.active(), measure() as meter:
        attempt.meter = meter
        if stage.optimizer is None:
            program = start
        else:
            preflight(experiment, recipe, work)
            optimizer = prepared(stage.optimizer, recipe.lm, experiment.ambient_lm)
            optimizer = _keeping_proposals_optional(_with_tuners(optimizer, tuner_settings, tuners), notes)
            swallowed = _watch_steps(optimizer, recipe.lm)
            try:
                with _watched(meter, stage.name, progress, quiet=isinstance(optimizer, TraceFinetune)):
                    program = _compile(stage, optimizer, start, teacher, list(experiment.dataset.split("train")))
            except DspyFtError:
                raise
            except Exception as error:
                raise BuildError(
                    f"stage {stage.name!r}: {type(stage.optimizer).__name__} failed: {describe_exception(error, 2000)}"
                ) from error
            _truth_checks(stage, program, list(before), swallowed)
    for name, predictor in program.named_predictors():
        if predictor.lm is None:  # some optimizers reset LMs; a program without one runs on whatever is configured
            predictor.lm = before[name]
    models = {
        name: predictor.lm.model
        for name, predictor in program.named_predictors()
        if predictor.lm.model != before[name].model
    }
    if stage.optimizer is not None and stage.work == "finetune" and requires_training(stage.optimizer) and not models:
        raise BuildError(
            f"stage {stage.name!r}: after fine-tuning, every predictor still runs on the model it had before"
        )
    return Compiled(
        state=program_state(program),
        models=models,
        model=program.predictors()[0].lm.model,
        folders={model: folder for tuner in tuners for model, folder in tuner.folders.items()},
        strategy=_winning_strategy(program, trained=bool(models)),
        notes=notes,
    )


def _with_tuners(optimizer: Any, settings: Mapping[str, Any], tuners: list[TraceFinetune]) -> Any:
    """The optimizer with every ``BootstrapFinetune`` in it replaced by our own, collected in ``tuners``."""
    if isinstance(optimizer, dspy.BootstrapFinetune):
        tuners.append(TraceFinetune(optimizer, TraceFinetuneSettings(**settings)))
        return tuners[-1]
    if hasattr(optimizer, "optimizers"):
        optimizer.optimizers = {n: _with_tuners(step, settings, tuners) for n, step in optimizer.optimizers.items()}
    return optimizer


def _keeping_proposals_optional(optimizer: Any, notes: dict[str, Any]) -> Any:
    """Let ``MIPROv2`` go on with the program's own instructions where its LM writes proposals that cannot be read.

    It would otherwise die on the first one, with every demo already paid for; a small LM writes no readable one.
    """
    if isinstance(optimizer, dspy.MIPROv2):
        propose = optimizer._propose_instructions

        def propose_or_keep(program: Any, *args: Any, **kwargs: Any) -> dict[int, list[str]]:
            try:
                proposed: dict[int, list[str]] = propose(program, *args, **kwargs)
            except AdapterParseError as error:
                notes["instructions"] = (
                    f"the program's own only: proposals could not be read ({describe_exception(error)})"
                )
                return {i: [predictor.signature.instructions] for i, predictor in enumerate(program.predictors())}
            return proposed

        optimizer._propose_instructions = propose_or_keep
    for step in getattr(optimizer, "optimizers", {}).values():
        _keeping_proposals_optional(step, notes)
    return optimizer


def _compile(stage: Stage, optimizer: Any, student: Any, teacher: Any, trainset: Sequence[Any]) -> Any:
    if not hasattr(optimizer, "compile"):
        return optimizer(student, trainset=trainset, teacher=teacher)
    accepted = inspect.signature(optimizer.compile).parameters
    arguments: dict[str, Any] = {"trainset": trainset}
    if teacher is not None:
        if "teacher" not in accepted:
            raise ExperimentError(
                f"stage {stage.name!r}: {type(stage.optimizer).__name__} takes no teacher; leave out teacher="
            )
        require_same_predictors(stage.name, student, [teacher])
        arguments["teacher"] = teacher
    arguments |= stage.compile_args
    variadic = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    unknown = [name for name in arguments if name not in accepted and not variadic]
    if unknown:
        raise ExperimentError(
            f"stage {stage.name!r}: {type(stage.optimizer).__name__}.compile() takes no {', '.join(unknown)}; "
            f"it takes {', '.join(n for n in accepted if n not in ('self', 'student'))}"
        )
    return optimizer.compile(student, **arguments)


def _watch_steps(optimizer: Any, lm: Any) -> list[str]:
    """Note what the steps of a combining optimizer raise, which it would swallow, and hand them what they can take.

    ``BetterTogether`` passes its teacher on as a list, which prompt optimizers fail on; and after a training,
    ``MIPROv2`` would go on taking its demos from the answers of the untrained LM.

    Args:
        optimizer: The optimizer; one without steps is left alone.
        lm: The stage's LM.

    Returns:
        Filled while the optimizer compiles: one line for each failed step.
    """
    failures: list[str] = []
    steps = getattr(optimizer, "optimizers", {})
    for name, step in steps.items():

        def compile_step(
            *args: Any, _step: Any = step, _name: str = name, _compile: Any = step.compile, **kw: Any
        ) -> Any:
            teachers = kw.get("teacher")
            if isinstance(teachers, list) and len(teachers) == 1 and not isinstance(_step, TraceFinetune):
                kw["teacher"] = teachers[0]
            student = args[0] if args else kw.get("student")
            trained = {id(p.lm): p.lm for p in student.predictors()} if student is not None else {}
            if len(trained) == 1 and getattr(_step, "task_model", None) is lm:
                _step.task_model = next(iter(trained.values()))
            try:
                return _compile(*args, **kw)
            except Exception as error:
                # Our own messages are meant to be read as they stand: a diagnosis has many lines.
                why = str(error) if isinstance(error, DspyFtError) else describe_exception(error, 2000)
                failures.append(f"step {_name!r} ({type(_step).__name__}): {why}")
                raise

        step.compile = functools.wraps(step.compile)(compile_step)
    return failures


def _truth_checks(stage: Stage, program: Any, start_names: list[str], swallowed: Sequence[str]) -> None:
    """See whether the optimizer did what it says.

    Args:
        stage: The stage.
        program: What its optimizer returned.
        start_names: Names of the predictors that the program started with.
        swallowed: What steps of the optimizer raised.

    Raises:
        BuildError: If it did not.
    """
    if not isinstance(program, dspy.Module):
        raise BuildError(
            f"stage {stage.name!r}: the optimizer returned {type(program).__name__} where a dspy.Module was due"
        )
    names = [name for name, _ in program.named_predictors()]
    if names != start_names:
        raise BuildError(
            f"stage {stage.name!r}: the optimizer returned a program with predictors {names}, its start has "
            f"{start_names}; only prompts, demos and weights of the same program can be kept and compared"
        )
    if getattr(program, "flag_compilation_error_occurred", False):
        raise BuildError(
            f"stage {stage.name!r}: {type(stage.optimizer).__name__} swallowed a failure and gave back an earlier "
            f"program: {'; '.join(swallowed) or 'its log names the step and the cause'}"
        )


def _winning_strategy(program: Any, *, trained: bool) -> StrategyRecord | None:
    """Which of its candidates ``BetterTogether`` gave back; None for other optimizers.

    Args:
        program: What the optimizer returned.
        trained: Whether its predictors run on other models than before.
    """
    candidates = getattr(program, "candidate_programs", None)
    if not candidates or not isinstance(candidates[0], dict) or "strategy" not in candidates[0]:
        return None
    # Not the first of the list: without a validation set there is no best, and the latest is given back.
    won = next((c for c in candidates if c["program"] is program), candidates[0])
    records = {
        id(c): CandidateRecord(strategy=c["strategy"], score=None if c["score"] is None else round(c["score"] / 100, 4))
        for c in candidates
    }
    made = sorted(candidates, key=lambda c: len(c["strategy"]))  # each is the one before it and one step more
    return StrategyRecord(
        won=won["strategy"],
        score=records[id(won)].score,
        trained=trained,
        candidates=tuple(records[id(c)] for c in made),
    )


class _watched:  # noqa: N801 - reads as a statement: with _watched(...)
    """Shows that a prompt optimizer is alive: the LM calls it has made so far."""

    def __init__(self, meter: Any, stage: str, progress: Progress, *, quiet: bool) -> None:
        import threading

        self._meter, self._quiet = meter, quiet
        self._context = progress.task(f"{stage}: optimizing", unit="LM calls")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        if not self._quiet:
            self._task = self._context.__enter__()
            self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self._task.advance(self._meter.calls)

    def __exit__(self, *failure: Any) -> None:
        self._stop.set()
        if not self._quiet:
            self._thread.join()
            self._context.__exit__(*failure)
