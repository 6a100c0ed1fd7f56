"""Datasets: splitting, ready examples, and no leakage."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction

import dspy
import pytest

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.experiment.dataset import Dataset
from pytest_dspy_ft.experiment.example_id import example_id
from pytest_dspy_ft.experiment.split_sizes import split_sizes
from tests.experiment.tickets import WHOLE, example, examples, refusal, rows

# --- Splitting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 99, 100, 101, 1000, 1003, 100_000])
@pytest.mark.parametrize(
    "split", [(0.8, 0.1, 0.1), (0.7, 0.2, 0.1), (0.6, 0.3, 0.1), (0.34, 0.33, 0.33), (1 / 3,) * 3, (0.9, 0, 0.1), WHOLE]
)
def test_sizes_are_exact(n, split):
    shares = [Fraction(str(share)) for share in split]
    sizes = split_sizes(n, [share / sum(shares) for share in shares])
    assert sum(sizes) == n
    for size, share in zip(sizes, split, strict=True):
        assert abs(size - n * share) < 1
        assert size == 0 or share > 0
        assert abs(n * share - round(n * share)) > 1e-6 or size == round(n * share)


def test_a_thousand_rows():
    assert Dataset.from_examples(examples(1000)).sizes == {"train": 800, "dev": 100, "test": 100}


def test_order_shuffle_and_limit():
    all_of_them = examples(100)
    kept = Dataset.from_examples(all_of_them)
    assert kept.train + kept.dev + kept.test == all_of_them

    one, two, other = (Dataset.from_examples(all_of_them, seed=seed) for seed in (7, 7, 8))
    assert one.fingerprint() == two.fingerprint()
    assert len({one.fingerprint(), other.fingerprint(), kept.fingerprint()}) == 3
    assert one.test[0].text == "ticket 74"  # random.Random(7), on every platform

    assert Dataset.from_examples(all_of_them, limit=20).split("dev") == all_of_them[16:18]
    few = Dataset.from_examples(all_of_them, seed=7, limit=20)
    assert few.sizes == {"train": 16, "dev": 2, "test": 2}
    assert few.train == one.train[:16]
    assert Dataset.from_examples(all_of_them, limit=1000).sizes == kept.sizes


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ((0.8, 0.1, 0.2), "split=(0.8, 0.1, 0.2) sums to 1.1, not to 1; did you mean (0.7, 0.1, 0.2)?"),
        ((80, 10, 10), "split=(80, 10, 10) sums to 100, not to 1; did you mean (0.8, 0.1, 0.1)?"),
        ((0.5, 0.1, 0.1), "split=(0.5, 0.1, 0.1) sums to 0.7, not to 1; did you mean (0.8, 0.1, 0.1)?"),
        ((0.8, 0.2), "split=(0.8, 0.2) must be three shares of at least 0"),
        ((1.2, -0.1, -0.1), "split=(1.2, -0.1, -0.1) must be three shares of at least 0"),
        ((float("nan"), 0.5, 0.5), "split=(nan, 0.5, 0.5) must be three shares of at least 0"),
        (0.8, "split=0.8 must be three shares of at least 0"),
    ],
)
def test_bad_shares(split, message):
    with pytest.raises(DatasetError) as caught:
        Dataset.from_examples(examples(100), split=split)
    assert str(caught.value).startswith(message)


def test_a_share_that_gets_no_row(file):
    assert refusal(file("a.json", json.dumps(rows(5))), split=(0.8, 0.1, 0.1)) == (
        "a.json: split=(0.8, 0.1, 0.1) of n=5 leaves test empty: n=10 is enough; or give test a larger share, or a "
        "share of 0 to do without it"
    )
    assert Dataset.from_examples(examples(10)).sizes == {"train": 8, "dev": 1, "test": 1}


def test_bad_limits():
    with pytest.raises(DatasetError, match="limit=0 leaves no rows"):
        Dataset.from_examples(examples(10), limit=0)
    with pytest.raises(DatasetError, match="a limit of 0 leaves no examples"):
        Dataset.from_examples(examples(10)).limited(0)


def test_limited():
    dataset = Dataset.from_examples(examples(100))
    small = dataset.limited(20)
    assert small.sizes == {"train": 20, "dev": 10, "test": 10}
    assert small.train == dataset.train[:20]
    assert small.fingerprint("dev") == dataset.fingerprint("dev")
    assert small.fingerprint() != dataset.fingerprint()
    assert dataset.sizes["train"] == 80


def test_splits_handed_out_are_copies():
    dataset = Dataset.from_examples(examples(100))
    before = dataset.fingerprint()
    dataset.train.reverse()
    dataset.split("dev").clear()
    dataset.dev[0].category = "changed"
    assert dataset.fingerprint() == before
    assert dataset.train[0].text == "ticket 0"
    assert dataset.sizes == {"train": 80, "dev": 10, "test": 10}


def test_no_such_split():
    for use in (Dataset.split, Dataset.ids, Dataset.fingerprint):
        with pytest.raises(DatasetError, match=r"there is no split 'valid'; choose one of \(train, dev, test\)"):
            use(Dataset(dev=examples(1)), "valid")


# --- Ready examples --------------------------------------------------------------------------------------------------


def test_ready_splits():
    dataset = Dataset(train=examples(3), test=iter([example(text="t")]))
    assert dataset.sizes == {"train": 3, "dev": 0, "test": 1}
    assert dataset.ids("train") == [example_id(e) for e in examples(3)]
    assert (dataset.name, dataset.path) == ("dataset", None)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({}, "dataset: no examples: at least one of train, dev and test must hold some"),
        (
            {"dev": [dspy.Example(text="a", n=1)]},
            "dev[0]: its inputs are not set: add .with_inputs(...) with some of its fields (text, n)",
        ),
        ({"dev": [dspy.Prediction(text="a")]}, "dev[0]: its inputs are not set: "),
        ({"test": [*examples(1), {"text": 1}]}, "test[1]: dict is not a dspy.Example: write dspy.Example(**row)."),
        (
            {"train": [example(("txt",), text="a")]},
            "train[0]: its input 'txt' is not among its fields (text); did you mean 'text'?",
        ),
        (
            {"train": [example(text="a", n={"x": [object()]})]},
            "train[0]: field 'n' cannot be told apart by its content: builtins.object is not data.",
        ),
    ],
)
def test_bad_examples(splits, message):
    with pytest.raises(DatasetError) as caught:
        Dataset(**splits)
    assert str(caught.value).startswith(message)


# --- Leakage ---------------------------------------------------------------------------------------------------------


def test_the_same_example_in_two_splits(file):
    content = [*rows(9), rows(1)[0]]
    path = file("a.json", json.dumps(content, indent=1))
    assert refusal(path, split=(0.8, 0.1, 0.1)) == (
        "the same example is in two splits, train and test, so that a score would reward remembering it; keep only one "
        "of them, or put both into the same split:\n"
        '  {"text": "ticket 0"}\n'
        '  train: a.json:2 (row 1): {"category": "other"}\n'
        '  test: a.json:38 (row 10): {"category": "other"}'
    )
    shuffled = refusal(path, split=(0.5, 0.2, 0.3), seed=1)
    assert "a.json:2 (row 1)" in shuffled
    assert "a.json:38 (row 10)" in shuffled


def test_the_same_inputs_with_different_labels_in_two_splits():
    long = "x" * 1000
    with pytest.raises(DatasetError) as caught:
        Dataset(train=[*examples(5), example(text=long, n=1)], dev=[example(text=long, n=2)], test=examples(3))
    message = str(caught.value)
    assert message.startswith("the same inputs, with different labels, are in two splits, train and dev, ")
    assert 'train: train[5]: {"n": 1}\n  dev: dev[0]: {"n": 2}' in message
    assert "(4 examples repeat inputs of another split; this is the first):" in message
    assert max(map(len, message.splitlines()[1:])) < 140


def test_rows_beyond_the_limit_do_not_leak():
    leaking = [*examples(10), *examples(1)]
    assert Dataset.from_examples(leaking, limit=10).sizes == {"train": 8, "dev": 1, "test": 1}
    with pytest.raises(DatasetError, match=r"train: examples\[0\]: .*\n  test: examples\[10\]: "):
        Dataset.from_examples(leaking)


def test_copies_within_one_split_are_counted():
    twice = [*examples(3), *examples(2), example(text="ticket 0", category="another label")]
    assert Dataset(train=twice, dev=[example(text="d")]).duplicates == {"train": 2, "dev": 0, "test": 0}


# --- Weight ----------------------------------------------------------------------------------------------------------


def test_importing_is_light():
    heavy = ("dspy", "numpy", "pyarrow")
    code = f"import sys, pytest_dspy_ft.experiment.dataset; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
