"""A model of this machine and its trainer, both of toys, for tests of serving: the base says odd, adapters know."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.provider import Provider, TrainingJob

from pytest_dspy_ft import LabeledFinetune, Ladder, Stage
from pytest_dspy_ft.lms.patience import Patience
from pytest_dspy_ft.lms.serving import Serving
from tests.lms.chat import Body, last_text
from tests.scripted import ScriptedEngine, experiment, fields_of, reply


class Engine(ScriptedEngine):
    """Stands for a model of this machine: odd, whatever is asked; its adapters are folders."""

    def __init__(self) -> None:
        super().__init__(lambda fields, request: reply(label="odd" if "+" not in request.model else parity(fields)))
        self.adapters: dict[str, Path] = {}

    def add_adapter(self, name: str, path: Path) -> None:
        self.adapters[name] = path

    def adapter_path(self, name: str) -> Path:
        return self.adapters[name]

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self


class Trainer(Provider):  # type: ignore[misc]
    """Writes an adapter's files where it is told, as a training on this machine does."""

    trains_on_this_machine = True

    def __init__(self) -> None:
        super().__init__()
        self.finetunable = True
        self.TrainingJob = TrainingJob

    @staticmethod
    def finetune(job: Any, model: str, train_data: Any, train_data_format: Any, train_kwargs: Any = None) -> str:
        folder = Path(train_kwargs["output_dir"])
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        return f"{model}+tuned"


def parity(fields: Any) -> str:
    return "even" if int(fields["text"]) % 2 == 0 else "odd"


def rule(base: str = "base") -> Callable[[Body], str]:
    """The base model on the server always says odd; an adapter knows."""
    return lambda body: reply(label="odd" if body["model"] == base else parity(fields_of(last_text(body))))


def local_lm(**settings: Any) -> Any:
    return dspy.LM("local:toy", engine=Engine(), provider=Trainer(), cache=False, num_retries=0, **settings)


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def ladder(server: Serving | None, lm: Any | None = None, store: str = "store") -> Ladder:
    made = experiment(dspy.Predict("text -> label"), lm or local_lm(), [Stage("tuned", LabeledFinetune(metric=right))])
    return Ladder(made, store, serving=server, patience=Patience(sleep=lambda seconds: None))
