"""A toy world for tests of the plugin: an engine that answers by rule, in no time, and logs every call.

Numbers are even or odd. Without demos in the prompt the engine is always "odd" (half right), with demos it is right.
Numbers named in the environment's ``PARITY_WRONG`` ("80,81") get a wrong answer whatever was taught.
``CALLS`` below the working directory gets one line for each LM call, so that tests see what was really called.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.provider import Provider, TrainingJob
from dspy.lm15 import Message, Request, Response, Usage

from pytest_dspy_ft import Dataset, Experiment, Stage

CALLS = Path("calls.log")


class ParityEngine:
    """Answers by rule. Special texts: ``unreadable`` breaks the format, ``raise`` fails the call."""

    @property
    def hosted(self) -> bool:
        """Whether it says that somebody elsewhere answers: then it may change behind its name."""
        return bool(os.environ.get("PARITY_HOSTED"))

    def complete(self, request: Request) -> Response:
        question = request.messages[-1].parts[0].text.split("[[ ## text ## ]]")[-1].split()[0]
        with CALLS.open("a") as log:
            log.write(f"{os.getpid()} {request.model} {question}\n")
        time.sleep(float(os.environ.get("PARITY_SECONDS", "0")))
        if question == "raise":
            raise RuntimeError("the engine is down")
        if question == "unreadable":
            return self._reply(request, "no idea what you want")
        if question in os.environ.get("PARITY_WRONG", "").split(","):
            return self._reply(request, "[[ ## label ## ]]\nneither\n\n[[ ## completed ## ]]")
        even = int(question) % 2 == 0
        taught = len(request.messages) > 1 or "tuned" in request.model
        return self._reply(
            request, f"[[ ## label ## ]]\n{'even' if even and taught else 'odd'}\n\n[[ ## completed ## ]]"
        )

    def _reply(self, request: Request, text: str) -> Response:
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(text),
            finish_reason="stop",
            usage=Usage(input_tokens=10 * len(request.messages), output_tokens=5),
        )

    def identity(self) -> dict[str, str]:
        return {"engine": "parity"}

    def __deepcopy__(self, memo: dict[int, Any]) -> ParityEngine:
        return self


class ParityProvider(Provider):
    """Trains in no time: the new model is called ``tuned-N`` after the N rows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.finetunable = True
        self.TrainingJob = TrainingJob

    @staticmethod
    def finetune(job: Any, model: str, train_data: Any, train_data_format: Any, train_kwargs: Any = None) -> str:
        with Path("jobs.log").open("a") as log:
            log.write(f"{os.getpid()} {model} {len(train_data)}\n")
        if os.environ.get("PARITY_TRAINING") == "fails":
            raise RuntimeError("out of luck")
        return f"toy/tuned-{len(train_data)}"


class Labels(dspy.Signature):
    """Say whether the number is even or odd."""

    text: str = dspy.InputField()
    label: str = dspy.OutputField()


def right_label(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def examples(numbers: Any = range(100)) -> list[Any]:
    return [dspy.Example(text=str(n), label="even" if n % 2 == 0 else "odd").with_inputs("text") for n in numbers]


def toy_lm(**settings: Any) -> Any:
    return dspy.LM("toy/parity", engine=ParityEngine(), provider=ParityProvider(), cache=False, **settings)


def make_experiment(name: str = "parity", **changes: Any) -> Experiment:
    stages = [
        Stage("prompt_optimized", dspy.LabeledFewShot(k=3)),
        Stage("finetuned", dspy.BootstrapFinetune(metric=right_label), teacher="prompt_optimized"),
    ]
    settings = {
        "program": dspy.Predict(Labels),
        "dataset": Dataset.from_examples(examples()),
        "metric": right_label,
        "lm": toy_lm(),
        "adapter": dspy.ChatAdapter(use_json_adapter_fallback=False),
        "stages": stages,
    }
    return Experiment(name, **{**settings, **changes})
