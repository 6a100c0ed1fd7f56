"""The project of the golden sessions: copied beside their conftest, it answers by rule and needs no network.

Numbers are even or odd. Untaught, the engine says "odd" to all; with demos, or tuned, it is right but for ``SLIPS``.
``GOLDEN_WRONG`` in the environment ("80,81") names numbers that get a wrong answer whatever was taught, and
``GOLDEN_DEMOS`` is how many demos the stage ``prompt_optimized`` takes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.provider import Provider, TrainingJob
from dspy.lm15 import Message, Request, Response, Usage

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Stage

UNREADABLE, BROKEN = "97", "98"
SLIPS = ("62", "65")


class Engine:
    """Answers by rule and notes every call in ``calls.log``."""

    def complete(self, request: Request) -> Response:
        question = request.messages[-1].parts[0].text.split("[[ ## text ## ]]")[-1].split()[0]
        with Path("calls.log").open("a", encoding="utf-8") as log:
            log.write(f"{request.model} {question}\n")
        if question == UNREADABLE:
            return self._reply(request, "no idea what you want")
        taught = len(request.messages) > 1 or "tuned" in request.model
        label = "even" if taught and int(question) % 2 == 0 else "odd"
        if question in os.environ.get("GOLDEN_WRONG", "").split(",") or (question in SLIPS and taught):
            label = "neither"
        return self._reply(request, f"[[ ## label ## ]]\n{label}\n\n[[ ## completed ## ]]")

    def _reply(self, request: Request, text: str) -> Response:
        usage = Usage(input_tokens=10 * len(request.messages), output_tokens=5)
        message = Message.assistant(text)
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)

    def identity(self) -> dict[str, str]:
        return {"engine": "golden"}

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self


class Trainer(Provider):
    """Trains in no time: a model is called after the number of rows that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.finetunable = True
        self.TrainingJob = TrainingJob

    @staticmethod
    def finetune(job: Any, model: str, train_data: Any, train_data_format: Any, train_kwargs: Any = None) -> str:
        return f"toy/tuned-{len(train_data)}"


class Labels(dspy.Signature):
    """Say whether the number is even or odd."""

    text: str = dspy.InputField()
    label: str = dspy.OutputField()


class Program(dspy.Module):
    """One predictor; it fails by itself on one number."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict(Labels)

    def forward(self, text: str) -> Any:
        if text == BROKEN:
            raise ValueError(f"{text} is more than I can take")
        return self.predict(text=text)


def right_label(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def first_two(program: Any, *, trainset: list[Any], teacher: Any = None) -> Any:
    for predictor in program.predictors():
        predictor.demos = [dict(example) for example in trainset[:2]]
    return program


def rows(numbers: range) -> list[Any]:
    return [dspy.Example(text=str(n), label="even" if n % 2 == 0 else "odd").with_inputs("text") for n in numbers]


def make_experiment(name: str = "parity", **changes: Any) -> Experiment:
    settings: dict[str, Any] = {
        "program": Program(),
        "dataset": Dataset(train=rows(range(20)), dev=rows(range(60, 80)), test=rows(range(80, 100))),
        "metric": right_label,
        "lm": dspy.LM("toy/golden", engine=Engine(), provider=Trainer(), cache=False, num_retries=0),
        "adapter": dspy.ChatAdapter(use_json_adapter_fallback=False),
        "stages": [
            Stage("prompt_optimized", dspy.LabeledFewShot(k=int(os.environ.get("GOLDEN_DEMOS", "3")))),
            Stage("by_hand", first_two),
            Stage(
                "bootstrapped", dspy.BootstrapFewShot(metric=right_label, max_bootstrapped_demos=2, max_labeled_demos=2)
            ),
            Stage("finetuned", dspy.BootstrapFinetune(metric=right_label), teacher="prompt_optimized"),
            Stage("labelled", LabeledFinetune(metric=right_label)),
        ],
    }
    return Experiment(name, **{**settings, **changes})
