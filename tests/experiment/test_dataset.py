from __future__ import annotations

import datetime
import decimal
import enum
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pydantic
import pytest

from pytest_dspy_ft.errors import DatasetError, MissingDependencyError
from pytest_dspy_ft.experiment.dataset import Dataset
from pytest_dspy_ft.experiment.example_id import describe, example_id, inputs_id
from pytest_dspy_ft.experiment.splits import split_sizes

WHOLE = (1, 0, 0)


def rows(n: int) -> list[dict[str, str]]:
    return [{"text": f"ticket {i}", "category": "billing" if i % 2 else "other"} for i in range(n)]


def example(inputs: tuple[str, ...] = ("text",), **fields: Any) -> dspy.Example:
    return dspy.Example(**fields).with_inputs(*inputs)


def examples(n: int) -> list[dspy.Example]:
    return [example(**row) for row in rows(n)]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a file and gives its name, with the file's folder as the current one, so that messages are short."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, content: str | bytes) -> Path:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return Path(name)

    return write


def refusal(path: Path | str, **arguments: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        Dataset.from_file(path, **{"inputs": ["text"], "split": WHOLE, **arguments})
    return str(caught.value)


# --- Formats ---------------------------------------------------------------------------------------------------------

JSON = json.dumps(rows(10), indent=1)
FORMATS = {
    "list.json": JSON,
    "data.json": f'{{"version": [1, {{"data": []}}],\r\n "data": {JSON}, "note": "x"}}',
    "bom.json": b"\xef\xbb\xbf" + JSON.encode(),
    "lines.jsonl": "\r\n".join(map(json.dumps, rows(10))) + "\n\n",
    "table.csv": "text,category\r\n" + "".join(f"{row['text']},{row['category']}\r\n" for row in rows(10)),
    "UPPER.CSV": b'\xef\xbb\xbf"text",category\n\n'
    + "".join(f'"{r["text"]}",{r["category"]}\n' for r in rows(10)).encode(),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_dataset(file, name):
    dataset = Dataset.from_file(file(name, FORMATS[name]), inputs=["text"])

    assert dataset.sizes == {"train": 8, "dev": 1, "test": 1}
    assert [e.toDict() for e in dataset.train + dataset.dev + dataset.test] == rows(10)
    assert dataset.dev[0].inputs().toDict() == {"text": "ticket 8"}
    assert dataset.fingerprint() == Dataset.from_examples(examples(10)).fingerprint()
    assert (dataset.name, dataset.path) == (Path(name).stem, Path(name))
    assert repr(dataset) == f"<Dataset '{Path(name).stem}': train 8 / dev 1 / test 1>"


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows(10)), tmp_path / "rows.parquet")
    dataset = Dataset.from_file(tmp_path / "rows.parquet", inputs=["text"])
    assert dataset.fingerprint() == Dataset.from_examples(examples(10)).fingerprint()

    parquet.write_table(arrow.Table.from_pylist([*rows(10), {"text": "ticket 0"}]), tmp_path / "leak.parquet")
    with pytest.raises(DatasetError, match=r"leak\.parquet \(row 1\): .*\n.*leak\.parquet \(row 11\): "):
        Dataset.from_file(tmp_path / "leak.parquet", inputs=["text"])
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(DatasetError, match=r"bad\.parquet: not a parquet file that can be read"):
        Dataset.from_file(tmp_path / "bad.parquet", inputs=["text"])


def test_parquet_without_pyarrow(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"^a\.parquet: .*pip install pyarrow$"):
        Dataset.from_file(file("a.parquet", "x"), inputs=["text"])


def test_values_stay_what_they_are(file):
    row = {"text": "naïve 東京 🎟 \u2028 end", "n": 1.5, "tags": ["a", {"b": None}], "ok": True}
    for name, content in {"a.json": f"[{json.dumps(row)}]", "a.jsonl": json.dumps(row, ensure_ascii=False)}.items():
        assert Dataset.from_file(file(name, content), inputs=["text"], split=WHOLE).train[0].toDict() == row
    table = file("a.csv", 'text,n\n"two\nlines, ""quoted""",01\n')
    assert Dataset.from_file(table, inputs=["text"], split=WHOLE).train[0].toDict() == {
        "text": 'two\nlines, "quoted"',
        "n": "01",
    }


def test_fields_may_be_called_like_methods_of_an_example(file):
    dataset = Dataset.from_file(file("a.json", '[{"base": "b", "items": [1]}]'), inputs=["base"], split=WHOLE)
    assert describe(dataset.train[0]) == {"inputs": {"base": "b"}, "expected": {"items": [1]}}


# --- What a file may not be ------------------------------------------------------------------------------------------


def test_no_such_file(file, tmp_path):
    file("tickets.json", JSON)
    assert refusal("ticket.json") == f"no such file: {tmp_path / 'ticket.json'}; did you mean 'tickets.json'?"
    assert refusal("x/y.json") == f"no such file: {tmp_path / 'x/y.json'} (of its folders, only {tmp_path} exists)"
    assert refusal(tmp_path) == f"{tmp_path} is a folder: name a file in it"


def test_unknown_suffix(file):
    assert refusal(file("a.txt", "x")) == (
        "a.txt: unknown suffix '.txt': it must be one of (.json, .jsonl, .csv, .parquet)"
    )


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_empty_file(file, name):
    assert refusal(file(name, b"\xef\xbb\xbf \n")) == f"{name}: the file is empty"


def test_no_rows(file):
    for name, content in {"a.json": "[]", "b.json": '{"data": []}', "a.csv": "text,category\n"}.items():
        assert refusal(file(name, content)) == f"{name}: there are no rows"


def test_not_utf8(file):
    assert refusal(file("a.json", b'[\n{"text": "caf\xe9"}]')) == (
        "a.json:2: byte 0xe9 is not UTF-8: save the file as UTF-8"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            '[\n  {"text": "a",\n   "category": "x" "n": 1}\n]',
            'a.json:3:20: broken JSON: Expecting \',\' delimiter\n       "category": "x" "n": 1}\n'
            "                       ^\na comma or a closing bracket is missing before this place",
        ),
        ("a.json", '{"text": 1}\n{"text": 2}', "a.json:2:1: broken JSON: Extra data\n    {\"text\": 2}\n    ^\n"
         "one object per line is JSON Lines: name such a file .jsonl; in .json, put [ ] around the objects"),
        ("a.json", '[{"text": "a\tb"}]', "a.json:1:13: broken JSON: Invalid control character at\n"
         '    [{"text": "a b"}]\n                ^\na line break or a tab inside a string is written \\n or \\t'),
        ("a.jsonl", '{"text": 1, "n": 2}\n\n{"text": None}\n', "a.jsonl:3:10: broken JSON: Expecting value\n"
         '    {"text": None}\n             ^\n'
         "a value is missing here: is there a comma after the last one, or None or True, which JSON writes null and "
         "true?"),
        ("a.jsonl", "[\n{}]", "a.jsonl:1:2: broken JSON: Expecting value\n    [\n     ^\n"
         "in .jsonl each line is one object: name a file that is one list .json"),
    ],
)  # fmt: skip
def test_broken_json(file, name, content, message):
    assert refusal(file(name, content)) == message


def test_broken_json_on_one_long_line_shows_the_place_only(file):
    message = refusal(file("a.json", f'[{{"text": "{"x" * 5000}" 1, "{"y" * 5000}": 0}}]'))
    assert message.startswith("a.json:1:5014: broken JSON: ")
    place, caret = message.splitlines()[1:3]
    assert len(place) < 100
    assert place[len(caret) - 1] == "1"


def test_json_that_python_refuses(file):
    assert refusal(file("a.json", "[" * 100_000)).startswith("a.json:1: JSON that cannot be read: ")
    deep = f'[{{"text": 1, "n": {"[" * 700}{"]" * 700}}}]'
    assert "field 'n' cannot be told apart by its content: it is nested too deeply" in refusal(file("a.json", deep))


def test_json_that_holds_no_rows(file):
    assert refusal(file("a.json", '{"rows": [], "n": 1}')) == (
        'a.json: must hold a list of objects, or {"data": [...]}; it holds an object with the keys (rows, n)'
    )
    assert (
        refusal(file("a.json", '"text"')) == 'a.json: must hold a list of objects, or {"data": [...]}; it holds "text"'
    )


MISSING = "(row 3): the input field 'text' is missing; the row has (txt, category); did you mean 'txt'?"


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.json", '[\n\n {"text": "[}",\n  "category": {"x": [1,\n 2]}}, {"text": "]\\"", "category": 2},\r\n '
         '{"txt": "c",\n  "category": 3}\n]', "a.json:6 "),
        ("a.json", '{"data": "no",\n "data":\n [{"text": 1, "category": 1}\n ,\n{"text": 2, "category": 1}, \n'
         '\n{"txt": 3, "category": 1}], "z": {}}', "a.json:7 "),
        ("a.jsonl", '{"text": 1, "category": 1}\n\n{"text": 2, "category": 1}\n\n\n{"txt": 3, "category": 1}',
         "a.jsonl:6 "),
    ],
)  # fmt: skip
def test_a_row_without_an_input_field(file, name, content, where):
    assert refusal(file(name, content)) == where + MISSING


def test_a_row_of_csv_without_an_input_field(file):
    assert refusal(file("a.csv", "txt,category\n1,2\n")) == (
        "a.csv:2 (row 1): the input field 'text' is missing; the row has (txt, category); did you mean 'txt'?"
    )
    assert refusal(file("a.csv", "text;category\na;b\n")).endswith("; columns are separated by commas")


def test_rows_of_csv_that_do_not_fit(file):
    assert refusal(file("a.csv", 'text,category\n"a\nb",1\n\nc\n')).startswith(
        "a.csv:5: 1 values for 2 columns (text, category): "
    )
    assert refusal(file("a.csv", "text,text\n")) == "a.csv:1: column names must be there and differ: (text, text)"
    assert refusal(file("a.csv", 'text,category\na,b\n"c,d\ne,f\n')) == (
        "a.csv:3: not valid CSV in the row that begins here: unexpected end of data"
    )


def test_a_row_that_is_no_object_or_has_no_label(file):
    assert refusal(file("a.json", "[\n3]")) == (
        'a.json:2 (row 1): a row must be an object such as {"text": ..., "label": ...}, not 3'
    )
    assert refusal(file("a.json", '[{"text": 1}]')) == (
        "a.json:1 (row 1): there is no label: every field is an input (text); a metric needs something to compare with"
    )


def test_inputs_are_a_list_of_fields(file):
    path = file("a.json", '[{"dspy_x": 1, "y": 2}]')
    assert refusal(path, inputs="text") == "inputs='text' must be a list of field names, such as inputs=['text']"
    assert refusal(path, inputs=[]) == "inputs=[] must be a list of field names, such as inputs=['text']"
    assert "DSPy hides fields that begin with dspy_" in refusal(path, inputs=["dspy_x"])


def test_messages_cannot_drive_the_terminal(file):
    message = refusal(file("a.json", json.dumps([{"\x1b[31m\u202e": 1, "a\nb": 2}])))
    assert message.endswith("the row has (\\u001b[31m\\u202e, a\\u000ab)")
    assert "\x1b" not in refusal(file("a.json", '[{"text": "\x1b[31m"}]'))


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


# --- Identity --------------------------------------------------------------------------------------------------------


def test_ids_are_the_same_for_ever():
    assert example_id(example(text="I was charged twice", category="billing")) == "3ee0a85989f74660"
    assert inputs_id(example(text="I was charged twice", category="billing")) == "84a276f5545c8059"
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
    assert inputs_id(example(text="a", n=2)) == inputs_id(one) != inputs_id(example(text="b", n=1))


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


# --- Leakage ---------------------------------------------------------------------------------------------------------


def test_the_same_example_in_two_splits(file):
    content = [*rows(9), rows(1)[0]]
    path = file("a.json", json.dumps(content, indent=1))
    assert refusal(path, split=(0.8, 0.1, 0.1)) == (
        "the same example is in two splits, train and test, so that a score would reward remembering it:\n"
        '  {"text": "ticket 0"}\n'
        '  train: a.json:2 (row 1): {"category": "other"}\n'
        '  test: a.json:38 (row 10): {"category": "other"}\n'
        "Keep only one of them, or put both into the same split."
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
    assert 'train: train[5]: {"n": 1}\n  dev: dev[0]: {"n": 2}\n' in message
    assert message.endswith("(4 examples repeat inputs of another split; this is the first.)")
    assert max(map(len, message.splitlines())) < 140


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
