"""A training's memory: what is freed goes back to the system before it piles up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pytest_dspy_ft.local.process_memory import resident_memory, return_memory  # noqa: E402
from pytest_dspy_ft.local.training.config import LoraTrainingConfig  # noqa: E402
from pytest_dspy_ft.local.training.memory import FreedMemory  # noqa: E402
from pytest_dspy_ft.local.training.run import train_lora  # noqa: E402
from tests.local.training.tiny import tickets, tiny  # noqa: E402

pytestmark = pytest.mark.model


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_piles_up_is_given_back() -> None:
    freed = FreedMemory()
    freed.MOST = 2**25
    return_memory()  # what earlier tests freed would hold the pieces
    freed.look()
    pieces = [torch.ones(25_000) for _ in range(1000)]  # 100 KB each
    kept = pieces[::2]
    del pieces  # what is between those that stay is free, and still this process's
    taken = resident_memory()
    freed.look()
    assert resident_memory() < taken - 2**25
    assert all(bool((piece == 1).all()) for piece in kept)


def test_memory_is_looked_at_before_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    usual = FreedMemory.look

    def spy(self: Any) -> None:
        nonlocal looks
        looks += 1
        usual(self)

    monkeypatch.setattr(FreedMemory, "look", spy)
    loaded = tiny()
    layers = len(loaded.model.model.layers)
    report = train_lora(loaded, tickets(8), tmp_path, config=LoraTrainingConfig(epochs=1))
    assert looks == report.steps * (layers + 1)
    assert not any(layer._forward_pre_hooks for layer in loaded.model.model.layers)
