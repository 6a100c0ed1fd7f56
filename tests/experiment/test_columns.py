"""Tables as pandas and spreadsheets write them: mended with a word, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dspy_ft import Dataset
from pytest_dspy_ft.errors import DatasetError, DatasetWarning
from pytest_dspy_ft.experiment.columns import Columns
from tests.experiment.tickets import WHOLE, refusal

File = Callable[[str, str | bytes], Path]


def read(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of a file, and what was said of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = Dataset.from_file(path, inputs=["text"], split=WHOLE)
    assert all(warning.category is DatasetWarning for warning in caught)
    return [e.toDict() for e in dataset.train], [str(warning.message) for warning in caught]


PLAIN = [{"text": "a", "label": "1"}, {"text": "b", "label": "2"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (",text,label\n0,a,1\n1,b,2\n", "left out the index that stands first without a name, column 1"),
        ("Unnamed: 0,text,label\n0,a,1\n1,b,2\n", "left out the index that stands first without a name, column 1 'Un"),
        ("Unnamed: 0.1,Unnamed: 0,text,label\n0,0,a,1\n1,1,b,2\n", "left out the index that stands first without a "
         "name, column 1 'Unnamed: 0.1', column 2 'Unnamed: 0'"),
        ("text, label\na,1\nb,2\n", "read ' label' as 'label'"),
        ("text,label,\na,1,\nb,2,\n", "left out what has neither name nor values, column 3"),
        ("text,label,Unnamed: 2\na,1,\nb,2, \n", "left out what has neither name nor values, column 3 'Unnamed: 2'"),
        ("text,label\na,1\n,\nb,2\n,\n\n", "left out 2 rows in which nothing stands (line 3, 5)"),
        ("\ufefftext,label\na,1\nb,2\n", ""),
        ("\ufeff text,label\na,1\nb,2\n", "read ' text' as 'text'"),
        ("sep=;\r\ntext;label\r\na;1\r\nb;2\r\n", ""),
        ("text,label\ra,1\rb,2\r", ""),
    ],
)  # fmt: skip
def test_what_was_meant_is_read_and_said(file: File, content: str, said: str) -> None:
    rows, words = read(file("a.csv", content))
    assert rows == PLAIN
    assert [word.startswith(f"a.csv: {said}") for word in words] == [True] * bool(said)


def test_all_of_it_is_said_at_once(file: File) -> None:
    _, words = read(file("a.csv", ",text , label\n0,a,1\n,,\n1,b,2\n2,, \n"))
    assert words == [
        "a.csv: left out the index that stands first without a name, column 1; read 'text ' as 'text', ' label' as "
        "'label'; left out 2 rows in which nothing stands (line 3, 5)"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label, label\na,1,2\n", "a.csv:1: column names must be there and differ: (text, label,  label)"),
        ("text,,label\na,x,1\n", "a.csv:1: column names must be there and differ: (text, , label): column 2 has none, "
         "and a value in line 2"),
        ("sep=;\ntext;label\na;1;2\n", "a.csv:3: 3 values for 2 columns (text, label)"),
    ],
)  # fmt: skip
def test_what_may_mean_two_things_is_refused(file: File, content: str, message: str) -> None:
    assert refusal(file("a.csv", content)).startswith(message)


def test_a_filled_column_keeps_the_name_that_pandas_gave_it(file: File) -> None:
    rows, words = read(file("a.csv", "text,label,Unnamed: 2\na,1,\nb,2,x\n"))
    assert rows == [{**PLAIN[0], "Unnamed: 2": ""}, {**PLAIN[1], "Unnamed: 2": "x"}]
    assert words == []


@pytest.mark.filterwarnings("ignore::pytest_dspy_ft.errors.DatasetWarning")
def test_lines_are_those_of_the_file(file: File) -> None:
    path = file("a.csv", "text,label\na,1\n,\nb,2\na,1\n")
    message = refusal(path, split=(0.4, 0.3, 0.3))
    assert "train: a.csv:2 (row 1)" in message
    assert "test: a.csv:5 (row 3)" in message


def test_an_index_that_arrow_kept() -> None:
    columns = Columns(["__index_level_0__", "text", "label"], "a.parquet")
    rows = [columns.row([n, "a", n], n) for n in range(2)]
    assert rows == [{"text": "a", "label": 0}, {"text": "a", "label": 1}]
    assert columns.row([None, None, None], 3) is None


def test_rows_that_ask_nothing(file: File) -> None:
    _, words = read(file("a.csv", "text,label\na,1\n ,2\nb,2\n,3\n"))
    assert words == ["a.csv: 2 rows with nothing in (text): a.csv:3 (row 2)"]
    path = file("a.json", '[{"text": "a", "label": 1},\n{"text": null, "label": 1}]')
    assert refusal(path) == "a.json:2 (row 2): there is nothing to ask: (text) is null; take the row out"


def test_warnings_that_are_errors_refuse(file: File) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DatasetWarning, match=r"read ' label' as 'label'"):
            Dataset.from_file(file("a.csv", "text, label\na,1\n"), inputs=["text"], split=WHOLE)
    assert not issubclass(DatasetWarning, DatasetError)
