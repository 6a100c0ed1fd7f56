"""Labels become the values that the program gives; ids stay those of the data, and what fits stays as it is."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any, Literal

import dspy
import pydantic
import pytest

from pytest_dspy_ft import Dataset, Experiment
from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.experiment.example_id import example_id
from pytest_dspy_ft.ladder.recipe import evaluation_key


class Kind(enum.Enum):
    BILLING = "billing"
    TECHNICAL = "technical"


class Item(pydantic.BaseModel):
    name: str
    price: float = 0.0


def program(kind: Any) -> Any:
    return dspy.Predict(dspy.Signature({"text": (str, dspy.InputField()), "label": (kind, dspy.OutputField())}))


def data(*labels: Any) -> Dataset:
    return Dataset(dev=[dspy.Example(text=str(n), label=label).with_inputs("text") for n, label in enumerate(labels)])


def declared(kind: Any, dataset: Dataset) -> Experiment:
    return Experiment("typed", program=program(kind), dataset=dataset, metric=lambda a, b: True, lm=dspy.LM("toy/x"))


@pytest.mark.parametrize(
    ("kind", "label", "value"),
    [
        (Kind, "billing", Kind.BILLING),
        (Kind, "TECHNICAL", Kind.TECHNICAL),
        (Item, {"name": "x"}, Item(name="x")),
        (list[Item], [{"name": "x"}], [Item(name="x")]),
        (int, "3", 3),
        (bool, "true", True),
        (Literal[1, 2], "2", 2),
        (float, "1.5", 1.5),
        (list[int], "[1, 2]", [1, 2]),
        (Kind | None, None, None),
    ],
)
def test_a_label_becomes_the_value_that_the_program_gives(kind: Any, label: Any, value: Any) -> None:
    dataset = data(label)
    experiment = declared(kind, dataset)
    [example] = experiment.dataset.dev
    assert example.label == value
    assert type(example.label) is type(value)
    assert example_id(example) == dataset.ids("dev")[0] == experiment.dataset.ids("dev")[0]
    assert dataset.dev[0].label == label


@pytest.mark.parametrize(
    ("kind", "label"),
    [(str, 42), (str | None, 5), (Kind, Kind.BILLING), (float, 5), (Literal["a"], "a"), (Item, Item(name="x"))],
)
def test_a_label_that_fits_changes_nothing(kind: Any, label: Any) -> None:
    dataset = data(label)
    assert declared(kind, dataset).dataset is dataset


def test_scores_of_typed_labels_are_others_than_those_of_the_text() -> None:
    dataset = data("billing")
    typed, plain = declared(Kind, dataset), declared(Kind, dataset)
    plain.dataset = dataset
    assert evaluation_key(typed, {}, "dev") != evaluation_key(plain, {}, "dev")


def test_a_label_that_cannot_be_is_named_with_its_row(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    rows = [{"text": str(n), "label": "biling" if n > 7 else "billing"} for n in range(10)]
    file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    with pytest.raises(DatasetError) as caught:
        declared(Kind, Dataset.from_file(file, inputs=["text"]))
    message = str(caught.value)
    assert "a.json:34 (row 9): the label 'label' is \"biling\"" in message
    assert "did you mean 'billing'?" in message
    assert "2 labels cannot be" in message
