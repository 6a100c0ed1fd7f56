"""Labels that cannot be right: examples without one, and splits that differ far beyond chance."""

from __future__ import annotations

import random
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment
from pytest_dspy_ft.experiment.label_checks import empty_labels, missing_labels, one_sided_labels
from tests.scripted import experiment, scripted_lm

LM = scripted_lm(lambda fields, request: "")


def labelled(labels: list[Any], **more: Any) -> list[Any]:
    fields = {name: value for name, value in more.items() if callable(value)}
    return [
        dspy.Example(text=str(n), label=label, **{name: make(n) for name, make in fields.items()}).with_inputs("text")
        for n, label in enumerate(labels)
    ]


def declared(dataset: Dataset, signature: str = "text -> label") -> Experiment:
    return experiment(dspy.Predict(signature), LM, dataset=dataset)


def said(labels: list[Any], **arguments: Any) -> str:
    return "\n".join(one_sided_labels(declared(Dataset.from_examples(labelled(labels), **arguments))))


@pytest.mark.parametrize(("n", "kinds"), [(30, 3), (40, 2), (100, 2), (100, 5), (200, 10)])
def test_a_file_sorted_by_its_label_is_said(n: int, kinds: int) -> None:
    labels = [str(i % kinds) for i in range(n)]
    message = said(sorted(labels))
    assert message.startswith("dataset 'dataset': the examples stand sorted by 'label': ")
    assert message.endswith(
        "shuffle first with seed=0, or give every split its share of each label with stratify='label'"
    )
    assert said(labels) == said(sorted(labels), seed=0) == said(sorted(labels), stratify="label") == ""
    assert said(sorted(labels), assign="hash", split=(0.5, 0.25, 0.25)) == ""


def test_a_label_that_came_late_is_said() -> None:
    labels = [random.Random(n).choice("ab" if n < 160 else "abccc") for n in range(200)]
    assert said(labels).startswith(
        "dataset 'dataset': the splits are one-sided in 'label': \"c\" is 0 of 160 in train and "
    )


def test_chance_is_no_finding() -> None:
    for seed in range(150):
        draw = random.Random(seed)
        kinds = draw.choice([2, 5, 10])
        assert said([int(kinds * draw.random() ** 2) for _ in range(draw.choice([40, 100, 300]))]) == ""


def test_what_is_no_label_is_not_looked_at() -> None:
    assert said([str(n) for n in range(100)]) == ""  # free text
    assert said([0.5 * (n > 80) for n in range(100)]) == ""  # amounts
    given = labelled(["a", "b"] * 50, month=lambda n: n // 20)
    assert one_sided_labels(declared(Dataset.from_examples(given))) == []  # the program gives `label`
    unknown = declared(Dataset.from_examples(given), "text -> answer")
    assert "'month'" in one_sided_labels(unknown)[0]
    by_month = Dataset.from_examples(given, group_by="month")
    assert one_sided_labels(declared(by_month, "text -> answer")) == []


def test_the_remedy_is_that_of_the_way_it_was_split() -> None:
    labels = ["a"] * 80 + ["b"] * 20
    given = labelled(labels)
    ready = declared(Dataset(train=given[:80], dev=given[80:]))
    assert one_sided_labels(ready)[0].endswith(
        "split anew, so that all splits are alike: Dataset.from_examples(..., seed=0)"
    )
    groups = labelled(labels, who=lambda n: n // 10)
    assert "its groups differ" in one_sided_labels(declared(Dataset.from_examples(groups, group_by="who")))[0]


def test_examples_without_any_label_are_counted() -> None:
    dataset = Dataset.from_examples(labelled(["a", "b", "", None, "a", " ", *"abababababababababab", None, None, None]))
    assert missing_labels(declared(dataset)) == (
        "experiment 'scripted': 4 of 29 examples have no label, label missing or null: examples[3], examples[26], "
        "examples[27], .... Fill it in or take them out; where nothing is an answer, let the signature say so: "
        "`label: str | None`"
    )
    assert empty_labels(declared(dataset)).startswith(
        "experiment 'scripted': 2 of 29 examples have no label, label empty: examples[2], examples[5]. Fill it in"
    )


class Maybe(dspy.Signature):
    """Say what it is about, if anything."""

    text: str = dspy.InputField()
    label: str | None = dspy.OutputField()


def test_where_nothing_is_an_answer_or_nobody_knows_any_all_is_well() -> None:
    some = Dataset.from_examples(labelled(["a", None] * 10))
    assert missing_labels(experiment(dspy.Predict(Maybe), LM, dataset=some)) == ""
    blank = Dataset.from_examples(labelled(["a", ""] * 10))
    assert empty_labels(experiment(dspy.Predict(Maybe), LM, dataset=blank)) == ""
    none = Dataset.from_examples(labelled([None] * 20, note=lambda n: n))
    assert missing_labels(declared(none)) == ""
    elsewhere = Dataset.from_examples(labelled(["a"] * 20, reason=lambda n: "" if n % 2 else "so"))
    assert empty_labels(declared(elsewhere, "text -> label, reason")) == ""  # each has a label at least


def test_labels_that_are_missing_name_their_lines(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f'{{"text": "{n}", "label": "x"}}' for n in range(20)]
    rows[4] = '{"text": "4", "note": 1}'
    (tmp_path / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
    message = missing_labels(declared(Dataset.from_file("a.jsonl", inputs=["text"])))
    assert message.startswith(
        "experiment 'scripted': 1 of 20 examples have no label, label missing or null: a.jsonl:5 "
    )
