"""How many LM calls an optimizer will make: read from its settings, before it makes any.

Where an optimizer decides as it goes, this is the most that its settings allow; where only running it could tell, None.
Counted are calls of the *program* (one example, however many LM calls it takes) and calls of an LM beside it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy

from pytest_dspy_ft.experiment.optimizers import LabeledFinetune
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.insides.optimizers import AUTO_RUN_SETTINGS, MIN_MINIBATCH_SIZE

PROPOSAL_CALLS = 12
"""MIPROv2's calls to describe data and program before it proposes instructions."""


@dataclass(frozen=True)
class Calls:
    """The calls and training rows that building a stage takes."""

    program: int = 0
    """Calls of the student's program."""
    teacher: int = 0
    """Calls of the teacher's program."""
    other: int = 0
    """LM calls beside programs: proposals of instructions."""
    trained_rows: int = 0
    """Training rows, of all jobs together, if every trace is kept."""
    bound: bool = False
    """True where this is the most it can be rather than what it will be."""
    basis: str = ""


def calls_of(stage: Stage, trainset: Sequence[Any], predictors: int) -> Calls | None:
    """The calls that building a stage takes, by its optimizer's settings; None where only running it could tell.

    Args:
        stage: The stage.
        trainset: The train split.
        predictors: How many the program has.
    """
    arguments = {"trainset": trainset, **stage.compile_args}
    return _calls(stage.optimizer, arguments, predictors, taught=stage.teacher is not None)


def _calls(optimizer: Any, given: Mapping[str, Any], predictors: int, *, taught: bool) -> Calls | None:
    """The calls of one compilation, given the arguments of ``compile()``, ``trainset`` among them."""
    n = len(given["trainset"])
    if optimizer is None:
        return Calls(basis="no optimizer")
    match type(optimizer).__name__:
        case "BetterTogether":
            return _better_together(optimizer, _with_defaults(optimizer, given), predictors)
        case "MIPROv2":
            return _mipro(optimizer, _with_defaults(optimizer, given), predictors, taught)
        case "LabeledFewShot":
            return Calls(basis="LabeledFewShot calls no LM")
        case "BootstrapFewShot":
            rounds = int(getattr(optimizer, "max_rounds", 1) or 1)
            return Calls(teacher=n * rounds, bound=True, basis="BootstrapFewShot: at most every train example")
        case "BootstrapFewShotWithRandomSearch" | "BootstrapRS":
            sets = int(getattr(optimizer, "num_candidate_sets", 16))
            validation = len(given.get("valset") or given["trainset"])
            basis = "random search: every candidate on the validation set"
            return Calls(program=(sets + 3) * validation, teacher=(sets + 1) * n, bound=True, basis=basis)
    if isinstance(optimizer, LabeledFinetune):
        return Calls(trained_rows=n * predictors, basis="labels call no LM")
    if isinstance(optimizer, dspy.BootstrapFinetune):
        return Calls(teacher=n, trained_rows=n * predictors, basis="one trace for each train example")
    return None


def _with_defaults(optimizer: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an optimizer's ``compile()``: those that are given, DSPy's defaults for the others."""
    parameters = inspect.signature(optimizer.compile).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(given)


def _mipro(optimizer: Any, arguments: Mapping[str, Any], predictors: int, taught: bool) -> Calls | None:
    """MIPROv2's three steps, as its compile() of DSPy 3.4 makes them."""
    bootstrapped, labeled = (
        int(getattr(optimizer, name) if arguments[name] is None else arguments[name])
        for name in ("max_bootstrapped_demos", "max_labeled_demos")
    )
    zero_shot = bootstrapped == 0 and labeled == 0
    given = arguments["valset"]
    validation = len(given) if given else min(1000, max(1, int(len(arguments["trainset"]) * 0.8)))
    if optimizer.auto is not None:
        candidates = AUTO_RUN_SETTINGS[optimizer.auto]["n"]
        validation = min(validation, AUTO_RUN_SETTINGS[optimizer.auto]["val_size"])
        minibatch = validation > MIN_MINIBATCH_SIZE
        variables = predictors * (1 if zero_shot else 2)
        trials = int(max(2 * variables * math.log2(candidates), 1.5 * candidates))
        instructions = candidates if zero_shot else candidates // 2
    else:
        if not optimizer.num_candidates or not arguments["num_trials"]:
            return None
        candidates, trials = int(optimizer.num_candidates), int(arguments["num_trials"])
        minibatch = bool(arguments["minibatch"])
        instructions = candidates
    evaluated, basis = validation * (trials + 1), f"MIPROv2: {trials} trials on {validation} validation examples"
    if minibatch:
        size, steps = int(arguments["minibatch_size"]), int(arguments["minibatch_full_eval_steps"])
        evaluated = size * trials + validation * (trials // steps + 2)
        basis += f", minibatches of {size}"
    # Of the candidate sets of demos, three need no call; each of the others runs until it has its demos.
    demos = 0 if zero_shot else max(candidates - 2, 0) * max(bootstrapped, 1)
    return Calls(
        program=evaluated + (0 if taught else demos),
        teacher=demos if taught else 0,
        other=PROPOSAL_CALLS + instructions * predictors,
        basis=basis,
    )


def _better_together(optimizer: Any, arguments: Mapping[str, Any], predictors: int) -> Calls | None:
    """The sum of the strategy's steps, and an evaluation of every candidate; each step's student teaches itself."""
    steps = [step.strip() for step in str(arguments["strategy"]).split("->")]
    given, trainset = arguments["valset"], arguments["trainset"]
    cut = 0 if given else int(len(trainset) * float(arguments["valset_ratio"]))
    valset = given or list(trainset[:cut])
    total = Calls(program=len(valset) * (len(steps) + 1), basis=f"BetterTogether: {' -> '.join(steps)}")
    for step in steps:
        own = (arguments["optimizer_compile_args"] or {}).get(step, {})
        settings = {"trainset": list(trainset[cut:]), "valset": valset, **own}
        calls = _calls(optimizer.optimizers.get(step), settings, predictors, taught=False)
        if calls is None:
            return None
        total = replace(
            total,
            program=total.program + calls.program + calls.teacher,
            other=total.other + calls.other,
            trained_rows=total.trained_rows + calls.trained_rows,
            bound=total.bound or calls.bound,
        )
    return total
