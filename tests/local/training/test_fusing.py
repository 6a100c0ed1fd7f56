"""Fused layers, attention as batched products and packed weights give what the plain ones give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pytest_dspy_ft.local.compat import can_pack, quiet_peft  # noqa: E402
from pytest_dspy_ft.local.training import attention, dense_attention, fused_attention, head_loss  # noqa: E402
from pytest_dspy_ft.local.training.batch import EncodedRow, PrefixLayout, shared_batch  # noqa: E402
from pytest_dspy_ft.local.training.config import LoraTrainingConfig  # noqa: E402
from pytest_dspy_ft.local.training.dense_attention import Heads  # noqa: E402
from pytest_dspy_ft.local.training.fused_attention import FusedAttention  # noqa: E402
from pytest_dspy_ft.local.training.fusing import fuse  # noqa: E402
from pytest_dspy_ft.local.training.gated_mlp import GatedMlp  # noqa: E402
from pytest_dspy_ft.local.training.last_layer import LastLayer  # noqa: E402
from pytest_dspy_ft.local.training.lora import add_lora, private_copy  # noqa: E402
from pytest_dspy_ft.local.training.rms_norm import rms_norm  # noqa: E402
from pytest_dspy_ft.local.training.run import isolated_random_state, train_lora  # noqa: E402
from pytest_dspy_ft.local.weights import LoadedModel  # noqa: E402
from tests.local.training.tiny import random_rows, tickets, tiny, tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.model

in_bfloat16 = pytest.mark.skipif(
    not can_pack("cpu", torch.bfloat16), reason="oneDNN has no bfloat16 products on this CPU"
)

LAYOUTS = {
    "shared": PrefixLayout(37, (5, 9, 1)),
    "no prefix": PrefixLayout(0, (4, 7)),
    "one row": PrefixLayout(0, (33,)),
    "even": PrefixLayout(28, (4, 4)),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("heads", [Heads(6, 2, 8), Heads(3, 3, 4), Heads(4, 1, 6)], ids=str)
def test_dense_attention_equals_flash_attention_of_rotated_heads(layout: PrefixLayout, heads: Heads) -> None:
    query, key, width = heads
    tokens = layout.prefix + sum(layout.tails)
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(tokens, (query + 2 * key) * width, generator=generator).requires_grad_()
    places = [*range(layout.prefix), *(layout.prefix + i for n in layout.tails for i in range(n))]
    angles = (torch.tensor(places)[:, None] * torch.linspace(0.1, 1, width // 2)).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()

    def rotated(part: Any) -> Any:
        first, second = part.chunk(2, -1)
        return part * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]

    q, k, v = (part.view(tokens, -1, width) for part in projected.split([query * width, key * width, key * width], 1))
    turned = [part.transpose(0, 1)[None] for part in (rotated(q), rotated(k), v)]
    expected, _ = attention.shared_prefix_attention(torch.nn.Module(), *turned, None, 0.0, 0.3, layout)
    got = dense_attention.dense_attention(projected, cos, sin, layout, heads, 0.3)
    torch.testing.assert_close(got, expected.reshape(tokens, -1), rtol=1e-5, atol=1e-5)
    weights = torch.randn(got.shape, generator=generator)
    ours, theirs = (torch.autograd.grad(out.reshape(got.shape), projected, weights)[0] for out in (got, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rms_norm_equals_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 16, generator=generator).requires_grad_()
    weight, grad = torch.randn(16, generator=generator), torch.randn(2, 5, 16, generator=generator)
    outs = rms_norm(weight, 1e-3, x), torch.nn.functional.rms_norm(x, (16,), weight, 1e-3)
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, grad)[0] for out in outs))


def with_lora(model: Any, fused: bool) -> Any:
    """A copy with a LoRA whose B is not zero, on shared prefixes, and its head apart as in a training."""
    copy = private_copy(model)
    assert attention.supports_shared_prefix(copy)
    with isolated_random_state(0), quiet_peft():
        wrapped = add_lora(copy, "tiny", LoraTrainingConfig(r=4, alpha=8), None, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    if fused:
        fuse(wrapped)
    return wrapped.train()


def loss_and_gradients(model: Any, rows: list[EncodedRow]) -> tuple[float, Any]:
    model.zero_grad()
    batch = shared_batch(rows)
    loss = head_loss.mean_cross_entropy(attention.shared_logits(model, batch)[0], batch.targets)
    loss.backward()
    flat = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(flat)


def kinds_of_forward(model: Any) -> set[type]:
    return {type(module.forward) for module in model.modules()} & {FusedAttention, GatedMlp, LastLayer}


ALL = {FusedAttention, GatedMlp, LastLayer}
ARCHITECTURES = {
    "llama": ALL, "tied": ALL, "qwen2": ALL, "qwen3": ALL, "mistral": ALL, "gemma": ALL,
    "granite": {FusedAttention, GatedMlp},  # its residual is scaled, which no attribute of a layer's parts tells
    "phi3": set(), "neox": set(), "gpt2": set(),
}  # fmt: skip


@in_bfloat16
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_fused_layers_of_every_architecture_are_as_exact_as_the_plain_ones(kind: str) -> None:
    model = tiny_model(kind)
    rows = random_rows(5, 40)
    true_loss, truth = loss_and_gradients(with_lora(model, False), rows)
    plain_loss, plain = loss_and_gradients(with_lora(model.to(torch.bfloat16), False), rows)
    fused = with_lora(model.to(torch.bfloat16), True)
    assert kinds_of_forward(fused) == ARCHITECTURES[kind]
    fused_loss, ours = loss_and_gradients(fused, rows)
    assert abs(fused_loss - true_loss) <= 2 * abs(plain_loss - true_loss) + 0.01 * true_loss
    assert (ours - truth).norm() <= 1.6 * (plain - truth).norm() + 0.01 * truth.norm()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma"])
def test_fused_layers_in_float32_equal_the_plain_ones(kind: str) -> None:
    model, rows = tiny_model(kind), random_rows(4, 20)
    plain, fused = (loss_and_gradients(with_lora(model, side), rows) for side in (False, True))
    assert fused[0] == pytest.approx(plain[0], rel=1e-5)
    torch.testing.assert_close(fused[1], plain[1], rtol=1e-3, atol=1e-5)


@in_bfloat16
def test_layers_are_fused_only_where_they_compute_the_same() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    odd = model.model.layers[0]
    usual_mlp, usual_norm = type(odd.mlp).forward, type(odd.input_layernorm).forward
    odd.mlp.__class__ = type("DoubledMLP", (type(odd.mlp),), {"forward": lambda self, x: 2 * usual_mlp(self, x)})
    odd.input_layernorm.__class__ = type(
        "ShiftedNorm", (type(odd.input_layernorm),), {"forward": lambda self, x: usual_norm(self, x) + 1}
    )
    fused = with_lora(model, True)
    first, second = fused.base_model.model.model.layers
    assert "forward" not in vars(first.mlp)
    assert "forward" not in vars(first.input_layernorm)
    assert isinstance(second.mlp.forward, GatedMlp)
    assert "forward" in vars(second.input_layernorm)


@in_bfloat16
def test_large_batches_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that are not kept are computed again, bit for bit; too many of them are left to the flash kernel."""
    model, rows = with_lora(tiny_model().to(torch.bfloat16), True), random_rows(5, 40)
    kept = loss_and_gradients(model, rows)
    monkeypatch.setattr(dense_attention, "MOST_KEPT", 0)
    again = loss_and_gradients(model, rows)
    assert again[0] == kept[0]
    assert torch.equal(again[1], kept[1])
    monkeypatch.setattr(fused_attention, "MOST_SCORES", 0)
    flash = loss_and_gradients(model, rows)
    assert flash[0] == pytest.approx(kept[0], rel=0.01)
    assert (flash[1] - kept[1]).norm() <= 0.1 * kept[1].norm()


@in_bfloat16
def test_a_row_does_not_depend_on_its_neighbours_beyond_the_batch() -> None:
    """The same batch gives the same bits after batches of other shapes."""
    model, rows = with_lora(tiny_model().to(torch.bfloat16), True), random_rows(5, 40)
    first = loss_and_gradients(model, rows)
    loss_and_gradients(model, random_rows(3, 77, seed=3))
    second = loss_and_gradients(model, rows)
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


def losses(folder: Path) -> list[float]:
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines[1:]]


@in_bfloat16
def test_trainings_in_bfloat16_take_the_same_course_and_give_the_same_adapter(tmp_path: Path) -> None:
    loaded = LoadedModel(tiny_model().to(torch.bfloat16), tiny_tokenizer(), "cpu", "bfloat16", "tiny")
    for name in ("a", "b"):
        train_lora(loaded, tickets(12), tmp_path / name, config=LoraTrainingConfig(batch_size=4))
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    config = LoraTrainingConfig(batch_size=4, shared_prefix=False)
    train_lora(loaded, tickets(12), tmp_path / "plain", config=config)
    train_lora(tiny(), tickets(12), tmp_path / "exact", config=config)
    ours, plain, exact = (losses(tmp_path / name) for name in ("a", "plain", "exact"))
    assert len(ours) == len(plain) == 6
    assert ours == pytest.approx(plain, rel=0.02)
    assert ours == pytest.approx(exact, rel=0.02)


@in_bfloat16
def test_smollm2_in_bfloat16_takes_the_course_of_the_plain_path(smollm2_bfloat16: Any, tmp_path: Path) -> None:
    for shared in (True, False):
        config = LoraTrainingConfig(batch_size=4, epochs=1, shared_prefix=shared)
        report = train_lora(smollm2_bfloat16, tickets(16), tmp_path / str(shared), config=config)
        assert report.shared_prefix is shared
    ours, plain = losses(tmp_path / "True"), losses(tmp_path / "False")
    assert len(ours) == 4
    assert ours == pytest.approx(plain, rel=0.05, abs=0.02)
