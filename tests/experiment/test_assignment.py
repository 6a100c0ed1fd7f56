"""Which split each example goes to: by hash, by a column, in groups, in equal shares of each label."""

from __future__ import annotations

import csv
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft import Dataset
from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.experiment.split_sizes import grouped_places, stratified_places
from pytest_dspy_ft.records.base import SPLITS
from tests.experiment.tickets import examples, refusal, rows

SHARES = [(0.8, 0.1, 0.1), (0.7, 0.2, 0.1), (0.34, 0.33, 0.33)]


def sides(dataset: Dataset) -> dict[str, str]:
    """The split of every text."""
    return {e.text: split for split in SPLITS for e in dataset.split(split)}


def refused(given: Any, **arguments: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        Dataset.from_examples(given, **arguments)
    return str(caught.value)


def write(path: Path, table: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


# --- By hash ---------------------------------------------------------------------------------------------------------


def test_a_growing_file_moves_nothing(tmp_path: Path) -> None:
    table = rows(500)
    before = sides(Dataset.from_file(write(tmp_path / "a.csv", table), inputs=["text"], assign="hash"))
    grown = [*rows(1000)[500:], *table[30:]]
    random.Random(1).shuffle(grown)
    for row in grown:
        row.update(category="mended", source="a column that was added")
    after = sides(Dataset.from_file(write(tmp_path / "b.csv", grown), inputs=["text"], assign="hash"))
    kept = before.keys() & after.keys()
    assert len(kept) == 470
    assert [text for text in kept if before[text] != after[text]] == []
    sizes = Counter(after.values())
    assert all(abs(sizes[split] - share * 970) < 40 for split, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True))


def test_places_are_the_same_in_every_version() -> None:
    dataset = Dataset.from_examples(examples(60), assign="hash")
    assert [e.text for e in dataset.test] == TEST_OF_60
    assert [e.text for e in Dataset.from_examples(examples(60), assign="hash", seed=3).test] == TEST_OF_60_SEED_3


TEST_OF_60 = [f"ticket {n}" for n in (5, 8, 14, 15, 30, 38, 45)]
TEST_OF_60_SEED_3 = [f"ticket {n}" for n in (0, 5, 27, 40, 52, 54, 58)]


def test_equal_inputs_have_one_side_whatever_else_they_hold() -> None:
    twice = [e.copy(category=f"label {n}") for n in range(3) for e in examples(200)]
    dataset = Dataset.from_examples(twice, assign="hash")
    assert sum(dataset.sizes.values()) == 600
    assert sides(dataset) == sides(Dataset.from_examples(examples(200), assign="hash"))


def test_larger_held_out_shares_take_from_train_only() -> None:
    small = sides(Dataset.from_examples(examples(500), assign="hash", split=(0.9, 0.05, 0.05)))
    large = sides(Dataset.from_examples(examples(500), assign="hash", split=(0.75, 0.2, 0.05)))
    assert {(small[text], large[text]) for text in small if small[text] != large[text]} == {("train", "dev")}


def test_a_split_that_no_hash_falls_into() -> None:
    message = refused(examples(4), assign="hash")
    assert message.startswith("dataset: assign='hash' with split=(0.8, 0.1, 0.1) leaves ")
    assert "With 66 different inputs that happens once in a thousand times" in message
    assert Dataset.from_examples(examples(12), assign="hash", split=(0.5, 0.5, 0)).sizes["test"] == 0


def test_a_limit_moves_nothing_by_hash() -> None:
    whole = sides(Dataset.from_examples(examples(500), assign="hash"))
    part = sides(Dataset.from_examples(examples(500), assign="hash", limit=200))
    assert len(part) == 200
    assert part.items() <= whole.items()


# --- Groups ----------------------------------------------------------------------------------------------------------


def customers(n: int, groups: int) -> list[Any]:
    return [e.copy(customer=f"c{random.Random(i).randrange(groups)}") for i, e in enumerate(examples(n))]


@pytest.mark.parametrize("by", ["customer", lambda e: int(e.customer[1:])])
@pytest.mark.parametrize("how", [{}, {"seed": 4}, {"assign": "hash"}])
def test_a_group_goes_into_one_split(how: dict[str, Any], by: str | Callable[[Any], Any]) -> None:
    dataset = Dataset.from_examples(customers(600, 80), group_by=by, **how)
    where = defaultdict(set)
    for split in SPLITS:
        for e in dataset.split(split):
            where[e.customer].add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert sum(dataset.sizes.values()) == 600
    assert abs(dataset.sizes["train"] - 480) < 60


def test_a_group_stays_by_hash_when_it_grows() -> None:
    before = Dataset.from_examples(customers(300, 60), group_by="customer", assign="hash")
    after = Dataset.from_examples(customers(600, 60), group_by="customer", assign="hash")
    assert sides(before).items() <= sides(after).items()


@pytest.mark.parametrize("shares", SHARES)
def test_groups_of_any_size_fill_every_split(shares: tuple[float, ...]) -> None:
    exact = [Fraction(str(share)) for share in shares]
    for seed in range(100):
        draw = random.Random(seed)
        table = [(i, str(draw.randrange(draw.randint(3, 40)))) for i in range(draw.randint(20, 200))]
        groups = Counter(group for _, group in table)
        if len(groups) < 3:
            continue
        sizes = Counter(grouped_places(table, exact).values())
        assert len(sizes) == 3
        for split, share in zip(SPLITS, exact, strict=True):
            assert abs(sizes[split] - len(table) * share) <= 2 * max(groups.values())


def test_fewer_groups_than_splits() -> None:
    assert refused(customers(50, 2), group_by="customer") == (
        "dataset: split=(0.8, 0.1, 0.1) of n=50 leaves test empty: there are fewer groups than splits, and group_by= "
        "never divides one; or give test a share of 0 to do without it"
    )


@pytest.mark.parametrize(
    ("changes", "by", "message"),
    [
        (
            {"customer": None},
            "customer",
            "examples[3]: group_by='customer' is empty here: fill it in, or give a function",
        ),
        ({"customer": " "}, "customer", "examples[3]: group_by='customer' is empty here"),
        (
            {},
            "custommer",
            "examples[0]: group_by='custommer' names none of its fields (text, category, customer); did ",
        ),
        ({}, lambda e: e.nothing, "examples[0]: group_by=<lambda> raised AttributeError: "),
        ({}, lambda e: object(), "examples[0]: group_by=<lambda> gives a value of type object, which is no data"),
        ({}, 3, "group_by=3 must be the name of a field or a function of an example"),
    ],
)
def test_groups_that_cannot_be_read(changes: dict[str, Any], by: Any, message: str) -> None:
    given = customers(40, 10)
    given[3] = given[3].copy(**changes)
    assert refused(given, group_by=by).startswith(message)


def test_a_function_gets_a_copy() -> None:
    def spoil(e: Any) -> Any:
        e.category = "spoilt"
        return e.customer

    dataset = Dataset.from_examples(customers(60, 20), group_by=spoil)
    assert {e.category for e in dataset.train} == {"billing", "other"}


# --- Labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [*SHARES, (0.9, 0, 0.1)])
def test_every_label_has_each_splits_share(shares: tuple[float, ...]) -> None:
    exact = [Fraction(str(share)) for share in shares]
    for seed in range(50):
        draw = random.Random(seed)
        labels = draw.choice([1, 2, 7, 30])
        table = [(i, str(int(labels * draw.random() ** 2))) for i in range(draw.randint(3, 200))]
        places = stratified_places(table, exact)
        for split, share in zip(SPLITS, exact, strict=True):
            assert abs(sum(place == split for place in places.values()) - len(table) * share) < 1
            for label, size in Counter(label for _, label in table).items():
                here = sum(places[row] == split for row, other in table if other == label)
                assert abs(here - size * share) < 1


@pytest.mark.parametrize("seed", [None, 5])
def test_a_sorted_file_is_stratified(seed: int | None) -> None:
    given = sorted(examples(100), key=lambda e: e.category)
    dataset = Dataset.from_examples(given, stratify="category", seed=seed)
    assert dataset.sizes == {"train": 80, "dev": 10, "test": 10}
    for split, each in (("train", 40), ("dev", 5), ("test", 5)):
        assert Counter(e.category for e in dataset.split(split)) == {"billing": each, "other": each}


# --- As a column says ------------------------------------------------------------------------------------------------


def test_a_column_says_where(file: Callable[..., Path]) -> None:
    lines = ["train,a,1", "Validation ,b,1", "valid,c,1", "val,d,2", "dev,e,1", "TEST,f,1", "train,g,3"]
    path = file("a.csv", "part,text,label\n" + "\n".join(lines))
    dataset = Dataset.from_file(path, inputs=["text"], assign="column:part")
    assert {s: [e.text for e in dataset.split(s)] for s in SPLITS} == {
        "train": ["a", "g"],
        "dev": [*"bcde"],
        "test": ["f"],
    }
    assert dataset.train[0].toDict() == {"text": "a", "label": "1"}


def test_a_column_of_ready_examples() -> None:
    given = [e.copy(part=SPLITS[i % 3]) for i, e in enumerate(examples(9))]
    dataset = Dataset.from_examples(given, assign="column:part")
    assert dataset.sizes == {"train": 3, "dev": 3, "test": 3}
    assert not any("part" in e.keys() for e in dataset.dev)  # noqa: SIM118
    assert "part" in given[0].keys()  # noqa: SIM118 - the user's own are left alone
    wrong = [e.with_inputs("text", "part") for e in given]
    assert refused(wrong, assign="column:part") == "examples[0]: assign='column:part' names one of its inputs"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("tset", "part=\"tset\" names no split; did you mean 'test'?"),
        ("eval", 'part="eval" names no split; it may mean dev or test.'),
        ("7", 'part="7" names no split.'),
        (" ", "the column 'part' is empty."),
        ("", "the column 'part' is empty."),
    ],
)
def test_values_that_name_no_split(file: Callable[..., Path], value: str, said: str) -> None:
    path = file("a.csv", f"part,text,label\ntrain,a,1\n{value},b,1\ndev,c,1\n{value},d,2\n")
    assert refusal(path, split=(0.8, 0.1, 0.1), assign="column:part") == (
        f"a.csv:3 (row 2): {said} It must be train, dev (also validation, valid, val) or test (2 rows name none; this "
        "is the first)"
    )


def test_a_column_of_another_kind(file: Callable[..., Path]) -> None:
    path = file("a.json", '[{"text": "a", "label": 1, "part": "train"},\n {"text": "b", "label": 1}]')
    assert refusal(path, split=(0.8, 0.1, 0.1), assign="column:part").startswith(
        "a.json:2 (row 2): the column 'part' is"
    )
    assert "part=[1] names no split. It must be" in refused(
        [e.copy(part=[1]) for e in examples(2)], assign="column:part"
    )
    assert refusal(path, split=(0.8, 0.1, 0.1), assign="column:prat") == (
        "a.json:1 (row 1): assign='column:prat': no row has a column 'prat'; there are (text, label, part); did you "
        "mean 'part'?"
    )


def test_a_column_that_divides_a_group(file: Callable[..., Path]) -> None:
    path = file("a.csv", "part,who,text,label\ntrain,x,a,1\ndev,y,b,1\ntest,x,c,1\n")
    assert refusal(path, split=(0.8, 0.1, 0.1), assign="column:part", group_by="who") == (
        'the column puts one group of group_by= into two splits, "x":\n  train: a.csv:2 (row 1)\n'
        "  test: a.csv:4 (row 3)\nPut all of a group into one split."
    )


# --- What cannot be together -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"assign": "column:part", "split": (0.5, 0.25, 0.25)}, ["split=", "assign='column:part'"]),
        ({"assign": "column:part", "seed": 0}, ["seed=", "assign='column:part'"]),
        ({"assign": "column:part", "stratify": "category"}, ["stratify=", "assign='column:part'"]),
        ({"assign": "hash", "stratify": "category"}, ["stratify=", "assign='hash'"]),
        ({"group_by": "customer", "stratify": "category"}, ["group_by=", "stratify="]),
        ({"assign": "hsah"}, ["assign='hsah'", "did you mean 'hash'?"]),
        ({"assign": "column"}, ["assign='column'", 'write assign="column:NAME"']),
        ({"assign": "column:"}, ["assign='column:'", 'write assign="column:NAME"']),
        ({"assign": None}, ["assign=None", "(order, hash, column:NAME)"]),
    ],
)
def test_contradictions_name_both_options(arguments: dict[str, Any], names: list[str]) -> None:
    message = refused(customers(40, 10), **arguments)
    assert all(name in message for name in names), message


def test_the_program_is_not_given_its_split(file: Callable[..., Path]) -> None:
    path = file("a.csv", "part,text,label\ntrain,a,1\n")
    message = refusal(path, split=(0.8, 0.1, 0.1), assign="column:part", inputs=["text", "part"])
    assert message == "assign='column:part' and inputs=['text', 'part']: the program is not given its split"


def test_order_is_as_it_was() -> None:
    plain = Dataset.from_examples(examples(100), seed=7)
    assert plain.fingerprint() == Dataset.from_examples(examples(100), seed=7, assign="order").fingerprint()
    assert plain.fingerprint("train") == "4da16edd58fde0de"
