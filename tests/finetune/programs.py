"""Programs, scripted answers and metrics that fine-tuning is tested with, and how a stage is built from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import BuildError
from tests.scripted import experiment, jobs_of, reply

TRAIN = 32  # of 40 examples


class Spell(dspy.Signature):
    """SPELL the number."""

    text: str = dspy.InputField()
    word: str = dspy.OutputField()


class Judge(dspy.Signature):
    """JUDGE the word."""

    word: str = dspy.InputField()
    label: str = dspy.OutputField()


class TwoSteps(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spell = dspy.Predict(Spell)
        self.judge = dspy.Predict(Judge)

    def forward(self, text: str) -> Any:
        return self.judge(word=self.spell(text=text).word)


class Loop(dspy.Module):
    """Calls ``spell`` as often as the number has bits, ``judge`` once, in an order that is not that of the names."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = dspy.Predict(Judge)
        self.spell = dspy.Predict(Spell)

    def forward(self, text: str) -> Any:
        for bit in f"{int(text):b}":
            word = self.spell(text=f"{text}/{bit}").word
        return self.judge(word=word)


class Copies(dspy.Module):
    """Runs copies of its predictor, as dspy.BestOfN and dspy.Refine do."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("text -> label")

    def forward(self, text: str) -> Any:
        return self.predict.deepcopy()(text=text)


def parity(text: str) -> str:
    return "even" if int(text) % 2 == 0 else "odd"


def two_step_rule(fields: Any, request: Any) -> str:
    if "text" in fields:
        return reply(word=f"w{fields['text']}")
    return reply(label=parity(fields["word"].removeprefix("w").split("/")[0]))


def one_step_rule(fields: Any, request: Any) -> str:
    return reply(label=parity(fields["text"]))


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def tune(metric: Any = right, **settings: Any) -> Any:
    return dspy.BootstrapFinetune(metric=metric, **settings)


def build(program: Any, lm: Any, *stages: Stage, **changes: Any) -> tuple[Any, list[Any]]:
    """Build the last stage; its bootstrap record and the jobs of the provider."""
    ladder = Ladder(experiment(program, lm, stages, **changes), Path("store"), num_threads=4)
    built = ladder.build(stages[-1].name)
    return built.record.bootstrap, jobs_of(lm)


def refuse(program: Any, lm: Any, *stages: Stage, **changes: Any) -> str:
    """The message with which the last stage is not built, and nothing trained."""
    with pytest.raises(BuildError) as caught:
        build(program, lm, *stages, **changes)
    assert jobs_of(lm) == []
    return str(caught.value)
