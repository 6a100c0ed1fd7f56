"""A training does what its report says, and leaves nothing behind."""

from __future__ import annotations

import gc
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pytest_dspy_ft.errors import TrainingError  # noqa: E402
from pytest_dspy_ft.local.compat import quiet_peft  # noqa: E402
from pytest_dspy_ft.local.training import memory  # noqa: E402
from pytest_dspy_ft.local.training.batch import EncodedRow, plain_batch  # noqa: E402
from pytest_dspy_ft.local.training.config import LoraTrainingConfig  # noqa: E402
from pytest_dspy_ft.local.training.lora import private_copy  # noqa: E402
from pytest_dspy_ft.local.training.rows import encode_rows  # noqa: E402
from pytest_dspy_ft.local.training.run import TrainingCancelledError, isolated_random_state, train_lora  # noqa: E402
from pytest_dspy_ft.local.training.trainer import LoraTrainer, TrainingProgress  # noqa: E402
from tests.local.training.tiny import chat, tickets, tiny  # noqa: E402

pytestmark = pytest.mark.model


@pytest.mark.parametrize(
    ("kind", "supported"),
    [("llama", True), ("neox", True), ("gpt2", None), ("windowed", False), ("gemma2", False), ("gemma3", False)],
)
def test_every_architecture_trains(tmp_path: Path, kind: str, supported: bool | None) -> None:
    report = train_lora(tiny(kind), tickets(4), tmp_path, config=LoraTrainingConfig(batch_size=2, epochs=1))
    assert report.steps == 2
    assert math.isfinite(report.last_loss)
    if supported is not None:
        assert report.shared_prefix is supported


def test_whole_training_is_the_same_in_both_layouts(tmp_path: Path) -> None:
    logs = {}
    for shared in (True, False):
        config = LoraTrainingConfig(batch_size=4, epochs=2, shared_prefix=shared)
        report = train_lora(tiny(), tickets(12), tmp_path / str(shared), config=config)
        assert report.shared_prefix is shared
        logs[shared] = [
            json.loads(line) for line in (tmp_path / str(shared) / "training_log.jsonl").read_text().splitlines()
        ]
    assert len(logs[True]) == len(logs[False]) == 1 + 6
    for ours, usual in zip(logs[True][1:], logs[False][1:], strict=True):
        assert ours["loss"] == pytest.approx(usual["loss"], rel=1e-4)
        assert ours["tokens"] < usual["tokens"]


def test_less_memory_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    usual = memory.Recomputation.prepare

    def spy(self: Any, tokens: int) -> int:
        counts.append(usual(self, tokens))
        return counts[-1]

    monkeypatch.setattr(memory.Recomputation, "prepare", spy)
    adapters = []
    for name, gib in (("roomy", 1.0), ("tight", 1e-9)):
        config = LoraTrainingConfig(epochs=1, activation_gib=gib)
        train_lora(tiny(), tickets(8), tmp_path / name, config=config)
        adapters.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert counts == [0, 2]
    assert adapters[0] == adapters[1]


def test_no_rows_and_long_rows_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no rows"):
        train_lora(tiny(), [], tmp_path)
    rows = [*tickets(1), chat("long " * 200, "x")]
    with pytest.raises(TrainingError, match=r"row 1 \(.long long .*\) has \d+ tokens, more than 512"):
        train_lora(tiny(), rows, tmp_path)


def test_wrong_target_modules_are_an_error(tmp_path: Path) -> None:
    config = LoraTrainingConfig(target_modules=("nothing",))
    with pytest.raises(TrainingError, match="target_modules"):
        train_lora(tiny(), tickets(2), tmp_path, config=config)


def test_validation_rows_are_never_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: set[int] = set()
    usual = LoraTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        trained.update(row.number for row in inputs["rows"])
        return usual(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(LoraTrainer, "compute_loss", spy)
    rows = tickets(30)
    rows[3] = rows[2]  # one prompt twice: on one side
    report = train_lora(tiny(), rows, tmp_path, config=LoraTrainingConfig(epochs=1))
    held = set(report.validation_rows)
    assert len(held) == 3
    assert not held & trained
    assert held | trained == set(range(30))
    assert ({2, 3} <= held) or not {2, 3} & held
    assert report.first_validation_loss is not None


def test_same_rows_and_seed_give_the_same_adapter(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b", "c"):
        torch.rand(3)
        train_lora(tiny(), tickets(8), tmp_path / name, seed=int(name == "c"))
        files.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_nothing_is_left_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded = tiny()
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    attention, environment = loaded.model.config._attn_implementation, dict(os.environ)
    random_state, torch_state = random.getstate(), torch.get_rng_state()
    modules = [type(module) for module in loaded.model.modules()]
    capfd.readouterr()
    train_lora(loaded, tickets(8), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert random.getstate() == random_state
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert dict(os.environ) == environment
    after = loaded.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [type(module) for module in loaded.model.modules()] == modules
    assert loaded.model.config._attn_implementation == attention
    assert not loaded.model.training
    assert {file.name for file in tmp_path.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "training.json", "training_log.jsonl",
    }  # fmt: skip
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    assert json.loads((tmp_path / "training.json").read_text())["config"]["r"] == 16


def test_the_tensors_of_a_finished_training_are_freed(tmp_path: Path) -> None:
    """One that stayed would hold its model: a session with seven trainings would keep seven of them."""
    loaded = tiny()

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    before = alive()
    report = train_lora(loaded, tickets(8), tmp_path)
    assert report.shared_prefix
    assert alive() == before


def test_training_goes_on_from_an_adapter(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    first = train_lora(tiny(), tickets(8), tmp_path / "1", config=LoraTrainingConfig(r=4))
    second = train_lora(tiny(), tickets(8), tmp_path / "2", init_adapter=tmp_path / "1")
    assert second.first_loss < first.first_loss
    old, new = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "12")
    assert {name: t.shape for name, t in old.items()} == {name: t.shape for name, t in new.items()}
    assert any(not torch.equal(old[name], new[name]) for name in old)
    with pytest.raises(TrainingError, match="no LoRA to continue from"):
        train_lora(tiny(), tickets(8), tmp_path / "3", init_adapter=tmp_path / "none")


def test_progress_and_cancel(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    train_lora(tiny(), tickets(24), tmp_path / "a", progress=seen.append)
    assert [p.step for p in seen] == list(range(seen[-1].total_steps + 1))
    assert seen[0].loss is None
    assert seen[0].validation_loss is not None
    assert seen[-1].epoch == 2
    assert seen[-1].tokens > seen[1].tokens > 0
    stop = iter([False, False, True])
    with pytest.raises(TrainingCancelledError, match="after 2 steps"):
        train_lora(tiny(), tickets(24), tmp_path / "b", should_stop=lambda: next(stop))
    assert not (tmp_path / "b" / "adapter_model.safetensors").exists()


def test_early_stopping(tmp_path: Path) -> None:
    config = LoraTrainingConfig(epochs=6, learning_rate=1e-12, early_stopping=1, batch_size=32)
    report = train_lora(tiny(), tickets(24), tmp_path, config=config)
    assert report.epochs < 6


def reply_log_probability(model: Any, rows: list[EncodedRow]) -> float:
    with torch.no_grad():
        return -float(model(**plain_batch(rows, 0)).loss)


def test_smollm2_learns_and_the_base_stays(smollm2: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    base = smollm2.model
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    rows = tickets(24)
    report = train_lora(smollm2, rows, tmp_path, config=LoraTrainingConfig(epochs=1, batch_size=4))
    assert report.shared_prefix
    assert report.first_validation_loss is not None
    assert report.last_validation_loss is not None
    assert report.last_validation_loss < 0.3 * report.first_validation_loss
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    unseen = encode_rows(tickets(28)[24:], smollm2.tokenizer)
    prior = reply_log_probability(base, unseen)
    with isolated_random_state(0), quiet_peft():
        tuned = PeftModel.from_pretrained(private_copy(base), str(tmp_path))
    assert reply_log_probability(tuned, unseen) > prior + 1
