"""What a token costs: who wins, which names are understood, and which lines are not."""

from __future__ import annotations

import math

import pytest

from pytest_dspy_ft.errors import PriceError
from pytest_dspy_ft.lms.prices import _TABLE, Price, Prices, _from_litellm, price_of


def price(model: str) -> Price:
    found = price_of(model)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["openai/gpt-4o", "gpt-4o", "openai/gpt-4o-2024-08-06"])
def test_a_hosted_model_by_its_names(name: str) -> None:
    found = price(name)
    assert (found.input, found.output, found.cached, found.training) == (2.50, 10.00, 1.25, 25.00)


def test_a_dated_model_with_a_price_of_its_own() -> None:
    assert (price("openai/gpt-4o-2024-05-13").input, price("openai/gpt-4o-2024-05-13").output) == (5.00, 15.00)


@pytest.mark.parametrize(
    "name",
    [
        "openai/ft:gpt-4o-mini-2024-07-18:acme:tickets:9abc",
        "ft:gpt-4o-mini-2024-07-18:acme::9abc",
        "openai/ft:gpt-4o-mini-2031-01-01:acme::9abc",  # newer than any price list
    ],
)
def test_a_fine_tuned_model_costs_what_fine_tuned_ones_do(name: str) -> None:
    found = price(name)
    assert (found.input, found.output, found.training) == (0.30, 1.20, 3.00)


def test_litellm_wins_over_the_table_and_the_source_is_named() -> None:
    assert price("openai/gpt-4o").source.startswith("litellm ")
    assert "table of" in price("openai/gpt-4o-2031-01-01").source


def test_the_table_is_what_litellm_lists() -> None:
    """The table was copied, not made up; where litellm's list has moved on, so should the table."""
    dates = {"ft:gpt-4o": "-2024-08-06", "ft:gpt-4o-mini": "-2024-07-18", "ft:o4-mini": "-2025-04-16"}
    for name, (input_price, output, cached, _) in _TABLE.items():
        dated = name + (dates.get(name, "-2025-04-14") if name.startswith("ft:") else "")
        listed = _from_litellm("gemini" if name.startswith("gemini") else "", dated)
        assert listed is not None, name
        assert (listed.input, listed.output, listed.cached) == (input_price, output, cached), name


@pytest.mark.parametrize("name", ["toy/scripted", "openai/my-own-model", "azure/gpt-4o-2031-01-01", "nonsense"])
def test_what_nobody_knows_is_none(name: str) -> None:
    assert price_of(name) is None


def test_a_model_on_this_machine_is_free_unless_the_user_says_otherwise() -> None:
    assert price("local:smollm2-135m").cost(1000, 1000) == 0.0
    own = Prices.from_lines(["local:* = 0.02 0.04"])
    found = own.of("local:smollm2-135m+abc")
    assert found is not None
    assert found.cost(1_000_000, 500_000) == pytest.approx(0.04)


def test_the_users_line_wins_and_the_first_that_fits_counts() -> None:
    own = Prices.from_lines(
        ["", "# ours", "openai/gpt-4o = 2 8 cached=0.5 training=20  # by contract", "openai/* = 1 1"]
    )
    contract = own.of("openai/gpt-4o")
    assert contract == Price(2.0, 8.0, cached=0.5, training=20.0, source="dspy_prices")
    assert own.of("openai/gpt-4o-mini") == Price(1.0, 1.0, source="dspy_prices")
    assert own.own("anthropic/claude-haiku-4-5") is None
    assert own.of("anthropic/claude-haiku-4-5") == price_of("anthropic/claude-haiku-4-5")


def test_cost_of_tokens() -> None:
    found = Price(2.0, 8.0, cached=0.5)
    assert found.cost(1_000_000, 250_000) == 4.0
    assert found.cost(1_000_000, 0, cached_tokens=500_000) == 1.25
    assert Price(2.0, 8.0).cost(1_000_000, 0, cached_tokens=500_000) == 2.0
    assert Price(2.0, 8.0).training_cost(10) is None
    assert math.isclose(Price(2.0, 8.0, training=3.0).training_cost(2_000_000) or 0.0, 6.0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("openai/gpt-4o", "is not a price"),
        ("openai/gpt-4o = 2.50", "is not a price"),
        ("= 2.50 10", "is not a price"),
        ("openai/gpt-4o = 1 2 3", "is not a price"),
        ("openai/gpt-4o = 2.50 cheap", "'cheap' is not a price"),
        ("openai/gpt-4o = -1 2", "'-1' is not a price"),
        ("openai/gpt-4o = 1 nan", "'nan' is not a price"),
        ("openai/gpt-4o = 1 2 chached=1", "'chached=1' is not understood"),
        ("openai/gpt-4o = 1 2 cached=x", "'cached=x' is not a price"),
    ],
)
def test_a_line_that_makes_no_sense_is_shown(line: str, said: str) -> None:
    with pytest.raises(PriceError) as caught:
        Prices.from_lines(["a/b = 1 1", line])
    assert repr(line) in str(caught.value)
    assert said in str(caught.value)


def test_two_lines_for_one_model() -> None:
    with pytest.raises(PriceError, match="a line for 'a/b' already"):
        Prices.from_lines(["a/b = 1 1", "a/b = 2 2"])
