"""What is ordered, what is checked before, what is written down, and how a job is found again."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import LabeledFinetune, Ladder, Stage
from pytest_dspy_ft.errors import BuildError, HostedError, JobPendingError
from pytest_dspy_ft.finetune.hosted.orders import Settings, make_order
from pytest_dspy_ft.finetune.hosted.preflight import check_order, counter, row_problem
from pytest_dspy_ft.finetune.hosted.provider import ClosingWarning, HostedProvider
from pytest_dspy_ft.lms.prices import Prices
from tests.finetune.hosted.server import KEY, Fault, serving
from tests.finetune.hosted.world import VirtualClock, build, close_connections, hosted_lm, make_experiment, right
from tests.finetune.test_rows import TwoSteps, parity, two_step_rule
from tests.scripted import fields_of, reply


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "AZURE_API_KEY", "AZURE_OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    logging.getLogger("dspy").setLevel(logging.CRITICAL)  # it logs every failed job
    yield
    close_connections()
    logging.getLogger("dspy").setLevel(logging.NOTSET)


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


# --- found again -----------------------------------------------------------------------------------------------------


def test_another_machine_finds_the_job_by_its_marks(tmp_path: Path) -> None:
    with serving() as service:
        first = build(tmp_path / "one", hosted_lm(service))
        second = build(tmp_path / "other", hosted_lm(service))
        assert len(service.started()) == 1
    assert first.record.lm == second.record.lm
    assert not first.record.training[0].resumed
    assert second.record.training[0].resumed


def test_a_result_that_the_store_lost_is_not_paid_again(tmp_path: Path) -> None:
    with serving() as service:
        first = build(tmp_path / "store", hosted_lm(service))
        for folder in (tmp_path / "store" / "stages").iterdir():
            folder.rename(tmp_path / folder.name)
        assert build(tmp_path / "store", hosted_lm(service)).record.lm == first.record.lm
        assert len(service.started()) == 1


def test_other_rows_are_another_job(tmp_path: Path) -> None:
    with serving() as service:
        build(tmp_path / "store", hosted_lm(service), count=20)
        build(tmp_path / "store", hosted_lm(service), count=30)
        assert len(service.started()) == 2


def test_an_interrupted_build_trains_on_the_rows_it_collected(tmp_path: Path) -> None:
    """A teacher that answers otherwise the second time would make it another job."""
    answers = iter(range(10**6))

    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        return reply(label=f"answer {next(answers)}")

    def session() -> Any:
        stage = Stage("finetuned", dspy.BootstrapFinetune(metric=None))
        return Ladder(make_experiment(hosted_lm(service), stages=[stage]), tmp_path / "store", job_timeout=100)

    with serving(answer=answer, statuses=("running",)) as service:
        with pytest.raises(JobPendingError):
            session().build("finetuned")
        asked = len(service.asked)
        [job] = service.started()
        job.statuses = ["succeeded"]
        for path in (tmp_path / "store" / "responses").rglob("*.json"):
            path.unlink()
        built = session().build("finetuned")
        assert len(service.started()) == 1
        assert len(service.asked) == asked, "no trace was collected, and paid, again"
    assert built.record.bootstrap.kept == 16


def test_rebuild_asks_for_a_new_job_once(tmp_path: Path) -> None:
    rebuild = {"rebuild": ["finetuned"], "job_timeout": 100}
    with serving() as service:
        first = build(tmp_path / "store", hosted_lm(service))
        service.statuses = ("running",)
        with pytest.raises(JobPendingError):
            build(tmp_path / "store", hosted_lm(service), ladder=rebuild)
        assert len(service.started()) == 2
        service.started()[1].statuses = ["succeeded"]
        # The same command again goes on with the job it asked for; once that is used, it asks for another.
        second = build(tmp_path / "store", hosted_lm(service), ladder=rebuild)
        assert len(service.started()) == 2
        service.statuses = ("succeeded",)
        third = build(tmp_path / "store", hosted_lm(service), ladder=rebuild)
        assert len(service.started()) == 3
        assert len({first.record.lm, second.record.lm, third.record.lm}) == 3
        loaded = build(tmp_path / "store", hosted_lm(service))
        assert loaded.record.lm == third.record.lm
        assert loaded.record.status == "loaded"


def test_a_service_that_lists_no_jobs_is_used_but_never_asked_twice(tmp_path: Path) -> None:
    with serving(lists_jobs=False) as service:
        build(tmp_path / "store", hosted_lm(service))
        assert len(service.started()) == 1
    lost = [Fault("drop")]

    def faults(call: Any) -> Fault | None:
        return lost.pop() if call.starts_a_job and lost else None

    with serving(lists_jobs=False, faults=faults) as service:
        for _ in range(2):
            with pytest.raises(HostedError, match=r"lists no jobs.*look there.*--dspy-rebuild=finetuned asks again"):
                build(tmp_path / "other", hosted_lm(service))
        assert len(service.started()) == 1


def test_of_two_jobs_ordered_at_once_the_first_is_kept(tmp_path: Path) -> None:
    """Two machines without a common store, at the same moment."""
    with serving(statuses=("running", "succeeded")) as service:

        def faults(call: Any) -> Fault | None:
            if call.starts_a_job and not service.started():
                service.faults = lambda call: None
                build(tmp_path / "other", hosted_lm(service), ladder={"job_timeout": 300})
            return None

        service.faults = faults
        built = build(tmp_path / "store", hosted_lm(service))
        first, second = service.started()
        assert built.record.training[0].job == first.id
        assert second.shown["status"] == "cancelled"


# --- checked before --------------------------------------------------------------------------------------------------


def test_without_a_key_nothing_is_spent_and_the_variable_is_named(tmp_path: Path) -> None:
    with serving() as service:
        lm = hosted_lm(service, api_key=None)
        stage = Stage("finetuned", dspy.BootstrapFinetune(metric=right))
        with pytest.raises(BuildError, match=r"stage 'finetuned': no key for http://127.*OPENAI_API_KEY"):
            Ladder(make_experiment(lm, stages=[stage]), tmp_path / "store").build("finetuned")
        assert not service.calls


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 2}, "unknown training setting 'epochs'.*n_epochs"),
        ({"n_epochs": 0}, "n_epochs=0"),
        ({"n_epochs": 1.5}, "n_epochs=1.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"learning_rate_multiplier": -1}, "learning_rate_multiplier=-1"),
        ({"seed": "x"}, "seed='x'"),
        ({"validation_fraction": 0.9}, "validation_fraction=0.9"),
    ],
)
def test_wrong_settings_are_found_before_anything_is_asked(tmp_path: Path, settings: Any, words: str) -> None:
    with serving() as service:
        stage = Stage("finetuned", dspy.BootstrapFinetune(metric=right, train_kwargs=settings))
        with pytest.raises(BuildError, match=words):
            Ladder(make_experiment(hosted_lm(service), stages=[stage]), tmp_path / "store").build("finetuned")
        assert not service.calls


def order(rows: Any = None, model: str = "gpt-4o-mini", **settings: Any) -> Any:
    rows = rows if rows is not None else [row("hello", "world")] * 20
    return make_order(
        rows,
        Settings.from_kwargs(settings),
        model=model,
        address="x",
        stage_key="k",
        experiment="e",
        stage="s",
        seed=0,
    )


def row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def access(address: str = "http://127.0.0.1:1/v1", model: str = "openai/gpt-4o-mini") -> Any:
    from pytest_dspy_ft.finetune.hosted.clients import access_of

    return access_of(dspy.LM(model, api_base=address, api_key="k"))


TODAY = datetime.date(2026, 11, 24)


def test_an_estimate_is_tokens_times_epochs_times_price() -> None:
    count, counted = counter("gpt-4o-mini")
    assert counted, "litellm brings the tokenizer's table along"
    each = 2 * 4 + count("hello") + count("world")
    estimate = check_order(order(n_epochs=3), access(), today=TODAY, price=3.0)
    assert estimate.tokens == 20 * each
    assert estimate.trained_tokens == 60 * each
    assert estimate.cost == pytest.approx(60 * each * 3.0 / 1e6)
    assert check_order(order(), access(), today=TODAY, price=None).cost is None


@pytest.mark.parametrize(("rows", "epochs"), [(10, 10), (20, 5), (40, 3), (9_000, 2), (30_000, 1)])
def test_epochs_left_to_the_service_are_estimated_by_its_rule(rows: int, epochs: int) -> None:
    assert Settings().epochs(rows) == epochs


def test_too_long_a_row_is_named() -> None:
    rows = [row("hello", "world")] * 14 + [row("word " * 70_000, "end")]
    with pytest.raises(BuildError, match=r"1 of 15 training rows are longer than the 65,536.*row 15: about 70,0"):
        check_order(order(rows), access(), today=TODAY, price=None)
    check_order(order(rows, model="a-model-of-ones-own"), access(), today=TODAY, price=None)


def test_too_few_rows() -> None:
    with pytest.raises(BuildError, match="9 training rows, and the API takes no fewer than 10"):
        check_order(order([row("a", "b")] * 9), access(), today=TODAY, price=None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"prompt": "a"}, "must be {'messages'"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "a role, one of"),
        ({"messages": [{"role": "user", "content": "a"}]}, "last message must be the assistant's"),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}, "the user message has no content"),
        (row("a", ""), "nothing to learn"),
    ],
)
def test_rows_in_another_format_are_refused(wrong: Any, words: str) -> None:
    assert words in str(row_problem(wrong))
    with pytest.raises(BuildError, match="training row 11 is not what the API takes"):
        check_order(order([row("a", "b")] * 10 + [wrong]), access(), today=TODAY, price=None)


@pytest.mark.parametrize(
    ("day", "address", "shut"),
    [
        (datetime.date(2027, 1, 5), "https://api.openai.com/v1", False),
        (datetime.date(2027, 1, 6), "https://api.openai.com/v1", True),
        (datetime.date(2027, 1, 6), "http://127.0.0.1:1/v1", False),
        (datetime.date(2027, 1, 6), "https://api.openai.com.example.org/v1", False),
    ],
)
def test_a_vendor_that_has_closed_is_known(day: datetime.date, address: str, shut: bool) -> None:
    lm = dspy.LM("openai/gpt-4.1", api_base=address, api_key="k")
    provider = HostedProvider(today=lambda: day)
    if shut:
        with pytest.raises(HostedError, match=r"since 2027-01-06 OpenAI takes no new.*known on 2026.*--dspy-lm=local"):
            provider.check(lm, {})
        with pytest.raises(BuildError, match="since 2027-01-06"):
            check_order(order(), access(address), today=day, price=None)
        provider.check(lm, {}, started=True)  # a job that was started before can still be fetched
    else:
        provider.check(lm, {})
        check_order(order(), access(address), today=day, price=None)


def test_a_model_that_soon_stops_answering_is_warned_of() -> None:
    from pytest_dspy_ft.finetune.hosted.vendors import closing_soon

    official = access("https://api.openai.com/v1")
    assert "2027-01-14, in 51 days, fine-tunes of gpt-4o" in str(
        closing_soon("gpt-4o-mini-2024-07-18", official, TODAY)
    )
    assert closing_soon("gpt-3.5-turbo", official, TODAY) is None
    assert closing_soon("gpt-4o-mini", access(), TODAY) is None
    assert issubclass(ClosingWarning, UserWarning)


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
