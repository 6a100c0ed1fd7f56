"""A small ladder at each service, reached by its own client, that really trains the embedded model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Ladder, Stage
from tests.finetune.hosted.dialect_servers import PROJECT, serving_crusoe, serving_nebius
from tests.finetune.hosted.http_faults import KEY
from tests.finetune.hosted.tinker_server import serving_tinker
from tests.finetune.hosted.together_server import serving_together
from tests.real.lora_service import SOURCE, LoraTrainer, answer_by, engine, train
from tests.scripted import CHAT

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Tinker's client leaves connections open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
WORDS = {"billing": ("invoice", "refund", "charge"), "technical": ("crash", "error", "freeze")}
TEXTS = [(f"ticket {i}: a {words[i % 3]} again", label) for i in range(16) for label, words in WORDS.items()]


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label.strip() == example.label)


def ladder_on(lm: Any, store: Path, **train_kwargs: Any) -> Ladder:
    examples = [dspy.Example(text=text, label=label).with_inputs("text") for text, label in TEXTS]
    experiment = Experiment(
        "tickets",
        program=dspy.Predict(dspy.Signature("text -> label", "billing or technical?")),
        dataset=Dataset(train=examples[:24], dev=examples[24:28], test=examples[28:]),
        metric=right,
        lm=lm,
        adapter=CHAT,
        stages=[Stage("finetuned", LabeledFinetune(metric=right, train_kwargs=train_kwargs))],
    )
    return Ladder(experiment, store, num_threads=2)


@contextlib.contextmanager
def nebius(folder: Path) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    with openai_like(serving_nebius, folder) as (lm, service):
        yield lm, {"service": "nebius"}, service


@contextlib.contextmanager
def crusoe(folder: Path) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    with openai_like(serving_crusoe, folder) as (lm, service):
        yield lm, {"service": "crusoe"}, service


@contextlib.contextmanager
def openai_like(serving: Any, folder: Path) -> Iterator[tuple[Any, Any]]:
    trained: dict[str, str] = {}

    def training(job: Any, rows: list[Any], service: Any) -> str:
        trained[job.shown["name"]] = train(rows, folder / job.id)
        return str(job.shown["name"])

    def answer(model: str, messages: Any) -> str:
        return answer_by(trained.get(model, f"local:{SOURCE}"), messages)

    with serving(train=training, answer=answer) as service:
        yield dspy.LM("openai/small", api_base=service.address, api_key=KEY, cache=False), service


@contextlib.contextmanager
def together(folder: Path) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    pytest.importorskip("together")
    trained: list[str] = []
    with serving_together(
        train=lambda job, rows: trained.append(train(rows, folder / job.shown["id"])),
        answer=lambda model, messages: answer_by(trained[-1] if "/" in model else f"local:{SOURCE}", messages),
        states=("READY",),
    ) as service:
        yield dspy.LM("together_ai/small", api_base=service.address, api_key=KEY, cache=False), {}, service


@contextlib.contextmanager
def tinker(folder: Path) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    pytest.importorskip("tinker")
    from pytest_dspy_ft.local.weights import load, resolve_source

    load(resolve_source(SOURCE)).tokenizer.save_pretrained(folder / "tokenizer")
    trainer = LoraTrainer(folder)

    def answer(model: str, messages: Any) -> str:
        state = service.states.get(model)
        return answer_by(f"local:{SOURCE}" if state is None else state["name"], messages)

    with serving_tinker(trainer=trainer, tokenizer=str(folder / "tokenizer"), answer=answer) as service:
        lm = dspy.LM("openai/small", api_base=service.address, api_key=f"tml-{KEY}", cache=False)
        settings = {"service": "tinker", "rank": 16, "batch_size": 4, "learning_rate": 2e-3, "save_every": 6}
        yield lm, settings, service
        assert trainer.losses[-1] < trainer.losses[0] / 2, "it was really trained"


@pytest.mark.parametrize("shape", [nebius, crusoe, together, tinker])
def test_a_ladder_is_trained_there(tmp_path: Path, shape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUSOE_PROJECT_ID", PROJECT)
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    with shape(tmp_path) as (lm, settings, service), ladder_on(lm, tmp_path / "store", **settings) as ladder:
        result = ladder.evaluate("finetuned", "test")
        assert all(example.outcome == "scored" for example in result.examples), "it answers in the trained format"
        assert result.score >= 0.75
    assert engine() is not None
    if shape is together:
        assert not service.running()
