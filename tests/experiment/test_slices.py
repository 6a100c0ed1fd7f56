"""Which slice an example is in: by a field or by a function, whatever the values are."""

from __future__ import annotations

import datetime
import enum
from typing import Any

import dspy
import numpy as np
import pytest

from pytest_dspy_ft import Dataset, Experiment
from pytest_dspy_ft.errors import ExperimentError
from pytest_dspy_ft.experiment.slices import check_labels, label_fields, label_of, labels_by, source_of
from tests.scripted import reply, scripted_lm


class Tier(enum.Enum):
    FREE = "free"
    PAID = 2.5


class Level(enum.IntEnum):
    LOW = 1


def declared(rows: list[dict[str, Any]], **slices: Any) -> Experiment:
    examples = [dspy.Example(text=f"text {n}", **row).with_inputs("text") for n, row in enumerate(rows)]
    return Experiment(
        "sliced",
        program=dspy.Predict("text -> label"),
        dataset=Dataset(train=[], dev=examples, test=[]),
        metric=lambda example, prediction, trace=None: True,
        lm=scripted_lm(lambda inputs, request: reply(label="a")),
        slices=slices,
    )


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("a b", "a b"),
        ("", "(empty)"),
        ("  ", "(empty)"),
        ("a\x1b[31m", "a\\u001b[31m"),
        (None, "(none)"),
        (float("nan"), "(none)"),
        (True, "True"),
        (3, "3"),
        (3.0, "3"),
        (0.1 + 0.2, "0.3"),
        (Tier.FREE, "free"),
        (Tier.PAID, "PAID"),
        (Level.LOW, "1"),
        (np.int64(7), "7"),
        (np.bool_(False), "False"),
        (datetime.date(2026, 11, 30), "2026-11-30"),
    ],
)
def test_labels(value: object, label: str) -> None:
    assert label_of(value) == label


@pytest.mark.parametrize("value", [[1], {"a": 1}, (1,), {1}, object(), b"a"])
def test_what_is_no_label(value: object) -> None:
    with pytest.raises(TypeError, match="is no label: give text"):
        label_of(value)


def test_a_field_that_some_examples_lack() -> None:
    experiment = declared([{"kind": "a"}, {"kind": None}, {}, {"kind": "b"}])
    assert list(labels_by(experiment, "kind", "dev").values()) == ["a", "(none)", "(none)", "b"]


def test_functions_get_copies_and_are_asked_once() -> None:
    asked = []

    def spoil(example: Any) -> str:
        asked.append(example.text)
        kind = "few" if len(example.tags) < 2 else "many"
        example.tags.clear()
        example.text = "spoilt"
        return kind

    experiment = declared([{"tags": ["a"]}, {"tags": ["a", "b"]}], tags_=spoil)
    for _ in range(2):
        assert list(labels_by(experiment, "tags_", "dev").values()) == ["few", "many"]
    assert len(asked) == 2
    assert [example.tags for example in experiment.dataset.dev] == [["a"], ["a", "b"]]
    assert source_of(experiment, "tags_") == "function"


def test_copies_of_an_example_are_one() -> None:
    row = dspy.Example(text="same", kind="a").with_inputs("text")
    experiment = declared([{"kind": "a"}])
    experiment.dataset = Dataset(train=[], dev=[row, row.copy(), row.copy()], test=[])
    assert list(labels_by(experiment, "kind", "dev").values()) == ["a"]


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ({"length": "text"}, "slice 'length' must be a function of an example, not str"),
        ({"kind": len}, "slice 'kind' has the name of a field of the examples"),
        ({"text": len}, "slice 'text' has the name of a field of the examples"),
    ],
)
def test_declarations_are_checked(slices: Any, said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        declared([{"kind": "a"}], **slices)


def test_many_different_values_are_refused_and_many_rows_of_few_are_not() -> None:
    scores = [{"score": n / 7, "stars": float(n % 5)} for n in range(40)]
    experiment = declared(scores)
    check_labels(experiment, "stars", "dev")
    assert set(labels_by(experiment, "stars", "dev").values()) == {"0", "1", "2", "3", "4"}
    with pytest.raises(ExperimentError, match="by='score' makes no slices: 40 of 40 examples have a value that no"):
        check_labels(experiment, "score", "dev")


def test_a_field_of_other_splits_makes_no_slices_of_this_one() -> None:
    experiment = declared([{}, {}])
    train = [dspy.Example(text=f"t{n}", kind="ab"[n % 2]).with_inputs("text") for n in range(8)]
    experiment.dataset = Dataset(train=train, dev=experiment.dataset.dev)
    assert label_fields(experiment) == ["kind"]
    assert set(labels_by(experiment, "kind", "dev").values()) == {"(none)"}
    with pytest.raises(ExperimentError, match="by='kind' makes no slices: no example of 'dev' has a value of it"):
        check_labels(experiment, "kind", "dev")


def test_label_fields_are_those_with_few_values() -> None:
    rows = [{"kind": "ab"[n % 2], "answer": f"answer {n}", "tags": ["a"], "one": 1, "many": n % 25} for n in range(60)]
    assert label_fields(declared(rows)) == ["kind"]
    assert label_fields(declared([{"answer": text} for text in "abc"])) == []
    assert source_of(declared(rows), "kind") == "label"
    assert source_of(declared(rows), "text") == "input"
