"""LMs by name, where no model has to be loaded for it."""

from __future__ import annotations

import dspy
import pytest

from pytest_dspy_ft.errors import LMError
from pytest_dspy_ft.lms.resolve import concurrency, is_local, resolve_lm
from tests.scripted import scripted_lm


def test_a_dspy_model_string() -> None:
    lm = resolve_lm(" openai/gpt-4o-mini ", temperature=0.5)
    assert isinstance(lm, dspy.LM)
    assert lm.model == "openai/gpt-4o-mini"
    assert lm.kwargs["temperature"] == 0.5
    assert not is_local(lm)


@pytest.mark.parametrize("name", ["", "gpt-4o", "openai/", "/gpt-4o"])
def test_a_name_without_provider_or_model(name: str) -> None:
    with pytest.raises(LMError, match=r"unknown LM .*'local'.*openai/gpt-4o-mini"):
        resolve_lm(name)


def test_a_provider_that_is_misspelt() -> None:
    with pytest.raises(LMError, match=r"no provider is called 'opnai'; did you mean .*openai/"):
        resolve_lm("opnai/gpt-4o")


def test_what_runs_in_this_process() -> None:
    assert is_local(scripted_lm(lambda f, r: "", model="local:toy"))
    assert not is_local(scripted_lm(lambda f, r: ""))
    assert not is_local(object())


def test_how_many_calls_at_once() -> None:
    lm = scripted_lm(lambda f, r: "")
    assert concurrency(lm) == 8
    lm.engine.preferred_concurrency = 64
    assert concurrency(lm) == 64
    assert concurrency(object(), default=3) == 3
