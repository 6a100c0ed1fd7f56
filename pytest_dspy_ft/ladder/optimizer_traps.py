"""Traps of DSPy's optimizers, and the way round each.

* ``MIPROv2`` binds the LM that is configured when it is made: :func:`with_stage_lm`.
* A metric may change the predictions of which demos are made, and the examples of the next candidate:
  :func:`with_own_data`.
* A metric that asks an LM would ask the one that is under way: :func:`with_own_data`.
* ``MIPROv2`` dies on the first proposal of instructions that it cannot read: :func:`keep_own_instructions`.
* ``BetterTogether`` swallows what its steps raise, passes a list where a teacher is due, and lets ``MIPROv2`` take its
  demos from the untrained LM after a training: :func:`watch_steps`.
* Any optimizer may give back something else than a program, and say that it did well:
  :func:`check_result`.
* ``BetterTogether`` sorts its candidates by scores that they need not have: :func:`winning_strategy`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dspy

from pytest_dspy_ft.errors import BuildError, DspyFtError
from pytest_dspy_ft.experiment.copies import copy_value
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.experiment.typed_labels import LabelTypes, typed_example
from pytest_dspy_ft.finetune.optimizer import TraceFinetune
from pytest_dspy_ft.insides.adapters import is_unreadable
from pytest_dspy_ft.insides.optimizers import Teleprompter, wrap_proposals
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.lms.resolve import is_placeholder
from pytest_dspy_ft.records.build import CandidateRecord, StrategyRecord

METRICS = ("metric", "metric_fn")
"""Attributes in which DSPy's optimizers keep their metric."""


def with_steps(optimizer: Any) -> Iterator[Any]:
    """An optimizer, then the steps that it combines (``BetterTogether``), then theirs."""
    yield optimizer
    for step in getattr(optimizer, "optimizers", {}).values():
        yield from with_steps(step)


def copy_with_steps(optimizer: Any, change: Callable[[Any], None]) -> Any:
    """A copy of an optimizer and its steps, each copy changed; callables that are no DSPy optimizers are shared.

    Args:
        optimizer: A DSPy optimizer or a callable.
        change: Called with each copy.
    """
    if not isinstance(optimizer, Teleprompter):
        return optimizer
    copied = copy.copy(optimizer)
    change(copied)
    if hasattr(copied, "optimizers"):
        copied.optimizers = {name: copy_with_steps(step, change) for name, step in copied.optimizers.items()}
    return copied


def with_stage_lm(optimizer: Any, lm: Any, ambient_lm: Any) -> Any:
    """A copy of an optimizer with the LMs it took from DSPy's configuration replaced by the stage's.

    ``MIPROv2`` binds whatever LM is configured when it is made; only LMs that were given to it explicitly are kept.

    Args:
        optimizer: A DSPy optimizer or a callable.
        lm: The stage's LM.
        ambient_lm: The LM that was configured when the optimizer was made, or None.
    """

    def replace(copied: Any) -> None:
        for name in ("task_model", "prompt_model"):
            bound = getattr(copied, name, None)
            if bound is not None and (bound is ambient_lm or is_placeholder(bound)):
                setattr(copied, name, lm)

    return copy_with_steps(optimizer, replace)


class OwnExample(dspy.Example):  # type: ignore[misc]
    """An example whose inputs are copied for each call: DSPy's optimizers hand them to programs as they are."""

    def inputs(self) -> Any:
        """The inputs, copied."""
        return copy_value(super().inputs())


def own_examples(value: Any, label_types: LabelTypes | None = None) -> Any:
    """A value with all examples in it copied, in lists, tuples and dicts of whatever depth; all else is shared.

    Args:
        value: The value.
        label_types: What the examples' labels are read as; None where that is done.
    """
    if type(value) in (list, tuple):
        return type(value)(own_examples(item, label_types) for item in value)
    if type(value) is dict:
        return {name: own_examples(item, label_types) for name, item in value.items()}
    if not isinstance(value, dspy.Example):
        return value
    copied = copy_value(value if label_types is None else typed_example(value, label_types))
    if type(copied) is dspy.Example:
        copied.__class__ = OwnExample
    return copied


def with_own_data(
    optimizer: Any, judged: Callable[[Callable[..., Any]], Callable[..., Any]], label_types: LabelTypes | None = None
) -> Any:
    """A copy of an optimizer that has examples of its own, and whose metric gets copies of what it judges, and a judge.

    DSPy makes demos and rows of the very predictions that its metric has judged, and judges every candidate on the
    same examples: what a metric changes in them would change the stage.

    Args:
        optimizer: A DSPy optimizer or a callable; what a callable holds in its closure stays as it is.
        judged: Makes of a metric one that works on copies, and asks the judge where it asks an LM.
        label_types: What labels of its examples are read as.
    """

    def replace(copied: Any) -> None:
        for name, value in list(vars(copied).items()):
            setattr(
                copied, name, judged(value) if name in METRICS and callable(value) else own_examples(value, label_types)
            )

    return copy_with_steps(optimizer, replace)


def keep_own_instructions(optimizer: Any, notes: dict[str, Any]) -> None:
    """Let ``MIPROv2`` go on with the program's own instructions where its LM writes proposals that cannot be read.

    It would otherwise die on the first one, with every demo already paid for; a small LM writes no readable one.

    Args:
        optimizer: The optimizer; it and its steps are changed.
        notes: Told under ``instructions`` where that happened.
    """
    for step in with_steps(optimizer):
        if isinstance(step, dspy.MIPROv2):
            wrap_proposals(step, functools.partial(_propose_or_keep, notes=notes))


def _propose_or_keep(propose: Callable[..., dict[int, list[str]]], notes: dict[str, Any]) -> Callable[..., Any]:
    def propose_or_keep(program: Any, *args: Any, **kwargs: Any) -> dict[int, list[str]]:
        try:
            return propose(program, *args, **kwargs)
        except Exception as error:
            if not is_unreadable(error):
                raise
            notes["instructions"] = f"the program's own only: proposals could not be read ({describe_exception(error)})"
            return {i: [predictor.signature.instructions] for i, predictor in enumerate(program.predictors())}

    return propose_or_keep


def watch_steps(optimizer: Any, lm: Any) -> list[str]:
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
    for name, step in getattr(optimizer, "optimizers", {}).items():
        step.compile = _watched_compile(name, step, lm, failures)
    return failures


def _watched_compile(name: str, step: Any, lm: Any, failures: list[str]) -> Callable[..., Any]:
    compile_step = step.compile

    @functools.wraps(compile_step)
    def watched(*args: Any, **kwargs: Any) -> Any:
        teachers = kwargs.get("teacher")
        if isinstance(teachers, list) and len(teachers) == 1 and not isinstance(step, TraceFinetune):
            kwargs["teacher"] = teachers[0]
        student = args[0] if args else kwargs.get("student")
        trained = {id(p.lm): p.lm for p in student.predictors()} if student is not None else {}
        if len(trained) == 1 and getattr(step, "task_model", None) is lm:
            step.task_model = next(iter(trained.values()))
        try:
            return compile_step(*args, **own_examples(kwargs))
        except Exception as error:
            # Our own messages are meant to be read as they stand: a diagnosis has many lines.
            cause = str(error) if isinstance(error, DspyFtError) else describe_exception(error, 2000)
            failures.append(f"step {name!r} ({type(step).__name__}): {cause}")
            raise

    return watched


def check_result(stage: Stage, program: Any, swallowed: Sequence[str]) -> None:
    """Check that an optimizer gave back a program, and hid no failure.

    Args:
        stage: The stage.
        program: What its optimizer returned.
        swallowed: What steps of the optimizer raised, from :func:`watch_steps`.

    Raises:
        BuildError: If it did not.
    """
    if not isinstance(program, dspy.Module):
        raise BuildError(
            f"stage {stage.name!r}: the optimizer returned {type(program).__name__} where a dspy.Module was due"
        )
    if getattr(program, "flag_compilation_error_occurred", False):
        raise BuildError(
            f"stage {stage.name!r}: {type(stage.optimizer).__name__} swallowed a failure and gave back an earlier "
            f"program: {'; '.join(swallowed) or 'its log names the step and the cause'}"
        )


def winning_strategy(program: Any, *, trained: bool) -> StrategyRecord | None:
    """The candidate that ``BetterTogether`` gave back, among all; None for other optimizers.

    Args:
        program: What the optimizer returned.
        trained: True where its predictors run on other models than before.
    """
    candidates = getattr(program, "candidate_programs", None)
    if not candidates or not isinstance(candidates[0], dict) or "strategy" not in candidates[0]:
        return None
    # Not the first of the list: without a validation set there is no best, and the latest is given back.
    winner = next((c for c in candidates if c["program"] is program), candidates[0])
    in_order = sorted(candidates, key=lambda c: len(c["strategy"]))  # each is the one before it and one step more
    return StrategyRecord(
        won=winner["strategy"], score=_share(winner), trained=trained, candidates=tuple(map(_candidate, in_order))
    )


def _candidate(candidate: dict[str, Any]) -> CandidateRecord:
    return CandidateRecord(strategy=candidate["strategy"], score=_share(candidate))


def _share(candidate: dict[str, Any]) -> float | None:
    """A candidate's score in [0, 1]; DSPy counts in percent."""
    return None if candidate["score"] is None else round(candidate["score"] / 100, 4)
