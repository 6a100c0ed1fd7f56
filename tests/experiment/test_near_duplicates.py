"""The search for near-duplicates: against comparing every pair, and against what people would call the same."""

from __future__ import annotations

import itertools

import dspy
import numpy as np
import pytest

from pytest_dspy_ft import Dataset
from pytest_dspy_ft.experiment.near_duplicates import member_sets, near_duplicates, words
from pytest_dspy_ft.experiment.similar_pairs import similar_pairs


def members(text: str) -> set[object]:
    found = words(text)
    return {*found, *itertools.pairwise(found)}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_finds_exactly_what_comparing_every_pair_finds(threshold: float) -> None:
    generator = np.random.default_rng(7)
    texts = [
        " ".join(f"w{word}" for word in np.minimum(generator.zipf(1.3, generator.integers(1, 14)), 30))
        for _ in range(300)
    ]
    groups = generator.integers(0, 3, len(texts)).tolist()
    expected = {}
    for first in range(len(texts)):
        for second in range(first + 1, len(texts)):
            a, b = members(texts[first]), members(texts[second])
            if groups[first] != groups[second] and len(a & b) / len(a | b) >= threshold - 1e-9:
                expected[first, second] = len(a & b) / len(a | b)
    found = list(similar_pairs(member_sets(texts), groups, threshold))
    assert len(found) == len(expected) > 3
    assert {tuple(sorted(pair[:2])): pair[2] for pair in found} == pytest.approx(expected)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_rows_of_one_template_are_told_apart_by_what_they_share_beside_it(
    threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a member has many owners, they are told apart by the next ones: nothing is lost on the way."""
    monkeypatch.setattr("pytest_dspy_ft.experiment.similar_pairs._CHEAP", 0.01)
    generator = np.random.default_rng(3)
    texts = ["yes", "no", "yes", "no", "no"]
    for number in range(600):
        words_drawn = " ".join(f"w{word}" for word in generator.integers(0, 4, generator.integers(1, 4)))
        texts.append(f"dear team my order {number % 40} is late please send it soon {words_drawn}")
    groups = generator.integers(0, 3, len(texts)).tolist()
    sets = member_sets(texts)
    expected = {
        (first, second) if groups[first] < groups[second] else (second, first)
        for first, second in itertools.combinations(range(len(texts)), 2)
        if groups[first] != groups[second] and jaccard(sets[first], sets[second]) >= threshold - 1e-9
    }
    found = [pair[:2] for pair in similar_pairs(sets, groups, threshold)]
    assert set(found) == expected
    assert len(found) == len(expected) > 100


def jaccard(one: list[int], other: list[int]) -> float:
    return len({*one} & {*other}) / len({*one} | {*other})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Where is my refund?", "where is my  refund", True),
        ("ＲＥＦＵＮＤ now", "refund now", True),
        ("cafe\u0301 au lait", "café au lait", True),
        ("请告诉我怎样取消我的订单好吗", "请告诉我怎样取消我的订单好吧", True),
        ("请告诉我怎样取消我的订单好吗", "为什么我的包裹还没有送到这里", False),
        ("请告诉我怎样取消我的订单好吗", "请告诉我怎样取消我的订单好吗。", True),
        ("!!!", "???", False),
        ("2", "3", False),
    ],
)
def test_what_counts_as_the_same(one: str, other: str, same: bool) -> None:
    dataset = Dataset(train=[example(one)], test=[example(other)])
    assert bool(near_duplicates(dataset).pairs) == same


def test_nothing_to_compare() -> None:
    assert not near_duplicates(Dataset(dev=[example("same words"), example("Same words!")])).pairs
    with pytest.raises(ValueError, match="between 0 and 1"):
        near_duplicates(Dataset(dev=[example("a")]), 0)


def test_hostile_text_cannot_drive_the_terminal() -> None:
    dataset = Dataset(train=[example("red \x1b[31m alert")], test=[example("Red \x1b[31m alert")])
    assert "\x1b" not in near_duplicates(dataset).describe(dataset)


def example(text: str) -> dspy.Example:
    return dspy.Example(text=text, label="x").with_inputs("text")
