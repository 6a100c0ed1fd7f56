"""An order handed over and what comes back for it: checked, served, or refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import dspy
import torch
from dspy.clients.utils_finetune import TrainDataFormat
from safetensors.torch import load_file, save_file

from pytest_dspy_ft.errors import JobPendingError, TrainingError
from pytest_dspy_ft.finetune.launched.context import LaunchContext
from pytest_dspy_ft.finetune.launched.protocol import LaunchState, TrainingOrder
from pytest_dspy_ft.finetune.launched.provider import LaunchedProvider
from pytest_dspy_ft.local import weights
from pytest_dspy_ft.local.adapters import adapter_digest
from pytest_dspy_ft.local.compat import quiet_peft
from pytest_dspy_ft.local.handover.received import check_run
from pytest_dspy_ft.local.training.config import LoraTrainingConfig
from pytest_dspy_ft.local.training.lora import add_lora
from pytest_dspy_ft.local.training.rows import encode_rows, plan_epoch
from tests.local.test_provider import RecordingEngine
from tests.local.training.tiny import tickets, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.model

Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], None]
"""Of the result, the LoRA's settings and its weights."""


class AtOnce:
    """A launcher that has trained as soon as it is asked: a LoRA of the order's settings, in weights of its own."""

    name, engine, processes, pause = "at-once", "trl", 2, 0.0

    def __init__(self, change: Change | None = None) -> None:
        self.change = change
        self.orders: list[TrainingOrder] = []

    def submit(self, order: TrainingOrder) -> str:
        self.orders.append(order)
        asked = json.loads((order.folder / "order.json").read_text())
        source = weights.resolve_source(order.model)
        config = LoraTrainingConfig(r=asked["config"]["r"], alpha=asked["config"]["alpha"])
        start = order.folder / "adapter"
        base = weights.load_private(source).model
        with quiet_peft():
            wrapped = add_lora(base, asked["base"], config, start if start.is_dir() else None, 0)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.01)
        adapter = order.folder / "output" / "adapter"
        wrapped.save_pretrained(str(adapter), save_embedding_layers=False)
        ranks = [
            {"rank": r, "world": 2, "process": f"host:{r}", "rows": sum(len(batch[r::2]) for batch in asked["batches"])}
            for r in range(2)
        ]
        result = {"order": asked["digest"], "steps": len(asked["batches"]), "resumed_at": 0, "ranks": ranks}
        settings = json.loads((adapter / "adapter_config.json").read_text())
        tensors = load_file(adapter / "adapter_model.safetensors")
        if self.change is not None:
            self.change(result, settings, tensors)
        (order.folder / "output" / "result.json").write_text(json.dumps(result))
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        save_file(tensors, adapter / "adapter_model.safetensors")
        return "1"

    def status(self, order: TrainingOrder) -> LaunchState:
        return LaunchState("succeeded" if self.orders else "unknown")

    def fetch(self, order: TrainingOrder) -> None: ...

    def cancel(self, order: TrainingOrder) -> None: ...


class Bench:
    """A tiny model, and sessions that have it trained."""

    def __init__(self, home: Path) -> None:
        self.home, self.engine = home, RecordingEngine()
        self.model = f"local:{home / 'tiny'}"
        self.count = 0

    def finetune(self, launcher: AtOnce, *, model: str | None = None, session: str = "s", **settings: Any) -> Any:
        self.count += 1
        context = LaunchContext(launcher, self.home / "jobs", session, **settings.pop("context", {}))
        lm = dspy.LM(
            model or self.model, engine=self.engine, provider=LaunchedProvider(self.engine, context), cache=False
        )
        kwargs = {"epochs": 1, "batch_size": 4, "output_dir": str(self.home / f"out-{self.count}"), **settings}
        job = lm.finetune(tickets(10), TrainDataFormat.CHAT, kwargs)
        job.thread.join(60)
        return job.result()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    yield Bench(tmp_path)
    weights.release()


def test_what_comes_back_is_served_and_ordered_once(bench: Bench) -> None:
    launcher = AtOnce()
    tuned = bench.finetune(launcher)
    assert isinstance(tuned, dspy.LM), tuned
    name = tuned.model.partition("+")[2]
    assert adapter_digest(bench.engine.adapters[name]) == name
    assert bench.finetune(launcher, session="another").model == tuned.model
    assert len(launcher.orders) == 1
    bench.finetune(launcher, session="third", learning_rate=1e-4)
    assert len(launcher.orders) == 2


class Slow(AtOnce):
    """A launcher whose training never ends."""

    pause = 0.05

    def status(self, order: TrainingOrder) -> LaunchState:
        log = 'warnings\ndspy-ft progress {"step": 3, "total": 7, "loss": 0.5}\n'
        return LaunchState("running", "job 7", log) if self.orders else LaunchState("unknown")


def test_one_that_is_left_goes_on_and_says_how_to_end_it(bench: Bench) -> None:
    launcher = Slow()
    context = LaunchContext(
        launcher, bench.home / "jobs", "s", how_to_cancel="python -m pytest_dspy_ft trainings S --cancel"
    )
    lm = dspy.LM(bench.model, engine=bench.engine, provider=LaunchedProvider(bench.engine, context), cache=False)
    job = lm.finetune(tickets(10), TrainDataFormat.CHAT, {"output_dir": str(bench.home / "out")})
    while job.progress is None:
        job.thread.join(0.05)
    assert (job.progress.step, job.progress.total_steps, job.progress.note) == (3, 7, "job 7")
    name = launcher.orders[0].name
    assert job.leave() == (
        f"the training {name} goes on (at-once): the same command finds it; "
        f"to cancel it: python -m pytest_dspy_ft trainings S --cancel {name}"
    )
    assert isinstance(job.result(), JobPendingError)
    assert not bench.engine.adapters


def test_a_rebuild_orders_anew_what_is_in_a_build(bench: Bench) -> None:
    launcher = AtOnce()
    bench.finetune(launcher)
    spent = frozenset({launcher.orders[0].name})
    bench.finetune(launcher, session="another", context={"rebuild": True})
    assert len(launcher.orders) == 1, "the result of the first was never used"
    for _ in range(2):
        bench.finetune(launcher, session="third", context={"rebuild": True, "spent": spent})
    assert len(launcher.orders) == 2


def test_the_order_holds_the_rows_and_steps_of_a_training_here(bench: Bench) -> None:
    launcher = AtOnce()
    bench.finetune(launcher, epochs=2, seed=3, validation_fraction=0.0)
    folder = launcher.orders[0].folder
    encoded = encode_rows(tickets(10), tiny_tokenizer())
    rows = json.loads((folder / "rows.json").read_text())
    assert [(tuple(row["ids"]), row["prompt"]) for row in rows] == [(row.ids, row.prompt_length) for row in encoded]
    planned = [batch for epoch in range(2) for batch in plan_epoch(encoded, 4, 3, epoch)]
    order = json.loads((folder / "order.json").read_text())
    assert order["batches"] == [[row.number for row in batch] for batch in planned]
    assert (order["processes"], order["seed"]) == (2, 3)


def test_one_that_goes_on_from_a_lora_keeps_its_rank(bench: Bench) -> None:
    first = bench.finetune(AtOnce(), r=4)
    launcher = AtOnce()
    second = bench.finetune(launcher, model=first.model, r=16)
    assert isinstance(second, dspy.LM), second
    assert (launcher.orders[0].folder / "adapter" / "adapter_model.safetensors").is_file()


def one_process(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    result["ranks"] = [{"rank": 0, "world": 1, "process": "host:0", "rows": 10}]


def one_process_twice(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Two that know nothing of each other, each on all rows."""
    result["ranks"] = [{"rank": 0, "world": 1, "process": f"host:{n}", "rows": 10} for n in range(2)]


def each_on_all(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    result["ranks"] = [{"rank": n, "world": 2, "process": f"host:{n}", "rows": 10} for n in range(2)]


def cut_short(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    result["steps"] -= 1


def of_another(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    result["order"] = "0123"


def rank_above(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    settings["r"] = 64


def other_base(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    settings["base_model_name_or_path"] = "meta-llama/Llama-3.2-1B"


def other_shape(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    name = sorted(tensors)[0]
    tensors[name] = torch.ones(tensors[name].shape[0], tensors[name].shape[1] + 1)


def missing(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    del tensors[sorted(tensors)[0]]


def not_a_number(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors[sorted(tensors)[-1]][0, 0] = float("nan")


def nothing_learned(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name] = torch.zeros_like(tensors[name])


def another_kind(result: dict[str, Any], settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    settings["use_dora"] = True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (one_process, "2 processes were ordered, and one process ran"),
        (one_process_twice, "2 processes were ordered, and 2 processes ran"),
        (each_on_all, "trained on 20 rows in all, and the steps hold 10: they did not share them"),
        (cut_short, "2 steps were done of the 3 that were ordered"),
        (of_another, "the result of another order"),
        (rank_above, "has the rank 64, and 16 was ordered"),
        (other_base, "on the base model 'meta-llama/Llama-3.2-1B', not on 'tiny'"),
        (other_shape, "of another base model than 'tiny'"),
        (missing, "1 weights are missing"),
        (not_a_number, "numbers that are none"),
        (nothing_learned, "changes nothing"),
        (another_kind, "only plain LoRA adapters can be served, not use_dora"),
    ],
)
def test_a_wrong_result_is_refused_and_ordered_anew(bench: Bench, change: Change, words: str) -> None:
    launcher = AtOnce(change)
    refused = bench.finetune(launcher)
    assert isinstance(refused, TrainingError)
    assert words in str(refused)
    assert not bench.engine.adapters
    launcher.change = None
    assert isinstance(bench.finetune(launcher, session="next"), dspy.LM)
    assert [order.attempt for order in launcher.orders] == [1, 2]


def test_early_stopping_may_end_at_an_epoch_and_nowhere_else() -> None:
    order = {"processes": 1, "batches": [[0], [1], [0], [1]], "epoch_ends": [2, 4], "config": {"early_stopping": 1}}
    rank = {"rank": 0, "world": 1, "process": "host:1", "rows": 2}
    check_run(order, {"ranks": [rank], "steps": 2, "resumed_at": 0})
    with pytest.raises(TrainingError, match="3 steps were done of the 4"):
        check_run(order, {"ranks": [{**rank, "rows": 3}], "steps": 3, "resumed_at": 0})
