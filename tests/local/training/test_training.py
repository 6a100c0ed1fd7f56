"""Training: the shared-prefix batch equals the padded one, and a training does what its report says."""

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
from pytest_dspy_ft.local import weights  # noqa: E402
from pytest_dspy_ft.local.compat import quiet_peft  # noqa: E402
from pytest_dspy_ft.local.training import attention, head_loss, memory  # noqa: E402
from pytest_dspy_ft.local.training.batch import EncodedRow, PrefixLayout, plain_batch, shared_batch  # noqa: E402
from pytest_dspy_ft.local.training.config import LoraTrainingConfig  # noqa: E402
from pytest_dspy_ft.local.training.lora import add_lora, private_copy  # noqa: E402
from pytest_dspy_ft.local.training.rows import encode_rows, plan_epoch, split_validation  # noqa: E402
from pytest_dspy_ft.local.training.run import TrainingCancelledError, isolated_random_state, train_lora  # noqa: E402
from pytest_dspy_ft.local.training.trainer import LoraTrainer, TrainingProgress  # noqa: E402
from tests.local.training.tiny import chat, tickets, tiny, tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def smollm2() -> Any:
    return weights.load(weights.resolve_source(weights.BUNDLED_NAME), device="cpu", dtype="float32")


def random_rows(n: int, prefix: int, seed: int = 0, vocabulary: int = 256) -> list[EncodedRow]:
    rng = random.Random(seed)

    def draw(k: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(k))

    head = draw(prefix)
    rows = []
    for number in range(n):
        prompt, reply = draw(rng.randrange(1, 9)), draw(rng.randrange(1, 7))
        rows.append(EncodedRow(head + prompt + reply, prefix + len(prompt), number=number))
    return rows


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


@pytest.mark.parametrize(("kind", "supported"), [("llama", True), ("neox", True), ("gpt2", None), ("windowed", False)])
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


def test_labels_are_the_reply_and_its_end_of_turn() -> None:
    tokenizer = tiny_tokenizer()
    rows = tickets(3)
    for row, encoded in zip(rows, encode_rows(rows, tokenizer), strict=True):
        prompt = tokenizer.apply_chat_template(
            row["messages"][:-1], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert list(encoded.ids[: encoded.prompt_length]) == prompt
        reply = row["messages"][-1]["content"]
        assert tokenizer.decode(encoded.ids[encoded.prompt_length :]) == reply + "<|im_end|>"
    batch = shared_batch(encode_rows(rows, tokenizer))
    expected = "".join(row["messages"][-1]["content"] + "<|im_end|>" for row in rows)
    assert tokenizer.decode(batch.targets) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "row 1: no 'messages'"),
        ({"messages": []}, "row 1: 'messages' must be a list"),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}, "row 1: message 0 lacks"),
        ({"messages": [{"role": "tool", "content": ""}, {"role": "assistant", "content": "x"}]}, "the role 'tool'"),
        ({"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "x"}]}, "not text"),
        ({"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]}, "is the user's"),
        (chat("question", "  "), "row 1: the reply is empty"),
    ],
)
def test_a_bad_row_is_named(row: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        encode_rows([*tickets(1), row], tiny_tokenizer())


def test_no_rows_and_long_rows_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no rows"):
        train_lora(tiny(), [], tmp_path)
    rows = [*tickets(1), chat("long " * 200, "x")]
    with pytest.raises(TrainingError, match=r"row 1 has \d+ tokens, more than 512"):
        train_lora(tiny(), rows, tmp_path)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr": 1}, "unknown training setting 'lr'; choose from r, alpha"),
        ({"epochs": 0}, "epochs=0: must be a whole number at least 1"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: must be a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"learning_rate": "1e-3"}, "learning_rate='1e-3'"),
        ({"validation_fraction": 0.9}, "from 0 to 0.5"),
        ({"shared_prefix": "no"}, "must be True or False"),
    ],
)
def test_a_bad_setting_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        LoraTrainingConfig.from_kwargs(kwargs)


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


def test_few_rows_are_all_trained_on() -> None:
    rows = random_rows(19, 3)
    kept, held = split_validation(rows, LoraTrainingConfig(), 0)
    assert (len(kept), held) == (19, [])


def test_batches_keep_predictors_together_and_hold_every_row_once() -> None:
    rows = [EncodedRow((1, 2), 1, "a" if i % 3 else "b", i) for i in range(50)]
    rows += [EncodedRow((1, 2), 1, "c", 50), EncodedRow((1, 2), 1, "d", 51)]
    batches = plan_epoch(rows, 8, seed=3, epoch=0)
    assert sorted(row.number for batch in batches for row in batch) == list(range(52))
    assert sorted({row.group for row in batch} == {"c", "d"} for batch in batches).count(True) == 1
    assert all(len({row.group for row in batch}) == 1 or len(batch) == 2 for batch in batches)
    assert min(map(len, batches[:])) >= 2
    assert batches == plan_epoch(rows, 8, seed=3, epoch=0)
    assert batches != plan_epoch(rows, 8, seed=3, epoch=1)


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


def test_smollm2_parity(smollm2: Any) -> None:
    model = with_trained_lora(smollm2.model)
    rows = encode_rows(tickets(3, system="Sort the ticket. " * 20), smollm2.tokenizer)
    plain, shared = plain_loss(model, rows), shared_loss(model, rows)
    assert shared.item() == pytest.approx(plain.item(), rel=1e-5)
    expected, got = gradients(model, plain), gradients(model, shared)
    for name, gradient in expected.items():
        assert (got[name] - gradient).abs().max() <= 1e-3 * gradient.abs().max(), name


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
