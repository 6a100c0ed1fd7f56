"""Programs, engines and providers for tests of the core: what is answered and what is trained on is up to the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import dspy
from dspy.clients.provider import Provider, TrainingJob
from dspy.lm15 import Message, Request, Response, Usage

from pytest_dspy_ft import Dataset, Experiment

CHAT = dspy.ChatAdapter(use_json_adapter_fallback=False)


def fields_of(text: str) -> dict[str, str]:
    """The fields that ChatAdapter wrote into a message."""
    parts = text.split("\n\nRespond with the corresponding")[0].split("[[ ## ")[1:]
    found = {}
    for part in parts:
        name, _, value = part.partition(" ## ]]")
        found.setdefault(name, value.strip())
    return found


def reply(**outputs: Any) -> str:
    """A reply in ChatAdapter's format."""
    return "\n\n".join([*(f"[[ ## {k} ## ]]\n{v}" for k, v in outputs.items()), "[[ ## completed ## ]]"])


class ScriptedEngine:
    """Answers with ``rule(inputs, request)``, a text or an exception; keeps all requests. Copies of it are counted."""

    copies = 0

    def __init__(self, rule: Callable[[Mapping[str, str], Request], str], name: str = "scripted") -> None:
        self.rule, self.name = rule, name
        self.requests: list[Request] = []
        self._lock = threading.Lock()

    def complete(self, request: Request) -> Response:
        with self._lock:
            self.requests.append(request)
        text = self.rule(fields_of(request.messages[-1].parts[0].text), request)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(text),
            finish_reason="stop",
            usage=Usage(input_tokens=100, output_tokens=7),
        )

    def identity(self) -> dict[str, str]:
        return {"engine": self.name}

    def __deepcopy__(self, memo: dict[int, Any]) -> ScriptedEngine:
        self.copies += 1
        return ScriptedEngine(self.rule, self.name)

    @property
    def models(self) -> list[str]:
        return [request.model for request in self.requests]


class RecordingProvider(Provider):
    """Trains in no time and keeps what it was given: ``jobs`` holds (model, rows, train_kwargs)."""

    def __init__(self) -> None:
        super().__init__()
        self.finetunable = True
        self.TrainingJob = TrainingJob
        self.jobs: list[tuple[str, list[Any], dict[str, Any]]] = []

    def finetune(self, job: Any, model: str, train_data: Any, train_data_format: Any, train_kwargs: Any = None) -> str:
        self.jobs.append((model, list(train_data), dict(train_kwargs or {})))
        return f"toy/tuned-{len(self.jobs)}"

    def __deepcopy__(self, memo: dict[int, Any]) -> RecordingProvider:
        return self


def scripted_lm(rule: Callable[..., str], model: str = "toy/scripted", **settings: Any) -> Any:
    engine = ScriptedEngine(rule, settings.pop("engine_name", "scripted"))
    return dspy.LM(model, engine=engine, provider=RecordingProvider(), cache=False, **settings)


def jobs_of(lm: Any) -> list[tuple[str, list[Any], dict[str, Any]]]:
    return list(lm.provider.jobs)


def last_user(row: Mapping[str, Any]) -> dict[str, str]:
    """The inputs that a training row asks about."""
    return fields_of(row["messages"][-2]["content"])


def answer(row: Mapping[str, Any]) -> dict[str, str]:
    """The outputs that a training row teaches."""
    assert row["messages"][-1]["role"] == "assistant"
    return fields_of(row["messages"][-1]["content"])


def system(row: Mapping[str, Any]) -> str:
    assert row["messages"][0]["role"] == "system"
    return str(row["messages"][0]["content"])


def numbers(count: int, **more: Callable[[int], Any]) -> list[Any]:
    """Examples whose input ``text`` is a number and whose ``label`` is its parity."""
    rows = []
    for n in range(count):
        extra = {name: make(n) for name, make in more.items()}
        rows.append(dspy.Example(text=str(n), label="even" if n % 2 == 0 else "odd", **extra).with_inputs("text"))
    return rows


def experiment(program: Any, lm: Any, stages: Any = (), *, count: int = 40, **changes: Any) -> Experiment:
    settings: dict[str, Any] = {
        "program": program,
        "dataset": Dataset.from_examples(numbers(count)),
        "metric": lambda example, prediction, trace=None: prediction.label == example.label,
        "lm": lm,
        "stages": stages,
        "adapter": CHAT,
    }
    return Experiment("scripted", **{**settings, **changes})
