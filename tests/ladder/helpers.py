"""What the tests of the ladder share: a store, LMs that know even from odd, optimizers that write a prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy

from pytest_dspy_ft import Ladder, Stage
from tests.scripted import experiment, reply, scripted_lm

STORE = Path("store")


def parity_rule(fields: Any, request: Any) -> str:
    return reply(label="even" if int(fields["text"]) % 2 == 0 else "odd")


def scripted(**settings: Any) -> Any:
    return scripted_lm(parity_rule, **settings)


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def writes(instructions: str, demos: Any = (), seen: list[Any] | None = None) -> Callable[..., Any]:
    """An optimizer that writes a prompt onto the very program it is given."""

    def write(program: Any, *, trainset: Any, teacher: Any) -> Any:
        if seen is not None:
            seen.append((program, trainset, teacher))
        for predictor in program.predictors():
            predictor.signature = predictor.signature.with_instructions(instructions)
            predictor.demos = [*predictor.demos, *demos]
        return program

    return write


def predict() -> Any:
    return dspy.Predict("text -> label")


def instructions(program: Any) -> str:
    return str(program.predictors()[0].signature.instructions)


def statuses(ladder: Ladder, *names: str) -> list[str]:
    for name in names:
        ladder.build(name)
    return [r.status for r in ladder.record().stages]


LADDER = ("baseline", "prompt_optimized", "finetuned")


class Counting:
    """An optimizer that writes another prompt each time it runs, under one key."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, program: Any, *, trainset: Any, teacher: Any) -> Any:
        self.runs += 1
        return writes(f"run {self.runs}")(program, trainset=trainset, teacher=teacher)

    def __dspy_ft_key__(self) -> str:
        return "counting"


def counted(lm: Any, below: Any, above: Any) -> Any:
    return experiment(predict(), lm, [Stage("below", below), Stage("above", above, start="below"), Stage("side")])
