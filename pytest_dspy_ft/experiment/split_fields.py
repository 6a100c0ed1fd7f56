"""Fields that say where examples go: a column of splits, what they are grouped by, labels that every split gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.experiment.copies import copy_example
from pytest_dspy_ft.experiment.example_id import is_blank, plain_value
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.text import did_you_mean, excerpt, listed

if TYPE_CHECKING:
    from dspy import Example

Key = str | Callable[[Any], Any]
"""What examples are grouped by: the name of a field, or a function of an example."""

Where = Callable[[int], str]

_NAMES: dict[str, Split] = {
    **{split: split for split in SPLITS},
    **dict.fromkeys(("validation", "valid", "val"), "dev"),
}
_EITHER = {"eval", "evaluation", "heldout", "held-out", "held_out", "holdout"}
_ACCEPTED = "It must be train, dev (also validation, valid, val) or test"


def without_column(rows: list[Any], column: str | None, where: Where) -> list[Any]:
    """Take a column off all rows, in place of each a copy without it, and give its values.

    Raises:
        DatasetError: It is in no row, or it is one of an example's inputs.
    """
    if column is None or not rows:
        return []
    fields = dict.fromkeys(name for row in rows if hasattr(row, "keys") for name in row.keys())  # noqa: SIM118
    if column not in fields:
        found = f"no row has a column {column!r}; there are {listed(fields)}{did_you_mean(column, fields)}"
        raise DatasetError(f"{where(0)}: assign='column:{column}': {found}")
    named = [row.get(column) if hasattr(row, "keys") else None for row in rows]
    for index, row in enumerate(rows):
        if isinstance(row, dict):
            rows[index] = {name: value for name, value in row.items() if name != column}
        elif hasattr(row, "without") and column in row.keys():  # noqa: SIM118
            if column in row.inputs().keys():  # noqa: SIM118
                raise DatasetError(f"{where(index)}: assign='column:{column}' names one of its inputs")
            rows[index] = row.without(column)
    return named


def named_places(column: str, order: Sequence[int], named: Sequence[Any], where: Where) -> dict[int, Split]:
    """The splits that a column names.

    Raises:
        DatasetError: A row names none, with the first such row and their number.
    """
    places: dict[int, Split] = {}
    wrong: list[int] = []
    for row in order:
        value = named[row]
        found = _NAMES.get(value.strip().casefold()) if isinstance(value, str) else None
        if found is None:
            wrong.append(row)
        else:
            places[row] = found
    if not wrong:
        return places
    more = f" ({len(wrong)} rows name none; this is the first)" if len(wrong) > 1 else ""
    raise DatasetError(f"{where(wrong[0])}: {_no_split(column, named[wrong[0]])} {_ACCEPTED}{more}")


def _no_split(column: str, value: Any) -> str:
    """Why a value names no split, and which it may mean: a sentence."""
    if is_blank(value):
        return f"the column {column!r} is empty."
    shown = excerpt(plain_value(value), 60) if _is_plain(value) else type(value).__name__
    word = value.strip().casefold() if isinstance(value, str) else ""
    hint = "; it may mean dev or test" if word in _EITHER else did_you_mean(word, _NAMES)
    return f"{column}={shown} names no split{hint}" + ("" if hint.endswith("?") else ".")


def refuse_straddling(groups: dict[int, JsonValue], places: dict[int, Split], where: Where) -> None:
    """Hold a column against the groups of the examples.

    Raises:
        DatasetError: It puts a group into two splits.
    """
    first: dict[str, int] = {}
    for row, group in groups.items():
        other = first.setdefault(digest_json(group), row)
        if places[other] != places[row]:
            raise DatasetError(
                f"the column puts one group of group_by= into two splits, {excerpt(group, 60)}:\n"
                f"  {places[other]}: {where(other)}\n  {places[row]}: {where(row)}\n"
                "Put all of a group into one split."
            )


def values_by(
    examples: Sequence[Example], rows: Iterable[int], by: Key, option: str, where: Where
) -> dict[int, JsonValue]:
    """What each example is grouped by.

    Raises:
        DatasetError: It has no such field, the function failed, or the value is no data, or an empty group.
    """
    name = repr(by) if isinstance(by, str) else getattr(by, "__name__", type(by).__name__)
    found: dict[int, JsonValue] = {}
    for row in rows:
        example = examples[row]
        if callable(by):
            try:
                value = by(copy_example(example))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                raise DatasetError(f"{where(row)}: {option}={name} raised {said}") from error
        elif by in example.keys():  # noqa: SIM118 - an Example iterates over something else
            value = example[by]
        else:
            fields = [*example.keys()]
            raise DatasetError(
                f"{where(row)}: {option}={name} names none of its fields {listed(fields)}{did_you_mean(by, fields)}"
            )
        if not _is_plain(value):
            raise DatasetError(
                f"{where(row)}: {option}={name} gives a value of type {type(value).__name__}, which is no data"
            )
        if option == "group_by" and is_blank(value):
            raise DatasetError(
                f"{where(row)}: {option}={name} is empty here: fill it in, or give a function that says what such "
                "examples belong to"
            )
        found[row] = plain_value(value)
    return found


def _is_plain(value: Any) -> bool:
    try:
        plain_value(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
