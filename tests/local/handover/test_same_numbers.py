"""What TRL trains in three processes, held against the same training in this one: step by step the same losses."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")

from pytest_dspy_ft.finetune.launched.protocol import TrainingOrder, environment_for
from pytest_dspy_ft.local import weights
from pytest_dspy_ft.local.handover.order_files import TrlTraining, write_order
from pytest_dspy_ft.local.handover.received import check_received
from pytest_dspy_ft.local.training.config import LoraTrainingConfig
from pytest_dspy_ft.local.training.run import train_lora
from tests.local.training.tiny import tickets, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.model


def steps(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_three_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """It goes on from a LoRA, holds rows out, and has fewer rows than processes in some steps."""
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    source, rows, start = weights.resolve_source(str(tmp_path / "tiny")), tickets(25), tmp_path / "start"
    base = weights.load(source, device="cpu", dtype="float32")
    train_lora(base, rows, start, config=LoraTrainingConfig(epochs=1, r=4, learning_rate=1e-2))
    config = LoraTrainingConfig(epochs=1, batch_size=3, learning_rate=1e-2)
    train_lora(base, rows, tmp_path / "here", config=config, init_adapter=start, seed=5)
    weights.release()

    folder = tmp_path / "order"
    write_order(folder, TrlTraining(source, rows, config, 5, start, "d1"), 3, here=False)
    order = json.loads((folder / "order.json").read_text())
    assert min(map(len, order["batches"])) < 3
    command = TrainingOrder("t", folder, str(tmp_path / "tiny"), 3).command()
    environment = {**environment_for(3, 2, os.environ), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

    here, there = steps(tmp_path / "here" / "training_log.jsonl"), steps(folder / "output" / "progress.jsonl")
    for mine, theirs in zip(here, there, strict=True):
        for name in ("step", "epoch", "learning_rate"):
            assert theirs[name] == mine[name]
        for name in ("loss", "validation_loss"):
            assert theirs[name] == (None if mine[name] is None else pytest.approx(mine[name], rel=1e-4))
    result = check_received(folder, source, "d1")
    assert len({rank["process"] for rank in result["ranks"]}) == 3
