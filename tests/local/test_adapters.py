"""Serving LoRAs: replies are those of peft's merged model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from dspy import lm15

from pytest_dspy_ft.errors import LMError

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from pytest_dspy_ft.local import weights
from pytest_dspy_ft.local.engine import LocalEngine
from tests.local.chats import TEXTS, ask_all, chat, generate_plainly


def make_adapter(base: str, place: Path, seed: int, **config: Any) -> str:
    """Train nothing: a LoRA with random factors. Returns peft's own merged reply to TEXTS[0]."""
    from peft import LoraConfig, get_peft_model

    loaded = weights.load_private(weights.resolve_source(base), device="cpu", dtype="float32")
    torch.manual_seed(seed)
    targets = ["q_proj", "v_proj", "down_proj"]
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=targets, init_lora_weights=False, **config)
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5 for a property that goes away in 6
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.* is deprecated", FutureWarning)
        model: Any = get_peft_model(loaded.model, lora)
    model.save_pretrained(place)
    name = "smollm2-135m" if base == "smollm2-135m" else base
    return generate_plainly(model.merge_and_unload(), loaded.tokenizer, chat(TEXTS[0], model=f"local:{name}"))


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"rank_pattern": {"v_proj": 8}}])
def test_an_adapter_answers_as_pefts_merged_model(
    llama: LocalEngine, tiny: Any, tmp_path: Path, config: dict[str, Any]
) -> None:
    base = f"local:{tiny('llama')}"
    expected = make_adapter(tiny("llama"), tmp_path, 1, **config)
    before = llama.complete(chat(TEXTS[0], model=base)).text
    llama.add_adapter("tuned", tmp_path)
    tuned, plain = ask_all(llama, [chat(TEXTS[0], model=f"{base}+tuned"), chat(TEXTS[0], model=base)])
    assert tuned.text == expected != before
    assert tuned.model == f"{base}+tuned"
    assert plain.text == before


def test_adapters_share_what_they_do_not_change(llama: LocalEngine, tiny: Any, tmp_path: Path) -> None:
    make_adapter(tiny("llama"), tmp_path, 1)
    llama.add_adapter("tuned", tmp_path)
    llama.complete(chat(TEXTS[0], model=f"local:{tiny('llama')}+tuned"))
    served = llama._load()
    base, merged = served.base.model.model, served.merged["tuned"].model.model
    assert merged.embed_tokens.weight is base.embed_tokens.weight
    assert merged.layers[0].self_attn.k_proj.packed is base.layers[0].self_attn.k_proj.packed
    assert merged.layers[0].self_attn.q_proj.packed is not base.layers[0].self_attn.q_proj.packed


def test_few_merged_models_are_kept_and_replaced_adapters_are_read_again(
    llama: LocalEngine, tiny: Any, tmp_path: Path
) -> None:
    base = f"local:{tiny('llama')}"
    expected = [make_adapter(tiny("llama"), tmp_path / str(i), i) for i in range(3)]
    for i in range(3):
        llama.add_adapter(f"a{i}", tmp_path / str(i))
    for i in (0, 1, 2, 0):
        assert llama.complete(chat(TEXTS[0], model=f"{base}+a{i}")).text == expected[i]
    assert len(llama._load().merged) == 1
    assert llama.stats()["adapter_merges"] == 4
    llama.add_adapter("a0", tmp_path / "2")
    assert llama.complete(chat(TEXTS[0], model=f"{base}+a0")).text == expected[2]


def test_the_folder_of_an_adapter(tmp_path: Path) -> None:
    engine = LocalEngine("smollm2-135m")  # nothing is loaded
    with pytest.raises(LMError, match=r"no adapter 'tuned' .*known: none"):
        engine.adapter_path("tuned")
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (folder / "adapter_model.safetensors").touch()
        engine.add_adapter("tuned", folder)
        assert engine.adapter_path("tuned") == folder
    with pytest.raises(LMError, match=r"no adapter 'other' .*known: tuned"):
        engine.adapter_path("other")


def test_adapters_that_cannot_be_served(llama: LocalEngine, tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(lm15.UnsupportedModelError, match=r"no adapter 'none' .*known: none"):
        llama.complete(chat("x", model=f"local:{tiny('llama')}+none"))
    with pytest.raises(LMError, match=r"adapter_config\.json"):
        llama.add_adapter("empty", tmp_path)
    make_adapter(tiny("llama"), tmp_path, 1)
    with pytest.raises(LMError, match="adapter name"):
        llama.add_adapter("a/b", tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(LMError, match="use_dora=True"):
        llama.add_adapter("dora", tmp_path)
    file.write_text(json.dumps(config))
    make_adapter(tiny("qwen2"), tmp_path, 1)  # other shapes
    llama.add_adapter("other", tmp_path)
    with pytest.raises(LMError, match="v_proj is"):
        llama.complete(chat("x", model=f"local:{tiny('llama')}+other"))
    assert llama.complete(chat("x", model=f"local:{tiny('llama')}")).text
