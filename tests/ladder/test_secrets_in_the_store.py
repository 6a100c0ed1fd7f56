"""No secret gets into the store."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from tests.ladder.helpers import STORE, predict, right, scripted, writes
from tests.scripted import experiment

PLANTED = "sk-" + "planted-0123456789"
API_KEY = PLANTED


def judged_elsewhere(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(API_KEY) and right(example, prediction)


def leaks() -> list[str]:
    return [str(p) for p in STORE.rglob("*") if p.is_file() and PLANTED in p.read_text(encoding="utf-8")]


def build_on_openai(**settings: Any) -> None:
    lm = dspy.LM("openai/gpt-4o-mini", **settings)
    Ladder(experiment(predict(), lm, [Stage("prompted", writes("P"))]), STORE).build("prompted")


def test_the_store_holds_no_api_key() -> None:
    build_on_openai(api_key=PLANTED, headers={"Authorization": PLANTED})
    assert list(STORE.rglob("program.json"))
    assert leaks() == []


@pytest.mark.parametrize(
    "setting", [{"extra_headers": {"Authorization": PLANTED}}, {"extra_body": {"api_key": PLANTED}}]
)
def test_the_store_holds_no_secret_inside_an_lms_settings(
    setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", PLANTED)
    build_on_openai(**setting)
    assert leaks() == []


@pytest.mark.parametrize(
    "place", ["train settings of the LM", "train settings of the optimizer", "constant of a metric"]
)
def test_the_store_holds_no_secret_of_a_training(place: str) -> None:
    secret = {"hub_token": PLANTED}
    lm = scripted(train_kwargs=secret if "LM" in place else {})
    optimizer = dspy.BootstrapFinetune(
        metric=judged_elsewhere if "metric" in place else right, train_kwargs=secret if "optimizer" in place else None
    )
    Ladder(experiment(predict(), lm, [Stage("tuned", optimizer)]), STORE).evaluate("tuned")
    assert leaks() == []
