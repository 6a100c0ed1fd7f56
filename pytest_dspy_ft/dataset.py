"""Datasets: reading examples, splitting them, giving them stable identities, and refusing leakage.

An example's id is a hash of its content (fields, values, and which fields are inputs): the same in every process, on
every platform and in every order. Ids are taken when a dataset is made and stay, even if a metric alters an example.

Rows and lines of a file are counted from 1, as editors do; positions in Python lists from 0, as Python does.
dspy is imported only where examples are made or checked.
"""

from __future__ import annotations

import base64
import copy
import datetime
import enum
import json
import math
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel, JsonValue

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.reading import read_rows, row_problem
from pytest_dspy_ft.results import SPLITS, Split
from pytest_dspy_ft.wording import excerpt, listed, meant

if TYPE_CHECKING:
    from dspy import Example

_ID_LENGTH = 16


class Dataset:
    """Labelled examples in three splits, each a list of ``dspy.Example`` with inputs set.

    No example, and no two examples with the same inputs, may stand in two splits. Within one split, exact copies are
    allowed, though each weighs in the score: ``duplicates`` counts them.
    """

    name: str
    """What the dataset is called in messages: the file's stem, or ``dataset``."""
    path: Path | None
    """The file it was read from, if it was."""

    def __init__(
        self,
        *,
        train: Iterable[Example] = (),
        dev: Iterable[Example] = (),
        test: Iterable[Example] = (),
        name: str = "dataset",
        _where: Callable[[Split, int], str] = "{}[{}]".format,
    ) -> None:
        """Take examples that are split already; splits may be empty, but not all of them.

        Raises:
            DatasetError: All splits are empty, something is no ``dspy.Example`` with its inputs set, a value has no
                stable form, or the same inputs stand in two splits.
        """
        self.name = name
        self.path = None
        self._splits: dict[Split, list[Example]] = {"train": list(train), "dev": list(dev), "test": list(test)}
        if not any(self._splits.values()):
            raise DatasetError(f"{name}: no examples: at least one of train, dev and test must hold some")
        self._ids = _identified(self._splits, _where)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        inputs: Sequence[str],
        split: Sequence[float] = (0.8, 0.1, 0.1),
        seed: int | None = None,
        limit: int | None = None,
    ) -> Dataset:
        """Read examples from a file, one per row, and split them.

        ``.json`` holds a list of objects, or an object whose ``"data"`` is one; ``.jsonl`` an object per line; ``.csv``
        a header line and comma-separated rows, whose values stay strings; ``.parquet`` needs pyarrow. Text is UTF-8.

        Args:
            path: The file.
            inputs: Names of the fields that the program is given; all others are labels.
            split: Shares of train, dev and test, which sum to 1.
            seed: None keeps the file's order; an integer shuffles first, the same way every time.
            limit: Use at most this many rows: taken after the shuffle and before the split.

        Raises:
            DatasetError: The file cannot be read, a row lacks an input or has no label, the shares do not sum to 1 or
                leave a split empty, or rows with the same inputs come to stand in two splits.
            MissingDependencyError: A .parquet file without pyarrow installed.
        """
        if isinstance(inputs, str) or not inputs:
            fix = [inputs or "text"]
            raise DatasetError(f"inputs={inputs!r} must be a list of field names, such as inputs={fix!r}")
        file = Path(path)
        shares = _shares(split)
        rows = read_rows(file)
        for index, row in enumerate(rows.values):
            problem = row_problem(row, inputs)
            if problem:
                raise DatasetError(f"{rows.where(index)}: {problem}")

        import dspy

        examples = [dspy.Example(row).with_inputs(*inputs) for row in rows.values]
        dataset = cls._divide(examples, shares, seed, limit, name=file.stem, source=str(file), where=rows.where)
        dataset.path = file
        return dataset

    @classmethod
    def from_examples(
        cls,
        examples: Iterable[Example],
        *,
        split: Sequence[float] = (0.8, 0.1, 0.1),
        seed: int | None = None,
        limit: int | None = None,
        name: str = "dataset",
    ) -> Dataset:
        """Split ready examples; the arguments mean what they mean for ``from_file``.

        Raises:
            DatasetError: As for ``from_file`` and for ``Dataset`` itself.
        """
        where = "examples[{}]".format
        return cls._divide(list(examples), _shares(split), seed, limit, name=name, source=name, where=where)

    @classmethod
    def _divide(
        cls,
        examples: Sequence[Example],
        shares: Sequence[Fraction],
        seed: int | None,
        limit: int | None,
        *,
        name: str,
        source: str,
        where: Callable[[int], str],
    ) -> Dataset:
        if limit is not None and limit < 1:
            raise DatasetError(f"limit={limit} leaves no rows: give at least 1, or None for all of them")
        if not examples:
            raise DatasetError(f"{source}: there are no rows")
        order = list(range(len(examples)))
        if seed is not None:
            random.Random(seed).shuffle(order)
        order = order[:limit]
        chosen: dict[Split, list[int]] = {}
        start = 0
        for split, share, size in zip(SPLITS, shares, split_sizes(len(order), shares), strict=True):
            if share and not size:
                enough = math.ceil(1 / min(share for share in shares if share))
                raise DatasetError(
                    f"{source}: split={_written(shares)} of n={len(order)} leaves {split} empty: n={enough} is enough; "
                    f"or give {split} a larger share, or a share of 0 to do without it"
                )
            chosen[split] = order[start : start + size]
            start += size
        picked = {split: [examples[i] for i in rows] for split, rows in chosen.items()}
        return cls(
            train=picked["train"],
            dev=picked["dev"],
            test=picked["test"],
            name=name,
            _where=lambda split, index: where(chosen[split][index]),
        )

    @property
    def train(self) -> list[Example]:
        """Examples to learn from; a new list each time, so that an optimizer may shuffle it."""
        return self.split("train")

    @property
    def dev(self) -> list[Example]:
        """Examples to measure on while developing."""
        return self.split("dev")

    @property
    def test(self) -> list[Example]:
        """Held-out examples."""
        return self.split("test")

    @property
    def sizes(self) -> dict[Split, int]:
        """Number of examples in each split."""
        return {split: len(self._splits[split]) for split in SPLITS}

    @property
    def duplicates(self) -> dict[Split, int]:
        """By split, how many examples are exact copies of an earlier one in it."""
        return {split: len(self._ids[split]) - len(set(self._ids[split])) for split in SPLITS}

    def split(self, name: str) -> list[Example]:
        """The examples of one split, as a new list.

        Raises:
            DatasetError: There is no such split.
        """
        return list(self._splits[_split_name(name)])

    def ids(self, split: str) -> list[str]:
        """The ids of one split's examples, in its order, as they were when the dataset was made.

        Raises:
            DatasetError: There is no such split.
        """
        return list(self._ids[_split_name(split)])

    def fingerprint(self, split: str | None = None) -> str:
        """A hash over the ids of one split's examples in order, or over all splits.

        Raises:
            DatasetError: There is no such split.
        """
        names = SPLITS if split is None else (_split_name(split),)
        return digest_json({name: self._ids[name] for name in names}, length=_ID_LENGTH)

    def limited(self, n: int) -> Dataset:
        """The same dataset with at most the first ``n`` examples of each split.

        Raises:
            DatasetError: ``n`` is below 1.
        """
        if n < 1:
            raise DatasetError(f"a limit of {n} leaves no examples: give at least 1")
        part = copy.copy(self)
        part._splits = {split: rows[:n] for split, rows in self._splits.items()}
        part._ids = {split: ids[:n] for split, ids in self._ids.items()}
        return part

    def __repr__(self) -> str:
        return f"<Dataset {self.name!r}: {' / '.join(f'{split} {n}' for split, n in self.sizes.items())}>"


# --- Identity --------------------------------------------------------------------------------------------------------


def example_id(example: Example) -> str:
    """The stable id of an example: a hash of its fields, their values, and which of them are inputs.

    Fields whose name begins with ``dspy_`` do not count: they are DSPy's own notes, random ones among them.

    Raises:
        DatasetError: Its inputs are not set, or a value has no stable form.
    """
    return digest_json(describe(example), length=_ID_LENGTH)


def inputs_id(example: Example) -> str:
    """The same over the inputs alone: equal for two examples that differ in their labels only.

    Raises:
        DatasetError: Its inputs are not set, or a value has no stable form.
    """
    return digest_json({"inputs": describe(example)["inputs"]}, length=_ID_LENGTH)


def describe(example: Example) -> dict[str, dict[str, JsonValue]]:
    """An example as plain JSON data: ``{"inputs": {...}, "expected": {...}}``.

    Raises:
        DatasetError: Its inputs are not set, or a value has no stable form.
    """
    inputs = _input_names(example)
    parts: dict[str, dict[str, JsonValue]] = {"inputs": {}, "expected": {}}
    for field, value in example.items():
        try:
            parts["inputs" if field in inputs else "expected"][field] = _plain(value)
        except (TypeError, ValueError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise DatasetError(
                f"field {field!r} cannot be told apart by its content: {why}. "
                "Use text, numbers, lists, dicts, sets, dates, bytes, enums or pydantic models"
            ) from None
    return parts


def _input_names(example: Example) -> set[str]:
    import dspy

    if not isinstance(example, dspy.Example):
        kind = type(example).__name__
        raise DatasetError(f"{kind} is not a dspy.Example: write dspy.Example(**row).with_inputs('text')")
    # DSPy has no public way to ask this; dspy.Prediction, though an Example, lacks even the attribute.
    names = getattr(example, "_input_keys", None)
    fields = example.keys()
    if not names:
        raise DatasetError(f"its inputs are not set: add .with_inputs(...) with some of its fields {listed(fields)}")
    for name in sorted(names):
        if name not in fields:
            raise DatasetError(f"its input {name!r} is not among its fields {listed(fields)}{meant(name, fields)}")
    return set(names)


def _plain(value: Any) -> JsonValue:
    """The value as JSON data made of builtins only.

    Raises:
        TypeError: It is not data.
    """
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return value  # type: ignore[no-any-return]
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if isinstance(value, Mapping):
        return {k if isinstance(k := _plain(key), str) else json.dumps(k): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Decimal | UUID):
        return str(value)
    if hasattr(value, "toDict"):  # a dspy.Example inside an example
        return _plain(value.toDict())
    if hasattr(value, "dtype") and hasattr(value, "tolist") and type(plain := value.tolist()) is not kind:
        return _plain(plain)  # numpy's scalars and arrays, without importing numpy
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value)
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} is not data")


def _identified(
    splits: Mapping[Split, Sequence[Example]], where: Callable[[Split, int], str]
) -> dict[Split, list[str]]:
    """The ids of all examples, once it is certain that no inputs stand in two splits.

    Raises:
        DatasetError: They do, or an example has no id.
    """
    ids: dict[Split, list[str]] = {split: [] for split in SPLITS}
    first: dict[str, tuple[Split, int]] = {}
    leaks: list[tuple[Split, int, Split, int]] = []
    for split in SPLITS:
        for index, example in enumerate(splits[split]):
            try:
                parts = describe(example)
            except DatasetError as error:
                raise DatasetError(f"{where(split, index)}: {error}") from None
            ids[split].append(digest_json(parts, length=_ID_LENGTH))
            inputs = digest_json({"inputs": parts["inputs"]}, length=_ID_LENGTH)
            before, at = first.setdefault(inputs, (split, index))
            if before != split:
                leaks.append((before, at, split, index))
    if leaks:
        a, i, b, j = leaks[0]
        one, other = describe(splits[a][i]), describe(splits[b][j])
        what = "the same example is" if one == other else "the same inputs, with different labels, are"
        more = f" ({len(leaks)} examples repeat inputs of another split; this is the first.)" if len(leaks) > 1 else ""
        raise DatasetError(
            f"{what} in two splits, {a} and {b}, so that a score would reward remembering it:\n"
            f"  {excerpt(one['inputs'])}\n"
            f"  {a}: {where(a, i)}: {excerpt(one['expected'])}\n"
            f"  {b}: {where(b, j)}: {excerpt(other['expected'])}\n"
            f"Keep only one of them, or put both into the same split.{more}"
        )
    return ids


# --- Splitting -------------------------------------------------------------------------------------------------------


def split_sizes(n: int, shares: Sequence[Fraction]) -> list[int]:
    """Whole sizes that sum to ``n``: the exact sizes rounded down, what is left going to the largest remainders.

    So each size is within 1 of its exact one; on a tie, the earlier split gets the example.
    """
    exact = [n * share for share in shares]
    sizes = [math.floor(size) for size in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: sizes[i] - exact[i])
    for i in by_remainder[: n - sum(sizes)]:
        sizes[i] += 1
    return sizes


def _shares(split: Sequence[float]) -> list[Fraction]:
    """The shares as exact numbers with a sum of exactly 1; 0.1 means one tenth, not the double nearest to it."""
    try:
        shares = [Fraction(str(share)) for share in split]
    except (TypeError, ValueError):
        shares = []
    if len(shares) != len(SPLITS) or min(shares) < 0:
        raise DatasetError(
            f"split={split!r} must be three shares of at least 0, for train, dev and test, such as (0.8, 0.1, 0.1)"
        )
    total, held_out = sum(shares, Fraction(0)), shares[1] + shares[2]
    if abs(total - 1) > Fraction(1, 10**9):
        # Parts or percentages, such as (80, 10, 10), are scaled; else train gets what dev and test leave.
        right = [share / total for share in shares] if held_out >= 1 else [1 - held_out, *shares[1:]]
        raise DatasetError(
            f"split={_written(shares)} sums to {float(total):.10g}, not to 1; did you mean {_written(right)}?"
        )
    return [share / total for share in shares]


def _written(shares: Iterable[Fraction]) -> str:
    return f"({', '.join(f'{float(share):.10g}' for share in shares)})"


def _split_name(name: str) -> Split:
    for split in SPLITS:
        if split == name:
            return split
    raise DatasetError(f"there is no split {name!r}; choose one of {listed(SPLITS)}")
