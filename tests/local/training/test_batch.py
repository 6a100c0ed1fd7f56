"""The batch with its prefix computed once gives the loss and gradients of the padded one."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pytest_dspy_ft.local.compat import quiet_peft  # noqa: E402
from pytest_dspy_ft.local.training import attention, head_loss  # noqa: E402
from pytest_dspy_ft.local.training.batch import EncodedRow, PrefixLayout, plain_batch, shared_batch  # noqa: E402
from pytest_dspy_ft.local.training.config import LoraTrainingConfig  # noqa: E402
from pytest_dspy_ft.local.training.lora import add_lora, private_copy  # noqa: E402
from pytest_dspy_ft.local.training.rows import encode_rows  # noqa: E402
from pytest_dspy_ft.local.training.run import isolated_random_state  # noqa: E402
from tests.local.training.tiny import random_rows, tickets, tiny_model  # noqa: E402

pytestmark = pytest.mark.model


def with_trained_lora(model: Any) -> Any:
    """A private copy with a LoRA whose B is not zero, so that every weight has a gradient."""
    with isolated_random_state(0), quiet_peft():
        wrapped = add_lora(private_copy(model), "tiny", LoraTrainingConfig(r=4, alpha=8), None, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return wrapped.train()


def plain_loss(model: Any, rows: list[EncodedRow]) -> Any:
    model.base_model.model.set_attn_implementation("eager")
    return model(**plain_batch(rows, 0), use_cache=False).loss


def shared_loss(model: Any, rows: list[EncodedRow]) -> Any:
    model.base_model.model.set_attn_implementation(attention.ATTENTION)
    batch = shared_batch(rows)
    return head_loss.mean_cross_entropy(attention.shared_logits(model, batch)[0], batch.targets)


def gradients(model: Any, loss: Any) -> dict[str, Any]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


CASES = {
    "shared": random_rows(5, 40),
    "no common prefix": random_rows(3, 0),
    "one row": random_rows(1, 10),
    "the same row twice": random_rows(1, 10) * 2,
    "one prompt, two replies": [EncodedRow((1, 2, 3, 4, 5), 3), EncodedRow((1, 2, 3, 4, 6, 7), 3)],
    "a row inside another": [EncodedRow((1, 2, 3, 4), 2), EncodedRow((1, 2, 3, 4, 5, 6), 4)],
    "two predictors": random_rows(2, 12, seed=1) + random_rows(2, 9, seed=2),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["llama", "neox"])
def test_loss_and_gradients_equal_the_padded_batch(case: str, kind: str) -> None:
    model = with_trained_lora(tiny_model(kind))
    rows = CASES[case]
    plain, shared = plain_loss(model, rows), shared_loss(model, rows)
    assert shared.item() == pytest.approx(plain.item(), rel=1e-5)
    expected, got = gradients(model, plain), gradients(model, shared)
    assert expected.keys() == got.keys()
    assert expected
    for name, gradient in expected.items():
        scale = gradient.abs().max()
        assert (got[name] - gradient).abs().max() <= 1e-4 * scale + 1e-7, name


def test_masked_attention_of_other_devices_equals_the_blocks() -> None:
    layout = PrefixLayout(7, (3, 1, 5))
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 16, 8, generator=generator)
    key, value = torch.randn(2, 1, 2, 16, 8, generator=generator)
    blocks, _ = attention.shared_prefix_attention(torch.nn.Module(), query, key, value, None, 0.0, None, layout)
    masked = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), attn_mask=layout.mask(query.device)
    )
    torch.testing.assert_close(blocks, masked.transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_prefix_is_computed_once() -> None:
    rows = random_rows(8, 100)
    batch = shared_batch(rows)
    assert batch.layout.prefix >= 100
    assert batch.tokens == sum(len(row.ids) for row in rows) - 7 * batch.layout.prefix
    assert len(batch.targets) == sum(len(row.ids) - row.prompt_length for row in rows)


def test_smollm2_parity(smollm2: Any) -> None:
    model = with_trained_lora(smollm2.model)
    rows = encode_rows(tickets(3, system="Sort the ticket. " * 20), smollm2.tokenizer)
    plain, shared = plain_loss(model, rows), shared_loss(model, rows)
    assert shared.item() == pytest.approx(plain.item(), rel=1e-5)
    expected, got = gradients(model, plain), gradients(model, shared)
    for name, gradient in expected.items():
        assert (got[name] - gradient).abs().max() <= 1e-3 * gradient.abs().max(), name
