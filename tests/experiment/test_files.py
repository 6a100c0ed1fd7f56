"""Files of rows: every format, and every complaint with file, line and row."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from pytest_dspy_ft.errors import DatasetError, MissingDependencyError
from pytest_dspy_ft.experiment.dataset import Dataset
from pytest_dspy_ft.experiment.example_id import describe
from tests.experiment.tickets import WHOLE, examples, refusal, rows

JSON = json.dumps(rows(10), indent=1)
FORMATS = {
    "list.json": JSON,
    "data.json": f'{{"version": [1, {{"data": []}}],\r\n "data": {JSON}, "note": "x"}}',
    "bom.json": b"\xef\xbb\xbf" + JSON.encode(),
    "lines.jsonl": "\r\n".join(map(json.dumps, rows(10))) + "\n\n",
    "table.csv": "text,category\r\n" + "".join(f"{row['text']},{row['category']}\r\n" for row in rows(10)),
    "table.tsv": "text\tcategory\r\n" + "".join(f"{row['text']}\t{row['category']}\r\n" for row in rows(10)),
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
        "a.txt: unknown suffix '.txt': it must be one of (.json, .jsonl, .csv, .tsv, .parquet)"
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
            'a.json:3:20: broken JSON: Expecting \',\' delimiter; a comma or a closing bracket is missing '
            'before this place\n       "category": "x" "n": 1}\n                       ^',
        ),
        ("a.json", '{"text": 1}\n{"text": 2}', "a.json:2:1: broken JSON: Extra data; one object per line is "
         "JSON Lines: name such a file .jsonl; in .json, put [ ] around the objects\n    {\"text\": 2}\n    ^"),
        ("a.json", '[{"text": "a\tb"}]', "a.json:1:13: broken JSON: Invalid control character at; a "
         'line break or a tab inside a string is written \\n or \\t\n    [{"text": "a b"}]\n                ^'),
        ("a.jsonl", '{"text": 1, "n": 2}\n\n{"text": None}\n', "a.jsonl:3:10: broken JSON: Expecting value; a "
         "value is missing here: is there a comma after the last one, or None or True, which JSON writes null and true?"
         '\n    {"text": None}\n             ^'),
        ("a.jsonl", "[\n{}]", "a.jsonl:1:2: broken JSON: Expecting value; in .jsonl each line is one object: "
         "name a file that is one list .json\n    [\n     ^"),
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
    message = refusal(file("a.json", deep))  # Python 3.13 writes deeper JSON than it copies
    assert "field 'n' cannot be" in message
    assert "it is nested too deeply" in message


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
    assert refusal(file("a.csv", "text;category\na;b\n")).endswith("; columns are separated by commas, in .tsv by tabs")


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


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
def test_long_fields_and_nul_are_read_whole(file, name, mark):
    before = csv.field_size_limit()
    documents = ["word " * 60_000 + str(n) for n in range(10)]
    rows = "".join(f"{document}{mark}x\0y\n" for document in documents)
    dataset = Dataset.from_file(file(name, f"text{mark}category\n{rows}"), inputs=["text"])
    assert [e.text for e in dataset.train] == documents[:8]
    assert {e.category for e in dataset.train} == {"x\0y"}
    assert csv.field_size_limit() == before  # others' limit is theirs


def test_rows_of_tsv_that_do_not_fit(file):
    message = refusal(file("a.tsv", "text\tcategory\na\tb\tc\n"))
    assert message.startswith("a.tsv:2: 3 values for 2 columns (text, category): a value that holds a tab")
    assert refusal(file("a.tsv", "text,category\na,b\n")).endswith("; columns are separated by commas, in .tsv by tabs")
    assert refusal(file("a.tsv", 'text\tcategory\na\t"b\n')).startswith("a.tsv:2: not valid TSV in the row that begins")
