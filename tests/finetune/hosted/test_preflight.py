"""What is checked before a job is asked for: key, settings, rows, cost, and that the vendor still takes jobs."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import BuildError, HostedError
from pytest_dspy_ft.finetune.hosted.job_request import make_request
from pytest_dspy_ft.finetune.hosted.journal import Journal, TrainingJobContext
from pytest_dspy_ft.finetune.hosted.openai_api.access import access_of
from pytest_dspy_ft.finetune.hosted.openai_api.lifetimes import known_limits
from pytest_dspy_ft.finetune.hosted.openai_api.settings import OpenAISettings
from pytest_dspy_ft.finetune.hosted.preflight import check_request, row_problem, token_counter
from pytest_dspy_ft.finetune.hosted.provider import ClosingWarning, HostedProvider
from tests.finetune.hosted.server import serving
from tests.finetune.hosted.world import hosted_lm, make_experiment, right


def test_without_a_key_nothing_is_spent_and_the_variable_is_named(tmp_path: Path) -> None:
    with serving() as service:
        lm = hosted_lm(service, api_key=None)
        stage = Stage("finetuned", dspy.BootstrapFinetune(metric=right))
        with pytest.raises(BuildError, match=r"stage 'finetuned': training .*no key for http://127.*OPENAI_API_KEY"):
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


def job_request(rows: Any = None, model: str = "gpt-4o-mini", **settings: Any) -> Any:
    rows = rows if rows is not None else [row("hello", "world")] * 20
    context = TrainingJobContext("e", "s", "k", Journal(Path("jobs"), "session"))
    return make_request(rows, OpenAISettings.from_kwargs(settings), model=model, address="x", context=context)


def row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def limits(address: str = "http://127.0.0.1:1/v1", model: str = "gpt-4o-mini", day: datetime.date | None = None) -> Any:
    access = access_of(dspy.LM("openai/gpt-4o-mini", api_base=address, api_key="k"))
    return known_limits(model, access, day or TODAY)


TODAY = datetime.date(2026, 11, 24)


def test_an_estimate_is_tokens_times_epochs_times_price() -> None:
    count = token_counter("gpt-4o-mini")
    assert count(" tokenization") <= 2, "litellm brings the tokenizer's table along"
    each = 2 * 4 + count("hello") + count("world")
    estimate = check_request(job_request(n_epochs=3), limits(), price=3.0)
    assert estimate.tokens == 20 * each
    assert estimate.trained_tokens == 60 * each
    assert estimate.cost == pytest.approx(60 * each * 3.0 / 1e6)
    assert check_request(job_request(), limits(), price=None).cost is None


@pytest.mark.parametrize(("rows", "epochs"), [(10, 10), (20, 5), (40, 3), (9_000, 2), (30_000, 1)])
def test_epochs_left_to_the_service_are_estimated_by_its_rule(rows: int, epochs: int) -> None:
    assert OpenAISettings().epochs(rows) == epochs


def test_too_long_a_row_is_named() -> None:
    rows = [row("hello", "world")] * 14 + [row("word " * 70_000, "end")]
    with pytest.raises(BuildError, match=r"1 of 15 training rows are longer than the 65,536.*row 15: about 70,0"):
        check_request(job_request(rows), limits(), price=None)
    check_request(job_request(rows, model="a-model-of-ones-own"), limits(model="a-model-of-ones-own"), price=None)


def test_too_few_rows() -> None:
    with pytest.raises(BuildError, match="9 training rows, and the API takes no fewer than 10"):
        check_request(job_request([row("a", "b")] * 9), limits(), price=None)


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
        check_request(job_request([row("a", "b")] * 10 + [wrong]), limits(), price=None)


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
            check_request(job_request(), limits(address, day=day), price=None)
        provider.check(lm, {}, started=True)  # a job that was started before can still be fetched
    else:
        provider.check(lm, {})
        check_request(job_request(), limits(address, day=day), price=None)


def test_a_model_that_soon_stops_answering_is_warned_of() -> None:
    official = "https://api.openai.com/v1"
    soon = limits(official, "gpt-4o-mini-2024-07-18").closing_soon
    assert "2027-01-14, in 51 days, fine-tunes of gpt-4o" in str(soon)
    assert "since 2026-10-23 fine-tunes of gpt-4.1-nano" in str(limits(official, "gpt-3.5-turbo").closed)
    assert limits(official, "a-model-of-tomorrow").closing_soon is None
    assert limits().closing_soon is None
    assert issubclass(ClosingWarning, UserWarning)
