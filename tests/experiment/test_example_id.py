"""Ids of examples: what they depend on, and that they never change."""

from __future__ import annotations

import datetime
import decimal
import enum

import dspy
import numpy as np
import pydantic
import pytest

from pytest_dspy_ft.experiment.dataset import Dataset
from pytest_dspy_ft.experiment.example_id import describe, example_id, inputs_id
from tests.experiment.tickets import example, examples


def test_ids_are_the_same_for_ever():
    assert example_id(example(text="I was charged twice", category="billing")) == "3ee0a85989f74660"
    assert inputs_id({"text": "I was charged twice"}) == "84a276f5545c8059"
    assert example_id(example(text="東京 \ud800", tags={"b", "a"}, n=1.0)) == "174f71d6a7ffcbc8"
    assert Dataset.from_examples(examples(10)).fingerprint() == "8658c1328a1ea732"


def test_what_an_id_depends_on():
    one = example(text="a", n=1)
    assert example_id(dspy.Example(n=1, text="a", dspy_uuid="random").with_inputs("text")) == example_id(one)
    others = [
        example(text="b", n=1),
        example(text="a", n=2),
        example(text="a", n="1"),
        example(text="a", n=1.0),
        example(text="a", n=True),
        example(("text", "n"), text="a", n=1),
        example(("n",), text="a", n=1),
    ]
    assert len({example_id(e) for e in [one, *others]}) == 8
    same, other = describe(example(text="a", n=2))["inputs"], describe(example(text="b", n=1))["inputs"]
    assert inputs_id(same) == inputs_id(describe(one)["inputs"]) != inputs_id(other)


class Colour(enum.Enum):
    RED = "red"


class Point(pydantic.BaseModel):
    x: float
    day: datetime.date


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Point(x=1, day=datetime.date(2026, 1, 2)), {"x": 1.0, "day": "2026-01-02"}),
        ({"c", "a", "b"}, ["a", "b", "c"]),
        (frozenset({2, 1}), [1, 2]),
        ((1, (2,)), [1, [2]]),
        (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),
        (datetime.timedelta(minutes=1), 60.0),
        (b"\x00\xff", "AP8="),
        (decimal.Decimal("1.10"), "1.10"),
        (Colour.RED, "red"),
        ({1: Colour.RED, Colour.RED: 2}, {"1": "red", "red": 2}),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array([[1, 2]]), [[1, 2]]),
        (dspy.Example(a=1), {"a": 1}),
    ],
)  # fmt: skip
def test_values_become_plain_data(value, plain):
    found = describe(example(text="t", value=value))
    assert found == {"inputs": {"text": "t"}, "expected": {"value": plain}}
    assert type(found["expected"]["value"]) is type(plain)
    assert example_id(example(text="t", value=value)) == example_id(example(text="t", value=plain))
