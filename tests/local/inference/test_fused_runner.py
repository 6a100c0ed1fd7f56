"""The fused forward pass: the text of transformers' own generation, rows that do not depend on each other, adapters."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from pytest_dspy_ft.local import weights  # noqa: E402 - torch may not be there
from pytest_dspy_ft.local.compat import can_pack  # noqa: E402
from pytest_dspy_ft.local.engine import LocalEngine  # noqa: E402
from pytest_dspy_ft.local.inference import runner as runners  # noqa: E402
from pytest_dspy_ft.local.inference.fused_model import is_fusable, join_projections, part_projections  # noqa: E402
from pytest_dspy_ft.local.inference.fused_runner import FusedRunner  # noqa: E402
from pytest_dspy_ft.local.inference.packed_linear import pack_linears  # noqa: E402
from tests.local.chats import TEXTS, ask_all, chat, generate_plainly, texts  # noqa: E402
from tests.local.test_adapters import make_adapter  # noqa: E402

KINDS = ("llama", "qwen2", "qwen3", "mistral")


def load(folder: str, dtype: str) -> Any:
    if not can_pack("cpu", getattr(torch, dtype)):
        pytest.skip(f"oneDNN does not multiply {dtype} here")
    return weights.load_private(weights.resolve_source(folder), device="cpu", dtype=dtype).model


def fused(folder: str, dtype: str) -> FusedRunner:
    model = load(folder, dtype)
    assert is_fusable(model)
    join_projections(model)
    pack_linears(model)
    return FusedRunner(model)


def random_tails(lengths: list[int], seed: int = 0) -> list[list[int]]:
    made = random.Random(seed)
    return [[made.randrange(2, 400) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("kind", KINDS)
def test_in_float32_its_replies_are_those_of_generate(kind: str, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny(kind)
    made = fused(folder, "float32")
    monkeypatch.setattr("pytest_dspy_ft.local.inference.model.choose_runner", lambda model, device: made)
    engine = LocalEngine(folder, device="cpu", dtype="float32")
    requests = [chat(text, model=f"local:{folder}", max_tokens=50) for text in TEXTS]
    got = texts(ask_all(engine, requests))
    plain = weights.load_private(weights.resolve_source(folder), device="cpu", dtype="float32")
    assert got == [generate_plainly(plain.model, plain.tokenizer, request) for request in requests]
    assert len(set(got)) > 1
    engine.shutdown()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_chosen_in_bfloat16(kind: str, tiny: Any) -> None:
    assert type(runners.choose_runner(load(tiny(kind), "bfloat16"), "cpu")) is FusedRunner


def test_a_model_whose_logits_come_out_wrong_is_served_as_before(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny("llama")
    positioned = "pytest_dspy_ft.local.inference.fused_model.FusedModel._positioned"
    monkeypatch.setattr(positioned, lambda self, joint, layer, factors: joint)
    runner = runners.choose_runner(load(folder, "bfloat16"), "cpu")
    assert type(runner) is runners.PrefixRunner
    expected = runners._probe_plain(load(folder, "bfloat16"), "cpu")
    with torch.inference_mode():
        assert runners._relative_difference(runners._probe(runner), expected) < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_in_bfloat16_a_row_does_not_depend_on_its_batch_mates(kind: str, threads: int, tiny: Any) -> None:
    """Bit for bit, with and without a prefix, while rows leave and as they grow past what there was room for."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runner = fused(tiny(kind), "bfloat16")
        assert runner.is_stable()
        lengths = [1, 5, 33, 64, 97, 200, *range(2, 40)]
        tails = random_tails(lengths)
        with torch.inference_mode():
            for prefix in (runner.prefix(random_tails([75], 1)[0]), None):
                rows, first = runner.start(prefix, tails)
                steps = [rows.step(list(range(len(tails))))]
                kept = [0, len(tails) - 1, 2, 5]
                rows.keep(kept)
                steps += [rows.step([7, 8, 9, 10]) for _ in range(40)]
                for place, row in enumerate(kept):
                    alone, logits = runner.start(prefix, [tails[row]])
                    assert torch.equal(logits[0], first[row])
                    assert torch.equal(alone.step([row])[0], steps[0][row])
                    for step in steps[1:]:
                        assert torch.equal(alone.step([7 + place])[0], step[place])
    finally:
        torch.set_num_threads(before)


def test_where_sums_grow_long_neighbours_do_not_matter_either(tiny: Any) -> None:
    """oneDNN adds up more than 1024 products in another order; a row of fewer must not be padded into that."""
    runner = fused(tiny("llama"), "bfloat16")
    tails = random_tails([90, 120, 150, 700, 30])
    with torch.inference_mode():
        prefix = runner.prefix(random_tails([880], 1)[0])
        rows, first = runner.start(prefix, tails)
        second = rows.step([3, 4, 5, 6, 7])
        for row in range(len(tails)):
            alone, logits = runner.start(prefix, [tails[row]])
            assert torch.equal(logits[0], first[row])
            assert torch.equal(alone.step([3 + row])[0], second[row])


def test_a_tail_in_pieces_is_what_it_is_in_one(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = fused(tiny("llama"), "float32")
    tails = random_tails([300, 20])
    with torch.inference_mode():
        whole, prefix = runner.start(None, tails)[1], random_tails([130], 1)[0]
        continued = runner.start(runner.prefix(prefix), tails)[1]
        monkeypatch.setattr("pytest_dspy_ft.local.inference.fused_runner._PASS_TOKENS", 64)
        assert torch.allclose(runner.start(None, tails)[1], whole, atol=1e-3)
        assert torch.allclose(runner.start(runner.prefix(prefix), tails)[1], continued, atol=1e-3)
        assert torch.allclose(runner.start(None, [prefix + tails[0]])[1][0], continued[0], atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_parting_undoes_joining(kind: str, tiny: Any) -> None:
    model, other = load(tiny(kind), "float32"), load(tiny(kind), "float32")
    join_projections(model)
    part = model.model.layers[1].self_attn.k_proj
    original = other.model.layers[1].self_attn.k_proj
    row = torch.randn(20, model.config.hidden_size)
    assert torch.equal(part.dense_weight(), original.weight)
    assert torch.allclose(part(row), original(row), atol=1e-5)
    part_projections(model)
    parted = model.model.layers[1].self_attn.k_proj
    assert torch.equal(parted.dense_weight(), original.weight)
    assert original.bias is None or torch.equal(parted.bias, original.bias)


def test_adapters_are_merged_into_joined_projections(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny("llama")
    make_adapter(folder, tmp_path / "lora", seed=1)
    made = fused(folder, "float32")
    requests = [chat(text, model=f"local:{folder}{adapter}") for text in TEXTS for adapter in ("", "+lora")]
    got = []
    for patched in (False, True):
        if patched:
            monkeypatch.setattr("pytest_dspy_ft.local.inference.model.choose_runner", lambda model, device: made)
        engine = LocalEngine(folder, device="cpu", dtype="float32")
        engine.add_adapter("lora", tmp_path / "lora")
        got.append(texts(ask_all(engine, requests)))
        assert (type(engine._load().merged["lora"]) is FusedRunner) == patched
        engine.shutdown()
    assert got[0] == got[1]
    assert got[0][::2] != got[0][1::2]
