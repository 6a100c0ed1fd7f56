"""Files of rows: .json, .jsonl, .csv, .tsv and .parquet, read so that every complaint names the file, line and row.

Rows and lines of a file are counted from 1, as editors do.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import importlib
import io
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytest_dspy_ft.errors import DatasetError, MissingDependencyError
from pytest_dspy_ft.experiment.columns import Columns
from pytest_dspy_ft.text import did_you_mean, excerpt, listed


class Rows(NamedTuple):
    """The rows of a file, as it holds them, and where each stands."""

    values: list[Any]
    where: Callable[[int], str]
    """File, line and number of the row at an index; only called for messages, so it may be slow."""
    mended: Sequence[str] = ()
    """What was not read as it stands, in words."""


def read_rows(path: Path) -> Rows:
    """Read a file by its suffix.

    Raises:
        DatasetError: It cannot be read, or holds no rows.
        MissingDependencyError: A .parquet file without pyarrow installed.
    """
    try:
        if not path.exists():
            place = path.absolute()
            folder = next(parent for parent in place.parents if parent.exists())
            if folder != place.parent:
                raise DatasetError(f"no such file: {place} (of its folders, only {folder} exists)")
            near = did_you_mean(path.name, (entry.name for entry in folder.iterdir()), most=3)
            raise DatasetError(f"no such file: {place}{near}")
        if path.is_dir():
            raise DatasetError(f"{path} is a folder: name a file in it")
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise DatasetError(f"{path}: unknown suffix {path.suffix!r}: it must be one of {listed(_READERS)}")
        return reader(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise DatasetError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8: save the file as UTF-8") from None
    if not text.strip():
        raise DatasetError(f"{path}: the file is empty")
    return text


def _read_json(path: Path) -> Rows:
    text = _text(path)
    content = _parsed(text, path, 1)
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        found = f"an object with the keys {listed(content)}" if isinstance(content, dict) else excerpt(content)
        raise DatasetError(f'{path}: must hold a list of objects, or {{"data": [...]}}; it holds {found}')
    lines: list[int] = []

    def where(index: int) -> str:
        if not lines:
            lines.extend(_row_lines(text))
        return f"{path}:{lines[index]} (row {index + 1})"

    return Rows(rows, where)


def _read_jsonl(path: Path) -> Rows:
    # Not str.splitlines: it also splits at characters that JSON allows inside strings, such as U+2028.
    lines = [(number, line) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip()]
    rows = [_parsed(line, path, number) for number, line in lines]
    return Rows(rows, lambda index: f"{path}:{lines[index][0]} (row {index + 1})")


_field_limit_lock = threading.Lock()


@contextlib.contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lift the limit of 131 072 characters that the csv module sets to a field: documents are longer."""
    with _field_limit_lock:
        before = csv.field_size_limit(2**31 - 1)  # the most that fits a C long on every platform
        try:
            yield
        finally:
            csv.field_size_limit(before)


@_fields_of_any_length()
def _read_separated(path: Path, delimiter: str, name: str) -> Rows:
    text, start, columns, width = _text(path), 1, None, 0
    if said := re.match(r"sep=(.)\r?\n", text):  # Excel's way to say what separates columns
        text, delimiter, start = text[said.end() :], said[1], 2
    # strict: without it, a quote that is never closed swallows the rest of the file in silence.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    before, header = start - 1, ""
    rows: list[dict[str, str]] = []
    starts: list[int] = []
    try:
        for cells in reader:
            if columns is None:
                columns, width, header = Columns(cells, f"{path}:{start}"), len(cells), listed(cells)
            elif cells:
                if len(cells) != width:
                    raise DatasetError(
                        f"{path}:{start}: {len(cells)} values for {width} columns {header}: "
                        f'a value that holds a {name} or a line break must stand in double quotes ("")'
                    )
                if (row := columns.row(cells, start)) is not None:
                    rows.append(row)
                    starts.append(start)
            start = before + reader.line_num + 1
    except csv.Error as error:
        kind = path.suffix[1:].upper()
        raise DatasetError(f"{path}:{start}: not valid {kind} in the row that begins here: {error}") from None
    mended = columns.mended(rows) if columns is not None else ()
    return Rows(rows, lambda index: f"{path}:{starts[index]} (row {index + 1})", mended)


def _read_parquet(path: Path) -> Rows:
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise MissingDependencyError(f"{path}: reading .parquet needs pyarrow: pip install pyarrow") from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except arrow.ArrowException as error:
        raise DatasetError(f"{path}: not a parquet file that can be read: {error}") from error
    if not rows:
        return Rows(rows, str)
    columns = Columns(list(rows[0]), str(path), "row")
    kept = [(n, row) for n, cells in enumerate(rows, 1) if (row := columns.row(list(cells.values()), n)) is not None]
    values = [row for _, row in kept]
    return Rows(values, lambda index: f"{path} (row {kept[index][0]})", columns.mended(values))


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": functools.partial(_read_separated, delimiter=",", name="comma"),
    ".tsv": functools.partial(_read_separated, delimiter="\t", name="tab"),
    ".parquet": _read_parquet,
}

_HINTS = {
    "Expecting ',' delimiter": "a comma or a closing bracket is missing before this place",
    "Expecting property name": 'names stand in double quotes, and no comma after the last one: {"text": "..."}',
    "Expecting value": "a value is missing here: is there a comma after the last one, or None or True, which JSON "
    "writes null and true?",
    "Illegal trailing comma": "take away the comma after the last value",
    "Extra data": "one object per line is JSON Lines: name such a file .jsonl; in .json, put [ ] around the objects",
    "Invalid control character": "a line break or a tab inside a string is written \\n or \\t",
    "Invalid \\escape": "a backslash inside a string is written \\\\",
    "Unterminated string": "the string that begins here has no closing quote",
}


def _parsed(text: str, path: Path, line: int) -> Any:
    """Parse JSON text that begins on a line of a file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        start = max(text.rfind("\n", 0, error.pos) + 1, error.pos - 40)
        shown = text[start : start + 80].split("\n")[0]
        shown = "".join(c if c.isprintable() else " " for c in shown).rstrip()
        hint = next((f"; {hint}" for said, hint in _HINTS.items() if error.msg.startswith(said)), "")
        if path.suffix.lower() == ".jsonl" and text.lstrip()[:1] == "[":
            hint = "; in .jsonl each line is one object: name a file that is one list .json"
        raise DatasetError(
            f"{path}:{line + error.lineno - 1}:{error.colno}: broken JSON: {error.msg}{hint}\n"
            f"    {shown}\n    {' ' * (error.pos - start)}^"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of more than 4300 digits; very deep nesting
        raise DatasetError(f"{path}:{line}: JSON that cannot be read: {error}") from None


def _row_lines(text: str) -> list[int]:
    """The line on which each row begins, in JSON text known to be valid and to hold rows."""
    decode = json.JSONDecoder().raw_decode
    skip = re.compile(r"[\s,:]*").match

    def after(position: int) -> int:
        found = skip(text, position)
        return found.end() if found else position

    position = after(0)
    if text[position] == "{":
        rows = position = after(position + 1)
        while text[position] != "}":
            key, position = decode(text, position)
            value = after(position)
            rows = value if key == "data" else rows  # as in json.loads, the last of equal keys counts
            position = after(decode(text, value)[1])
        position = rows
    lines: list[int] = []
    line, counted = 1, 0
    position = after(position + 1)
    while text[position] != "]":
        line += text.count("\n", counted, position)
        lines.append(line)
        counted, position = position, after(decode(text, position)[1])
    return lines


def row_problem(row: Any, inputs: Sequence[str]) -> str | None:
    """The reason that keeps a row from being a labelled example with these inputs; None if nothing does."""
    if not isinstance(row, dict):
        return f'a row must be an object such as {{"{inputs[0]}": ..., "label": ...}}, not {excerpt(row)}'
    for name in inputs:
        if name not in row:
            separated = any(mark in field for field in row for mark in ";\t,")
            near = did_you_mean(name, row, most=3)
            hint = "; columns are separated by commas, in .tsv by tabs" if separated else near
            return f"the input field {name!r} is missing; the row has {listed(row)}{hint}"
        if name.startswith("dspy_"):
            return f"the input field {name!r} must be renamed: DSPy hides fields that begin with dspy_"
    if all(row[name] is None for name in inputs):
        return f"there is nothing to ask: {listed(inputs)} is null; take the row out"
    if len(row) == len(set(inputs)):
        return f"there is no label: every field is an input {listed(row)}; a metric needs something to compare with"
    return None
