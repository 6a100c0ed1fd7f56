"""What is asked for, what it cost, and what is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import LabeledFinetune, Ladder, Stage
from pytest_dspy_ft.errors import BuildError, JobPendingError
from pytest_dspy_ft.lms.prices import Prices
from tests.finetune.hosted.http_faults import KEY
from tests.finetune.hosted.server import serving
from tests.finetune.hosted.world import VirtualClock, build, hosted_lm, make_experiment, right
from tests.finetune.programs import TwoSteps, parity, two_step_rule
from tests.scripted import fields_of, reply


def entries(store: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted((store / "jobs").rglob("job-*.json"))]


# --- what is ordered -------------------------------------------------------------------------------------------------


def test_the_order_says_what_and_for_what(tmp_path: Path) -> None:
    settings = {"n_epochs": 2, "learning_rate_multiplier": 1.5, "seed": 7, "validation_min_rows": 16}
    with serving() as service:
        build(tmp_path / "store", hosted_lm(service), count=40, train_kwargs=settings)
        [job] = service.started()
    shown = job.shown
    assert shown["model"] == "gpt-4o-mini"
    assert shown["method"] == {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 1.5}},
    }
    assert shown["seed"] == 7
    assert shown["suffix"] == "numbers-finetuned"
    [entry] = entries(tmp_path / "store")
    assert shown["metadata"]["dspy_ft_job"] == entry["order"]
    assert (shown["metadata"]["dspy_ft_experiment"], shown["metadata"]["dspy_ft_stage"]) == ("numbers", "finetuned")
    training, validation = (service.rows(shown[name]) for name in ("training_file", "validation_file"))
    assert (len(training), len(validation)) == (29, 3), "a tenth of the 32 rows is held out"
    texts = [json.dumps(row) for row in (*training, *validation)]
    assert len(set(texts)) == 32
    assert training[0]["messages"][-1]["role"] == "assistant"


def test_few_rows_are_all_trained_on(tmp_path: Path) -> None:
    with serving() as service:
        build(tmp_path / "store", hosted_lm(service))
        [job] = service.started()
        assert job.shown["validation_file"] is None
        assert len(service.rows(job.shown["training_file"])) == 16


def test_the_users_lm_is_left_alone_and_needs_no_provider(tmp_path: Path) -> None:
    with serving(statuses=("succeeded",)) as service:
        lm = dspy.LM("openai/gpt-4o-mini", api_base=service.address, api_key=KEY, cache=False)
        before = (lm.model, lm.provider, dict(lm.kwargs))
        built = build(tmp_path / "store", lm)
        trained = built.program.predictors()[0].lm
    assert (lm.model, lm.provider, dict(lm.kwargs)) == before
    assert trained.model.startswith("openai/ft:gpt-4o-mini:")
    assert trained.provider is lm.provider
    assert trained.kwargs["api_base"] == service.address


def test_the_trained_model_answers_through_dspy(tmp_path: Path) -> None:
    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        number = messages[-1]["content"].split("[[ ## text ## ]]")[-1].split()[0]
        return reply(label=parity(number) if model.startswith("ft:") else "odd")

    with serving(answer=answer) as service:
        ladder = Ladder(make_experiment(hosted_lm(service)), tmp_path / "store", num_threads=2)
        assert ladder.evaluate("baseline", "test").score == 0.5
        assert ladder.evaluate("finetuned", "test").score == 1.0
        assert {model.partition(":")[0] for model in service.asked} == {"gpt-4o-mini", "ft"}
        # A later session has it from the store.
        again = Ladder(make_experiment(hosted_lm(service)), tmp_path / "store", num_threads=2)
        assert again.program("finetuned")(text="4").label == "even"
        assert again.build("finetuned").record.status == "loaded"
        assert len(service.started()) == 1


def test_key_and_address_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as service:
        monkeypatch.setenv("OPENAI_BASE_URL", service.address)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        build(tmp_path / "store", hosted_lm(None))
        assert len(service.started()) == 1


def test_two_lms_are_trained_each_at_its_own_place(tmp_path: Path) -> None:
    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        return two_step_rule(fields_of(messages[-1]["content"]), None)

    with serving(answer=answer) as one, serving(answer=answer) as other:
        program = TwoSteps()
        program.spell.lm, program.judge.lm = hosted_lm(one), hosted_lm(other, model="openai/gpt-4.1-mini")
        stage = Stage("finetuned", dspy.BootstrapFinetune(metric=None))
        experiment = make_experiment(hosted_lm(one), program=program, stages=[stage])
        built = Ladder(experiment, tmp_path / "store").build("finetuned")
        models = [predictor.lm.model for predictor in built.program.predictors()]
        assert models[0].startswith("openai/ft:gpt-4o-mini:")
        assert models[1].startswith("openai/ft:gpt-4.1-mini:")
        assert (len(one.started()), len(other.started())) == (1, 1)
    assert len(entries(tmp_path / "store")) == 2


# --- what it cost ----------------------------------------------------------------------------------------------------


def test_the_cost_is_that_of_the_tokens_the_service_counted(tmp_path: Path) -> None:
    with serving() as service:
        built = build(tmp_path / "store", hosted_lm(service), ladder={"prices": Prices.from_lines([])})
        [training] = built.record.training
    assert training.trained_tokens == 1600
    assert training.cost == pytest.approx(1600 * 3.0 / 1e6)
    assert training.steps == 2


def test_a_price_nobody_knows_is_not_zero(tmp_path: Path) -> None:
    with serving() as service:
        built = build(tmp_path / "store", hosted_lm(service, model="openai/own-model"))
    assert built.record.training[0].cost is None


# --- Azure -----------------------------------------------------------------------------------------------------------


def test_azure_trains_and_says_that_the_model_must_be_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as service:
        service.deployments = {"gpt-4o-mini"}
        monkeypatch.setenv("AZURE_API_BASE", service.root)
        monkeypatch.setenv("AZURE_API_KEY", KEY)

        def session() -> Any:
            return build(tmp_path / "store", hosted_lm(None, model="azure/gpt-4o-mini", api_version="2024-10-21"))

        with pytest.raises(JobPendingError, match=r"is trained.*deployment create.*run again.*paid twice"):
            session()
        [job] = service.started()
        service.deployments.add(job.shown["fine_tuned_model"])
        built = session()
        assert built.record.lm == f"azure/{job.shown['fine_tuned_model']}"
        assert len(service.started()) == 1
        assert all("api-version=2024-10-21" in seen.split(" ")[1] for seen in service.seen)
        assert all(seen.split(" ")[1].startswith("/openai/") for seen in service.seen)


def test_azure_without_an_address_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_API_BASE", raising=False)
    with pytest.raises(BuildError, match="AZURE_API_BASE"):
        build(tmp_path / "store", hosted_lm(None, model="azure/gpt-4o-mini", api_key="k"))


# --- kept apart ------------------------------------------------------------------------------------------------------


def test_pauses_grow_from_two_seconds_to_thirty(tmp_path: Path) -> None:
    clock = VirtualClock()
    with serving(statuses=("running",) * 30 + ("succeeded",)) as service:
        build(tmp_path / "store", hosted_lm(service, clock=clock))
    assert 1.6 <= clock.slept[0] <= 2.4
    assert all(0.8 * 30 <= pause <= 1.2 * 30 for pause in clock.slept[10:])
    assert len({round(pause, 6) for pause in clock.slept[10:]}) > 10, "spread, so that many sessions do not ask at once"


def test_a_provider_of_the_users_own_is_kept(tmp_path: Path) -> None:
    from tests.scripted import RecordingProvider

    with serving() as service:
        own = RecordingProvider()
        lm = dspy.LM("openai/gpt-4o-mini", api_base=service.address, api_key=KEY, provider=own, cache=False)
        assert build(tmp_path / "store", lm).record.lm == "toy/tuned-1"
        assert not service.started()
    assert len(own.jobs) == 1


def test_better_together_orders_its_jobs_here_too(tmp_path: Path) -> None:
    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        number = messages[-1]["content"].split("[[ ## text ## ]]")[-1].split()[0]
        return reply(label=parity(number) if model.startswith("ft:") else "odd")

    with serving(answer=answer) as service:
        optimizer = dspy.BetterTogether(metric=right, p=dspy.LabeledFewShot(k=2), w=LabeledFinetune(metric=right))
        stage = Stage("finetuned", optimizer, compile_args={"strategy": "w -> p -> w"})
        experiment = make_experiment(hosted_lm(service), count=40, stages=[stage])
        built = Ladder(experiment, tmp_path / "store", num_threads=2).build("finetuned")
        first, second = service.started()
        assert second.shown["model"] == first.shown["fine_tuned_model"], "the second goes on from the first"
        assert built.record.lm.startswith("openai/ft:")
