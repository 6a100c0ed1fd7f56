"""Copies of fields: nothing that is done to one reaches the original, and what is one object stays one."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from pytest_dspy_ft.experiment.copies import copy_example, copy_fields, copy_value


class Named(list[str]):
    name = "of its own type"


FLAT = [["a", "b"], {"a": 1, "b": None}, [], {}, [1.5, True, b"x"]]
DEEP = [[["a"]], {"a": ["b"]}, ({"a": 1},), {("a", "b"): {"c"}}, Named("ab"), [{"a": [1]}, ("x", ["y"])]]


@pytest.mark.parametrize("value", FLAT + DEEP, ids=repr)
def test_a_copy_is_equal_and_another(value: Any) -> None:
    (copied,) = copy_fields({"field": value}).values()
    assert copied == value
    assert type(copied) is type(value)
    assert copied is not value


@pytest.mark.parametrize("value", ["text", 1, None, ("a", 1), (), 2.5], ids=repr)
def test_what_cannot_change_is_shared(value: Any) -> None:
    assert copy_fields({"field": value})["field"] is value


@pytest.mark.parametrize("value", DEEP[:4], ids=repr)
def test_what_stands_inside_is_copied_too(value: Any) -> None:
    def changeable(thing: Any) -> list[int]:
        parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple)) else ()
        own = [id(thing)] if isinstance(thing, (list, dict, set)) else []
        return own + [found for part in parts for found in changeable(part)]

    assert not {*changeable(value)} & {*changeable(copy_fields({"field": value})["field"])}


def test_what_is_one_object_is_one_in_the_copy() -> None:
    shared = ["a"]
    copied = copy_fields({"one": shared, "two": shared, "within": [shared]})
    assert copied["one"] is copied["two"] is copied["within"][0]
    assert copied["one"] is not shared
    example = copy_example(dspy.Example(one=shared, two={"x": shared}).with_inputs("one"))
    assert example.one is example.two["x"]


def test_a_copied_prediction_has_completions_of_its_own() -> None:
    prediction = dspy.Prediction.from_completions([{"label": ["a"]}], signature=dspy.Signature("text -> label"))
    copied = copy_value(prediction)
    copied.label.append("b")
    copied.completions.label.append("c")
    assert prediction.label == ["a"]
    assert prediction.completions.label == [["a"]]
    assert copied.completions.label[0] == ["a", "b"], "the field and its completion are one list, as they were"
