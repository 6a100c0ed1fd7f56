"""Training at Tinker, by its own client against the loopback: the loop is ours, and it is paid for once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft import Ladder
from pytest_dspy_ft.errors import BuildError
from tests.finetune.hosted.http_faults import KEY, Call, Fault
from tests.finetune.hosted.tinker_server import TinkerService, serving_tinker
from tests.finetune.hosted.tiny_tokenizer import write_tokenizer
from tests.finetune.hosted.world import build, hosted_lm, make_experiment
from tests.finetune.programs import parity
from tests.scripted import reply

pytest.importorskip("tinker")
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SETTINGS = {"service": "tinker", "n_epochs": 3, "batch_size": 4, "save_every": 2}
STEPS = 12
"""16 rows in batches of 4, three times."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def service(tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinkerService]:
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    with serving_tinker(tokenizer=tokenizer, answer=answer) as served:
        yield served
    gc.collect()  # Tinker's client leaves connections open that it no longer knows of


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    number = messages[-1]["content"].split("[[ ## text ## ]]")[-1].split()[0]
    return reply(label=parity(number) if model.startswith("tinker://") and number.isdigit() else "odd")


def tinker_lm(service: TinkerService, **settings: Any) -> Any:
    return hosted_lm(None, model="openai/small", api_base=service.address, api_key=f"tml-{KEY}", **settings)


def seen(service: TinkerService) -> list[Any]:
    """The batches that the result was trained on."""
    [result] = service.sampled()
    return list(service.states[result]["seen"])


def test_a_stage_is_trained_step_by_step_and_asked_by_its_path(service: TinkerService, tmp_path: Path) -> None:
    experiment = make_experiment(tinker_lm(service), train_kwargs=SETTINGS)
    ladder = Ladder(experiment, tmp_path / "store", num_threads=2)
    assert ladder.evaluate("baseline", "test").score == 0.5
    assert ladder.evaluate("finetuned", "test").score == 1.0
    ladder.close()
    assert service.paid == len(seen(service)) == STEPS
    assert sorted(len(batch) for batch in seen(service)) == [4] * STEPS
    for epoch in range(3):
        rows = [row for batch in seen(service)[4 * epoch : 4 * epoch + 4] for row in batch]
        assert len(set(rows)) == 16, "every row once in each epoch"
    assert seen(service)[:4] != seen(service)[4:8], "in another order"
    assert not service.kept_states(), "what led to the result is deleted"
    assert set(service.sessions.values()) == {"success"}, "no session is left open"


def test_a_service_that_fails_in_between_costs_no_more_than_the_last_piece(
    service: TinkerService, tmp_path: Path
) -> None:
    failed: list[Call] = []

    def faults(call: Call) -> Fault | None:
        if call.path.endswith("/optim_step") and len(service.calls) > 40 and not failed:
            failed.append(call)
            return Fault("status", 403)
        return None

    service.faults = faults
    with pytest.raises(BuildError, match="may not do this"):
        build(tmp_path / "store", tinker_lm(service), train_kwargs=SETTINGS)
    assert failed
    build(tmp_path / "store", tinker_lm(service), train_kwargs=SETTINGS)
    assert len(seen(service)) == STEPS
    assert service.paid <= STEPS + 2
    assert len(set(map(str, seen(service)))) == len(seen(service)), "no batch was applied twice"


def test_another_machine_goes_on_from_the_state_that_was_saved(service: TinkerService, tmp_path: Path) -> None:
    service.faults = lambda call: Fault("status", 403) if call.path.endswith("/save_weights_for_sampler") else None
    with pytest.raises(BuildError):
        build(tmp_path / "store", tinker_lm(service), train_kwargs=SETTINGS)
    service.faults = lambda call: None
    build(tmp_path / "elsewhere", tinker_lm(service), train_kwargs=SETTINGS)
    assert len(seen(service)) == STEPS
    assert service.paid <= STEPS + 2


def test_a_result_is_found_by_a_machine_without_the_store(service: TinkerService, tmp_path: Path) -> None:
    build(tmp_path / "store", tinker_lm(service), train_kwargs=SETTINGS)
    build(tmp_path / "elsewhere", tinker_lm(service), train_kwargs=SETTINGS)
    assert service.paid == STEPS


def test_the_answer_counts_and_the_prompt_does_not(tokenizer: str) -> None:
    from transformers import AutoTokenizer

    from pytest_dspy_ft.finetune.hosted.tinker_api.batches import weighted_tokens

    row = {"messages": [{"role": "user", "content": "two"}, {"role": "assistant", "content": "even"}]}
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    [(tokens, weights)] = weighted_tokens(loaded, [row], None)
    counted = [token for token, weight in zip(tokens, weights, strict=True) if weight]
    assert loaded.decode(counted) == "even</s>"
    assert loaded.decode(tokens) == "<user>two</s><assistant>even</s>"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora_r": 8}, "lora_r.*choose from.*rank"),
        ({"batch_size": "auto"}, "batch_size='auto': must be a whole number above 0"),
        ({"train_mlp": False, "train_attn": False, "train_unembed": False}, "nothing would be trained"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_first_call(
    service: TinkerService, tmp_path: Path, settings: Any, words: str
) -> None:
    with pytest.raises(BuildError, match=words):
        build(tmp_path / "store", tinker_lm(service), train_kwargs={"service": "tinker", **settings})
    assert not service.calls
