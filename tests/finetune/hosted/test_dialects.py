"""Nebius and Crusoe: OpenAI's client against servers that speak its API in their own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft import Ladder
from pytest_dspy_ft.errors import BuildError, LMError, ServingError
from pytest_dspy_ft.finetune.hosted.openai_api.nebius import NebiusService
from tests.finetune.hosted.dialect_servers import PROJECT, serving_crusoe, serving_nebius
from tests.finetune.hosted.world import build, hosted_lm, make_experiment
from tests.finetune.programs import parity
from tests.scripted import reply

NEBIUS, CRUSOE = {"service": "nebius"}, {"service": "crusoe"}


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    number = messages[-1]["content"].split("[[ ## text ## ]]")[-1].split()[0]
    return reply(label=parity(number) if model.startswith("ft:") and number.isdigit() else "odd")


def test_nebius_trains_and_a_model_is_made_of_the_last_checkpoint(tmp_path: Path) -> None:
    settings = {**NEBIUS, "n_epochs": 2, "learning_rate": 1e-4, "lora_r": 16}
    with serving_nebius(answer=answer) as service:
        ladder = Ladder(make_experiment(hosted_lm(service), train_kwargs=settings), tmp_path / "store", num_threads=2)
        assert ladder.evaluate("baseline", "test").score == 0.5
        assert ladder.evaluate("finetuned", "test").score == 1.0
        ladder.close()
        [job] = service.started()
        assert job.shown["hyperparameters"] == {"n_epochs": 2, "learning_rate": 1e-4, "lora": True, "lora_r": 16}
        assert [m["source"] for m in service.models] == [f"{job.id}:ftckpt-{job.id}-8"]
        assert service.models[0]["base_model"] == "gpt-4o-mini"


def test_a_model_that_nebius_cannot_serve_is_an_error_and_no_other_is_made(tmp_path: Path) -> None:
    with serving_nebius(statuses_of_models=("error",)) as service:
        for _ in range(2):
            with pytest.raises(BuildError, match="Nebius cannot serve"):
                build(tmp_path / "store", hosted_lm(service), train_kwargs=NEBIUS)
        assert len(service.started()) == len(service.models) == 1


def test_crusoe_loads_the_checkpoint_as_an_adapter_when_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUSOE_PROJECT_ID", PROJECT)
    with serving_crusoe(answer=answer, statuses_of_adapters=("ready",)) as service:
        experiment = make_experiment(hosted_lm(service), train_kwargs={**CRUSOE, "lora_rank": 16})
        ladder = Ladder(experiment, tmp_path / "store", num_threads=2)
        ladder.build("finetuned")
        assert not service.adapters
        assert ladder.evaluate("finetuned", "test").score == 1.0
        ladder.close()
        [job] = service.started()
        assert job.shown["method"]["supervised"]["hyperparameters"] == {"lora_rank": 16}
        assert [a["model_id"] for a in service.adapters] == [f"ftmodel-ftckpt-{job.id}-8"]


def test_crusoe_without_a_project_says_what_to_do_and_keeps_the_model(tmp_path: Path) -> None:
    with serving_crusoe(answer=answer) as service:
        ladder = Ladder(make_experiment(hosted_lm(service), train_kwargs=CRUSOE), tmp_path / "store", num_threads=2)
        with pytest.raises(ServingError, match=r"CRUSOE_PROJECT_ID.*CRUSOE_DEPLOYMENT"):
            ladder.evaluate("finetuned", "test")
        ladder.close()
        assert len(service.started()) == 1


@pytest.mark.parametrize("serving", [serving_nebius, serving_crusoe], ids=["nebius", "crusoe"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora_bogus": 1}, "lora_bogus.*choose from.*lora_dropout"),
        ({"lora_dropout": 3}, r"lora_dropout=3: must be 'auto' or a number from 0.0 to 1.0"),
        ({"lora_alpha": 0.5}, r"lora_alpha=0.5: must be 'auto' or a whole number from 1"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_first_call(
    tmp_path: Path, serving: Any, settings: Any, words: str
) -> None:
    name = "nebius" if serving is serving_nebius else "crusoe"
    with serving() as service, pytest.raises(BuildError, match=words):
        build(tmp_path / "store", hosted_lm(service), train_kwargs={"service": name, **settings})
    assert not service.calls


def test_the_key_of_nebius_comes_from_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    import dspy

    lm = dspy.LM("nebius/meta-llama/Llama-3.3-70B-Instruct")
    with pytest.raises(LMError, match="NEBIUS_API_KEY"):
        NebiusService(lm).require_key()
    monkeypatch.setenv("NEBIUS_API_KEY", "nb-1")
    service = NebiusService(lm)
    service.require_key()
    assert service.address == "https://api.tokenfactory.nebius.com/v1"
    assert "nb-1" not in service.scrub("refused: nb-1")
