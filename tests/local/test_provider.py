"""Training through DSPy: `dspy.LM(...).finetune(...)` ends in an LM that the engine serves."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import dspy
from dspy.clients.utils_finetune import TrainDataFormat, TrainingStatus

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.local import weights
from pytest_dspy_ft.local.adapters import adapter_digest
from pytest_dspy_ft.local.provider import LocalProvider, LocalTrainingJob, split_model_name
from tests.local.training.tiny import tickets, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.model


class RecordingEngine:
    """Stands for the serving engine."""

    def __init__(self) -> None:
        self.adapters: dict[str, Path] = {}

    def add_adapter(self, name: str, path: Path) -> None:
        self.adapters[name] = path

    def adapter_path(self, name: str) -> Path:
        return self.adapters[name]

    def unload(self) -> None:
        pass

    def complete(self, request: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a tiny model in a folder; DSPy's fine-tune directory is a temporary one."""
    folder = tmp_path / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    monkeypatch.setenv("DSPY_FINETUNEDIR", str(tmp_path / "finetune"))
    yield f"local:{folder}"
    weights.release()


def make_lm(model: str, engine: RecordingEngine) -> Any:
    return dspy.LM(model, engine=engine, provider=LocalProvider(engine), cache=False)


def finetune(lm: Any, **train_kwargs: Any) -> Any:
    job = lm.finetune(tickets(8), TrainDataFormat.CHAT, train_kwargs)
    job.thread.join(60)
    return job


def test_finetune_through_dspy(model: str, tmp_path: Path) -> None:
    engine = RecordingEngine()
    seen: list[Any] = []
    job = finetune(make_lm(model, engine), epochs=1, batch_size=4, progress=seen.append)
    tuned = job.result()
    assert isinstance(tuned, dspy.LM), tuned
    base, adapter = split_model_name(tuned.model)
    assert base == model.removeprefix("local:")
    assert adapter is not None
    assert len(adapter) == 12
    folder = engine.adapters[adapter]
    assert adapter_digest(folder) == adapter
    assert folder.parent == tmp_path / "finetune"
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
    assert job.status() is TrainingStatus.succeeded
    assert job.report.steps == 2
    assert job.report.output_dir == folder
    assert [progress.step for progress in seen] == [0, 1, 2]
    assert job.progress == seen[-1]
    assert tuned.provider.engine is engine
    assert str(tmp_path) not in (folder / "adapter_config.json").read_text()
    tuned.launch()
    tuned.kill()


def test_same_training_gives_the_same_name_and_folder(model: str) -> None:
    engine = RecordingEngine()
    first, second = (finetune(make_lm(model, engine), epochs=1).result().model for _ in range(2))
    assert first == second
    other = finetune(make_lm(model, engine), epochs=1, seed=1).result().model
    assert other != first
    assert len(engine.adapters) == 2


def test_training_goes_on_from_the_adapter_in_the_name(model: str, tmp_path: Path) -> None:
    engine = RecordingEngine()
    first = finetune(make_lm(model, engine), r=4, output_dir=str(tmp_path / "out")).result()
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    second = finetune(first)
    assert split_model_name(second.result().model)[0] == split_model_name(first.model)[0]
    folder = engine.adapters[str(split_model_name(second.result().model)[1])]
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4


def test_training_goes_on_where_the_engine_has_the_adapter_now(model: str, tmp_path: Path) -> None:
    engine = RecordingEngine()
    first = finetune(make_lm(model, engine), r=4, output_dir=str(tmp_path / "work")).result()
    (tmp_path / "work").rename(tmp_path / "kept")  # as a build does when it is done
    engine.add_adapter(str(split_model_name(first.model)[1]), tmp_path / "kept")
    second = finetune(first).result()
    assert isinstance(second, dspy.LM), second
    assert second.model != first.model


@pytest.mark.parametrize(
    ("train_kwargs", "message"),
    [
        ({"lr": 1}, "train_kwargs: unknown training setting 'lr'.*and output_dir, seed, progress"),
        ({"seed": "x"}, "seed='x'"),
    ],
)
def test_errors_are_the_result(model: str, train_kwargs: dict[str, Any], message: str) -> None:
    job = finetune(make_lm(model, RecordingEngine()), **train_kwargs)
    assert isinstance(job.result(), TrainingError)
    with pytest.raises(TrainingError, match=message):
        raise job.result()
    assert job.status() is TrainingStatus.failed


def test_only_chats(model: str) -> None:
    job = make_lm(model, RecordingEngine()).finetune(tickets(1), TrainDataFormat.COMPLETION)
    job.thread.join(60)
    assert "trains on chats" in str(job.result())


def test_cancel(model: str, tmp_path: Path) -> None:
    job: Any = None

    def stop(progress: Any) -> None:
        if progress.step == 1:
            assert job.status() is TrainingStatus.running
            assert job.cancel()

    engine = RecordingEngine()
    provider = LocalProvider(engine)
    job = LocalTrainingJob()
    assert job.status() is TrainingStatus.not_started
    with pytest.raises(TrainingError, match="cancelled after 1 step"):
        provider.finetune(job, model, tickets(8), "chat", {"epochs": 50, "progress": stop})
    assert job.status() is TrainingStatus.cancelled
    assert engine.adapters == {}
    assert list((tmp_path / "finetune").iterdir()) == []


def test_names() -> None:
    assert split_model_name("local:smollm2-135m") == ("smollm2-135m", None)
    assert split_model_name("local:org/model+0123456789ab") == ("org/model", "0123456789ab")
    assert LocalProvider.is_provider_model("local:x")
    assert not LocalProvider.is_provider_model("openai/gpt-4o-mini")
    with pytest.raises(TrainingError, match="no local model"):
        split_model_name("openai/gpt-4o-mini")


def test_a_deep_copy_keeps_the_engine() -> None:
    engine = RecordingEngine()
    lm = make_lm("local:smollm2-135m", engine)
    assert copy.deepcopy(lm).provider is lm.provider
    assert lm.copy(model="local:smollm2-135m+abc").provider.engine is engine


def test_torch_is_not_imported_before_a_training() -> None:
    script = "import sys, pytest_dspy_ft.local.provider as p; p.LocalProvider(None); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
