"""How many LM calls an optimizer will make: read from its settings, before it makes any.

Where an optimizer decides as it goes, this is the most that its settings allow; where only running it could tell, None.
Counted are calls of the *program* (one example, however many LM calls it takes) and calls of an LM beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from pytest_dspy_ft.experiment.optimizers import LabeledFinetune
from pytest_dspy_ft.experiment.stage import Stage

MINIBATCH_FROM = 51
"""MIPROv2's ``auto`` settings take minibatches for validation sets of at least so many examples."""
AUTO = {"light": (6, 100), "medium": (12, 300), "heavy": (18, 1000)}
"""MIPROv2's ``auto`` settings: candidates, and examples of the validation set at most."""
MINIBATCH_SIZE, FULL_EVALUATION_STEPS = 35, 5
PROPOSAL_CALLS = 12
"""MIPROv2's calls to describe data and program before it proposes instructions."""


@dataclass(frozen=True)
class Calls:
    """What building a stage takes."""

    program: int = 0
    """Calls of the student's program."""
    teacher: int = 0
    """Calls of the teacher's program."""
    other: int = 0
    """LM calls beside programs: proposals of instructions."""
    trained_rows: int = 0
    """Training rows, of all jobs together, if every trace is kept."""
    bound: bool = False
    """Whether this is the most it can be rather than what it will be."""
    basis: str = ""

    def __add__(self, other: Calls) -> Calls:
        return Calls(
            self.program + other.program,
            self.teacher + other.teacher,
            self.other + other.other,
            self.trained_rows + other.trained_rows,
            self.bound or other.bound,
            self.basis or other.basis,
        )


def calls_of(stage: Stage, trainset: Sequence[Any], predictors: int) -> Calls | None:
    """What building a stage takes, by its optimizer's settings; None where only running it could tell.

    Args:
        stage: The stage.
        trainset: The train split.
        predictors: How many the program has.
    """
    arguments = dict(stage.compile_args)
    return _calls(
        stage.optimizer, arguments, arguments.get("trainset", trainset), predictors, stage.teacher is not None
    )


def _calls(
    optimizer: Any, arguments: Mapping[str, Any], trainset: Sequence[Any], predictors: int, taught: bool
) -> Calls | None:
    n = len(trainset)
    if optimizer is None:
        return Calls(basis="no optimizer")
    match type(optimizer).__name__:
        case "BetterTogether":
            return _better_together(optimizer, arguments, trainset, predictors)
        case "MIPROv2":
            return _mipro(optimizer, arguments, n, predictors, taught)
        case "LabeledFewShot":
            return Calls(basis="LabeledFewShot calls no LM")
        case "BootstrapFewShot":
            rounds = int(getattr(optimizer, "max_rounds", 1) or 1)
            return Calls(teacher=n * rounds, bound=True, basis="BootstrapFewShot: at most every train example")
        case "BootstrapFewShotWithRandomSearch" | "BootstrapRS":
            sets = int(getattr(optimizer, "num_candidate_sets", 16))
            val = len(arguments.get("valset") or trainset)
            basis = "random search: every candidate on the validation set"
            return Calls(program=(sets + 3) * val, teacher=(sets + 1) * n, bound=True, basis=basis)
    if isinstance(optimizer, LabeledFinetune):
        return Calls(trained_rows=n * predictors, basis="labels call no LM")
    if isinstance(optimizer, dspy.BootstrapFinetune):
        return Calls(teacher=n, trained_rows=n * predictors, basis="one trace for each train example")
    return None


def _mipro(optimizer: Any, arguments: Mapping[str, Any], n: int, predictors: int, taught: bool) -> Calls | None:
    """MIPROv2's three steps, as its compile() of DSPy 3.4 makes them."""
    bootstrapped, labeled = (
        int(getattr(optimizer, name) if arguments.get(name) is None else arguments[name])
        for name in ("max_bootstrapped_demos", "max_labeled_demos")
    )
    zero_shot = bootstrapped == 0 and labeled == 0
    given = arguments.get("valset")
    validation = len(given) if given else min(1000, max(1, int(n * 0.8)))
    if optimizer.auto is not None:
        candidates, most = AUTO[optimizer.auto]
        validation = min(validation, most)
        minibatch = validation >= MINIBATCH_FROM
        variables = predictors * (1 if zero_shot else 2)
        trials = int(max(2 * variables * math.log2(candidates), 1.5 * candidates))
        instructions = candidates if zero_shot else candidates // 2
    else:
        if not optimizer.num_candidates or not arguments.get("num_trials"):
            return None
        candidates, trials = int(optimizer.num_candidates), int(arguments["num_trials"])
        minibatch = bool(arguments.get("minibatch", True))
        instructions = candidates
    evaluated = validation * (trials + 1)
    if minibatch:
        size = int(arguments.get("minibatch_size", MINIBATCH_SIZE))
        steps = int(arguments.get("minibatch_full_eval_steps", FULL_EVALUATION_STEPS))
        evaluated = size * trials + validation * (trials // steps + 2)
    # Of the candidate sets of demos, three need no call; each of the others runs until it has its demos.
    demos = 0 if zero_shot else max(candidates - 2, 0) * max(bootstrapped, 1)
    own = {} if taught else {"program": demos}
    return Calls(
        program=evaluated + own.get("program", 0),
        teacher=demos if taught else 0,
        other=PROPOSAL_CALLS + instructions * predictors,
        basis=f"MIPROv2: {trials} trials on {validation} validation examples"
        + (f", minibatches of {size}" if minibatch else ""),
    )


def _better_together(
    optimizer: Any, arguments: Mapping[str, Any], trainset: Sequence[Any], predictors: int
) -> Calls | None:
    steps = [step.strip() for step in str(arguments.get("strategy", "p -> w -> p")).split("->")]
    given = arguments.get("valset")
    cut = 0 if given else int(len(trainset) * float(arguments.get("valset_ratio", 0.1)))
    valset, learned = given or list(trainset[:cut]), list(trainset[cut:])
    validation = len(valset)
    own = arguments.get("optimizer_compile_args") or {}
    total = Calls(program=validation * (len(steps) + 1), basis=f"BetterTogether: {' -> '.join(steps)}")
    for step in steps:
        settings = {"valset": valset, **own.get(step, {})}  # a step is given the validation set too
        calls = _calls(optimizer.optimizers.get(step), settings, settings.get("trainset", learned), predictors, False)
        if calls is None:
            return None
        total += Calls(calls.program + calls.teacher, 0, calls.other, calls.trained_rows, calls.bound)
    return total
