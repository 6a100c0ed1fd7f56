"""A stage from its recipe: true copies, preflight, compile, truth checks. The room that knows DSPy's traps."""

from __future__ import annotations

import copy
import functools
import importlib.util
import inspect
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
from dspy.teleprompt.teleprompt import Teleprompter
from dspy.utils.exceptions import AdapterParseError

from pytest_dspy_ft.errors import BuildError, DspyFtError, ExperimentError
from pytest_dspy_ft.execution import DEFAULT_PATIENCE, Patience, Runtime, describe_exception
from pytest_dspy_ft.experiment import Experiment, Stage
from pytest_dspy_ft.finetune import (
    TraceFinetune,
    finetuners,
    require_same_predictors,
    requires_training,
    training_settings,
)
from pytest_dspy_ft.fingerprint import canonical, digest_json, fingerprint, lm_identity
from pytest_dspy_ft.hosted.clients import is_hosted
from pytest_dspy_ft.hosted.journal import Work
from pytest_dspy_ft.metering import Meter, measure
from pytest_dspy_ft.progress import Progress
from pytest_dspy_ft.recording.gate import active_recorder, guarded
from pytest_dspy_ft.results import BootstrapRecord, CandidateRecord, StrategyRecord, TrainingRecord, Usage
from pytest_dspy_ft.trace_files import TraceFiles

KEY_FORMAT = 1
"""Raised when what a key means changes, so that no build of an older meaning is taken for a new one."""

MODEL_AFFIX = "+"


@dataclass(frozen=True)
class Recipe:
    """All that determines a stage, and the key it is filed under."""

    stage: Stage
    lm: Any
    """The LM the stage runs on (before training changes it)."""
    parts: Mapping[str, Any]
    """What the key is made of, part by part."""

    @property
    def key(self) -> str:
        """Hash of all parts: 32 hexadecimal digits."""
        return digest_json(self.part_digests)

    @property
    def part_digests(self) -> dict[str, str]:
        """Hash of each part: enough to say which one changed, and nothing a secret could be read from."""
        return {name: digest_json(part, length=16) for name, part in self.parts.items()}


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


def make_recipe(experiment: Experiment, stage: Stage, keys: Mapping[str, str], lms: Mapping[str, Any]) -> Recipe:
    """What determines a stage.

    Args:
        experiment: The experiment.
        stage: One of its stages.
        keys: Keys of the stages it needs, by name.
        lms: LMs of the stages it needs, by name.
    """
    lm = stage.lm or (lms[stage.start] if stage.needs else experiment.lm)
    parts: dict[str, Any] = {
        "format": KEY_FORMAT,
        "dspy": ".".join(dspy.__version__.split(".")[:2]),
        "program": fingerprint(experiment.program),
        "start": keys.get(stage.start) if stage.needs else None,
        "lm": lm_identity(lm),
        "own_lms": {n: lm_identity(p.lm) for n, p in experiment.program.named_predictors() if p.lm is not None},
        "adapter": fingerprint(adapter_of(experiment)),
    }
    if stage.optimizer is not None:
        optimizer = prepared(stage.optimizer, lm, experiment.ambient_lm)
        parts |= {
            "teacher": keys[stage.teacher] if stage.teacher else None,
            "optimizer": canonical(_without_noise(optimizer)),
            "compile_args": canonical(dict(stage.compile_args)),
            "train": experiment.dataset.fingerprint("train"),
            "accept": stage.accept,
            "seed": experiment.seed,
            "training": canonical(getattr(lm, "train_kwargs", {})) if requires_training(stage.optimizer) else None,
        }
    return Recipe(stage, lm, parts)


def adapter_of(experiment: Experiment) -> Any:
    """The experiment's adapter, or the one DSPy would use."""
    return experiment.adapter if experiment.adapter is not None else dspy.ChatAdapter()


def copy_program(program: Any) -> Any:
    """A copy that shares nothing but the LMs with the original.

    A plain deep copy clones every LM with its engine, and DSPy's own copy helper forgets LMs below the top level.
    """
    try:
        copied = copy.deepcopy(program, {id(lm): lm for lm in _lms_in(program)})  # the memo makes it reuse these LMs
    except Exception:
        # Something in it cannot be copied (a client, a lock): DSPy's way copies what can be.
        copied = program.deepcopy()
        for (_, old), (_, new) in zip(program.named_predictors(), copied.named_predictors(), strict=True):
            new.lm = old.lm
    copied._compiled = False  # optimizers refuse a program that says it was compiled
    return copied


def _lms_in(program: Any) -> list[Any]:
    """Every LM that a program holds, on its predictors or in attributes, lists and dicts of its modules."""
    found: dict[int, Any] = {}
    seen: set[int] = set()
    todo = [program]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dspy.BaseLM):
            found[id(value)] = value
        elif isinstance(value, dspy.Module):
            todo.extend(vars(value).values())
        elif isinstance(value, Mapping):
            todo.extend(value.values())
        elif isinstance(value, (list, tuple)):
            todo.extend(value)
    return list(found.values())


def written_program(experiment: Experiment, lm: Any) -> Any:
    """A copy of the program as written, on an LM; predictors that carry an LM of their own keep it."""
    program = copy_program(experiment.program)
    for _, predictor in program.named_predictors():
        if predictor.lm is None:
            predictor.lm = lm
    return program


def program_state(program: Any) -> dict[str, Any]:
    """Prompts, demos and settings of every predictor, as JSON; LMs and what runs leave behind left out."""
    state = {}
    for name, predictor in program.named_predictors():
        bare = copy.copy(predictor)
        bare.lm = None  # an LM is kept by identity; not every engine can be dumped
        dumped = bare.dump_state(json_mode=True)
        state[name] = {k: v for k, v in dumped.items() if k not in ("lm", "traces", "train")}
        state[name]["config"] = predictor.config
    return state


def restore_state(program: Any, state: Mapping[str, Any]) -> None:
    """Put a state from :func:`program_state` on a program, LMs untouched.

    Raises:
        ValueError: If the program has other predictors than the state.
    """
    predictors = dict(program.named_predictors())
    if predictors.keys() != state.keys():
        raise ValueError(f"it holds predictors {sorted(state)}, the program has {sorted(predictors)}")
    for name, saved in state.items():
        predictor, lm = predictors[name], predictors[name].lm
        predictor.load_state({**saved, "lm": None, "traces": [], "train": []})
        predictor.lm = lm


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
    work: Work | None = None,
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
        "work": work,
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


def preflight(experiment: Experiment, recipe: Recipe, work: Work | None = None) -> None:
    """Find out what would fail late, before anything is spent.

    Args:
        experiment: The experiment.
        recipe: The stage's recipe.
        work: What hosted fine-tuning jobs are for; None where no LM is trained elsewhere.

    Raises:
        BuildError: With what is missing and how to get it.
    """
    stage, optimizer = recipe.stage, recipe.stage.optimizer
    if not experiment.dataset.split("train"):
        raise BuildError(
            f"stage {stage.name!r}: the train split is empty, and {type(optimizer).__name__} learns from it"
        )
    if _uses(optimizer, "MIPROv2") and importlib.util.find_spec("optuna") is None:
        raise BuildError(
            f"stage {stage.name!r}: MIPROv2 needs optuna, and would find out only after its LM calls: "
            "pip install 'dspy[optuna]'"
        )
    if not requires_training(optimizer):
        return
    adapter = adapter_of(experiment)
    if not isinstance(adapter, dspy.ChatAdapter) or isinstance(adapter, dspy.JSONAdapter):
        raise BuildError(
            f"stage {stage.name!r}: {type(adapter).__name__} cannot write training rows; "
            "give the experiment adapter=dspy.ChatAdapter()"
        )
    lms = [p.lm or recipe.lm for _, p in experiment.program.named_predictors()]
    recorder = active_recorder()
    for lm in lms:
        if recorder is not None and recorder.offline and recorder.covers(lm):
            continue  # what its training came to is recorded
        if work is not None and is_hosted(lm) and _check_hosted(lm, optimizer, work):
            continue
        if not getattr(getattr(lm, "provider", None), "finetunable", False):
            raise BuildError(
                f"stage {stage.name!r}: {lm.model!r} cannot be fine-tuned by its provider "
                f"({type(getattr(lm, 'provider', None)).__name__}); use --dspy-lm=local to train on this machine, "
                "or an LM whose provider trains, such as openai/..."
            )


def _check_hosted(lm: Any, optimizer: Any, work: Work) -> bool:
    """Check an LM that is trained elsewhere, if it is one whose training is ours to order."""
    from pytest_dspy_ft.hosted.provider import hosted_provider

    if (provider := hosted_provider(lm)) is None:
        return False
    started = any(entry.job is not None for entry in work.journal.jobs())
    for finetuner in finetuners(optimizer):
        try:
            provider.check(lm, training_settings(lm, finetuner), started=started)
        except DspyFtError as error:
            raise BuildError(f"stage {work.stage!r}: {error}") from None
    return True


def prepared(optimizer: Any, lm: Any, ambient_lm: Any) -> Any:
    """A copy of an optimizer with the LMs it took from DSPy's configuration replaced by the stage's.

    ``MIPROv2`` binds whatever LM is configured when it is made; only LMs that were given to it explicitly are kept.

    Args:
        optimizer: A DSPy optimizer or a callable.
        lm: The stage's LM.
        ambient_lm: The LM that was configured when the optimizer was made, or None.
    """
    if not isinstance(optimizer, Teleprompter):
        return optimizer
    copied = copy.copy(optimizer)
    for name in ("task_model", "prompt_model"):
        if ambient_lm is not None and getattr(copied, name, None) is ambient_lm:
            setattr(copied, name, lm)
    if hasattr(copied, "optimizers"):
        copied.optimizers = {name: prepared(step, lm, ambient_lm) for name, step in copied.optimizers.items()}
    return copied


def _without_noise(optimizer: Any) -> Any:
    """The optimizer without the state that compiling leaves on it and without settings that change no result."""
    if not isinstance(optimizer, Teleprompter):
        return optimizer
    copied = copy.copy(optimizer)
    for name in ("num_threads", "rng", "prompt_model_total_calls", "total_calls", "verbose", "track_stats", "log_dir"):
        vars(copied).pop(name, None)
    if hasattr(copied, "optimizers"):
        copied.optimizers = {name: _without_noise(step) for name, step in copied.optimizers.items()}
    return copied


def _with_tuners(optimizer: Any, settings: Mapping[str, Any], tuners: list[TraceFinetune]) -> Any:
    """The optimizer with every ``BootstrapFinetune`` in it replaced by our own, collected in ``tuners``."""
    if isinstance(optimizer, dspy.BootstrapFinetune):
        tuners.append(TraceFinetune(optimizer, **settings))
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


def _uses(optimizer: Any, class_name: str) -> bool:
    if any(cls.__name__ == class_name for cls in type(optimizer).__mro__):
        return True
    return any(_uses(step, class_name) for step in getattr(optimizer, "optimizers", {}).values())


def keep_adapters(compiled: Compiled, workspace: Path) -> dict[str, dict[str, str]]:
    """Bring the trained weights that the program uses into the build, and drop what else training left.

    Returns:
        For each predictor with another model: ``{"model": ..., "adapter": folder below the build}`` (no ``adapter``
        where the model lives elsewhere).
    """
    kept: dict[str, dict[str, str]] = {}
    for name, model in compiled.models.items():
        kept[name] = {"model": model}
        if (source := compiled.folders.get(model)) is not None:
            adapter = model.partition(MODEL_AFFIX)[2]
            target = workspace / "adapters" / adapter
            if not target.exists():
                shutil.copytree(source, target)
            kept[name]["adapter"] = f"adapters/{adapter}"
    training = workspace / "training"
    if training.exists():
        shutil.rmtree(training)
    return kept


def attach_models(program: Any, models: Mapping[str, Mapping[str, str]], folder: Path) -> None:
    """Put a program on the models its build was trained to: the LM it has, with another model's name.

    Args:
        program: A program on the LMs of its stage's start.
        models: From :func:`keep_adapters`.
        folder: Folder of the build.
    """
    shared: dict[tuple[int, str], Any] = {}  # predictors of one LM and one model go on sharing it
    for name, predictor in program.named_predictors():
        if (entry := models.get(name)) is None:
            continue
        model = entry["model"]
        if "adapter" in entry:
            predictor.lm.engine.add_adapter(model.partition(MODEL_AFFIX)[2], folder / entry["adapter"])
        predictor.lm = shared.setdefault((id(predictor.lm), model), predictor.lm.copy(model=model))
