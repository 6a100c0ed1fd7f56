"""Training at Together, by its own client against the loopback: what is asked for, served, and released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft import Ladder
from pytest_dspy_ft.errors import BuildError, DspyFtError, LMError, ServingError
from pytest_dspy_ft.finetune.hosted.together_api.service import TogetherService as Adapter
from pytest_dspy_ft.lms.budget import Budget
from pytest_dspy_ft.lms.prices import Price, Prices
from tests.finetune.hosted.http_faults import KEY
from tests.finetune.hosted.together_server import TogetherService, serving_together
from tests.finetune.hosted.world import build, hosted_lm, make_experiment
from tests.finetune.programs import parity
from tests.scripted import reply

pytest.importorskip("together")


def together_lm(service: TogetherService, **settings: Any) -> Any:
    return hosted_lm(None, model="together_ai/meta/small", api_base=service.address, api_key=KEY, **settings)


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    number = messages[-1]["content"].split("[[ ## text ## ]]")[-1].split()[0]
    return reply(label=parity(number) if model.startswith("acme/") and number.isdigit() else "odd")


def test_a_stage_is_trained_evaluated_and_its_endpoint_released(tmp_path: Path) -> None:
    with serving_together(answer=answer, states=("READY",)) as service:
        ladder = Ladder(make_experiment(together_lm(service)), tmp_path / "store", num_threads=2)
        ladder.build("finetuned")
        assert not service.deployed, "training alone starts no endpoint"
        assert ladder.evaluate("finetuned", "test").score == 1.0
        ladder.close()
        assert len(service.started()) == 1
        assert [d["inactiveTimeout"] for d in service.deployed] == [30], "should nobody release it, it stops by itself"
        assert not service.running()
        assert not service.endpoints


def test_settings_reach_the_job_under_together_s_names(tmp_path: Path) -> None:
    settings = {"n_epochs": 2, "lora_r": 16, "learning_rate": 1e-4, "seed": 7, "suffix": "Mine!"}
    with serving_together() as service:
        build(tmp_path / "store", together_lm(service), train_kwargs=settings)
        [job] = service.started()
        shown = job.shown
        rows = service.rows(shown["training_file"])
    assert (shown["n_epochs"], shown["learning_rate"], shown["random_seed"]) == (2, 1e-4, 7)
    assert shown["training_type"]["lora_r"] == 16, "a LoRA's rank counts without lora=True"
    assert shown["suffix"].startswith("mine-")
    assert len(shown["suffix"]) <= 40
    assert rows[0]["messages"][-1]["role"] == "assistant"
    assert service.files.keys() == {shown["training_file"]}, "what the price was asked with is deleted"


def test_another_machine_finds_the_job_by_its_suffix(tmp_path: Path) -> None:
    with serving_together() as service:
        build(tmp_path / "store", together_lm(service))
        service.files.clear()
        build(tmp_path / "elsewhere", together_lm(service))
        assert len(service.started()) == 1


def test_a_price_above_the_limit_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    prices = Prices([("together_ai/*", Price(0.1, 0.1))])
    with serving_together(price=70.0) as service, pytest.raises(DspyFtError, match=r"--dspy-max-cost=5.*70"):
        build(tmp_path / "store", together_lm(service), ladder={"budget": Budget(5.0, prices), "prices": prices})
    assert not service.started()
    assert not service.files


def test_a_failed_job_says_why(tmp_path: Path) -> None:
    with serving_together(statuses=("running", "error")) as service:
        service.error = "out of memory on all GPUs"
        with pytest.raises(BuildError, match="out of memory on all GPUs"):
            build(tmp_path / "store", together_lm(service))


def test_an_endpoint_that_does_not_start_is_released(tmp_path: Path) -> None:
    with serving_together(answer=answer, states=("FAILED",)) as service:
        ladder = Ladder(make_experiment(together_lm(service)), tmp_path / "store", num_threads=2)
        with pytest.raises(ServingError, match="out of H100"):
            ladder.evaluate("finetuned", "test")
        ladder.close()
        assert service.deployed
        assert not service.running()


def test_several_configurations_have_to_be_chosen_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_together(answer=answer, states=("READY",), configs=("cr_small", "cr_large")) as service:
        ladder = Ladder(make_experiment(together_lm(service)), tmp_path / "store", num_threads=2)
        with pytest.raises(ServingError, match=r"TOGETHER_ENDPOINT_CONFIG.*cr_small, cr_large"):
            ladder.evaluate("finetuned", "test")
        ladder.close()
        assert not service.running()
        monkeypatch.setenv("TOGETHER_ENDPOINT_CONFIG", "cr_large")
        ladder = Ladder(make_experiment(together_lm(service)), tmp_path / "store", num_threads=2)
        assert ladder.evaluate("finetuned", "test").score == 1.0
        ladder.close()
        assert len(service.started()) == 1, "the choice is no other training"
        assert service.deployed[-1]["config"].endswith("cr_large")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate_multiplier": 2}, "learning_rate_multiplier.*choose from.*learning_rate"),
        ({"lora_dropout": 2}, "lora_dropout=2: must be 'auto' or a number from 0 to 1"),
        ({"lora": False, "lora_r": 4}, "lora_r and lora=False"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_first_call(tmp_path: Path, settings: Any, words: str) -> None:
    with serving_together() as service, pytest.raises(BuildError, match=words):
        build(tmp_path / "store", together_lm(service), train_kwargs=settings)
    assert not service.calls


def test_without_its_client_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_together() as service:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(LMError, match=r"pip install 'pytest-dspy-ft\[together\]'"):
            Adapter(together_lm(service)).require_key()
