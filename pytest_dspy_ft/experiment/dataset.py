"""Datasets: reading examples, splitting them, giving them stable identities, and refusing leakage.

An example's id is a hash of its content (fields, values, and which fields are inputs): the same in every process, on
every platform and in every order. A dataset holds copies of what it is made of, and hands out copies: nothing that
programs, metrics, optimizers or tests do to an example reaches it, or anybody else.

Rows and lines of a file are counted from 1, as editors do; positions in Python lists from 0, as Python does.
dspy is imported only where examples are made or checked.
"""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.experiment.copies import copy_example
from pytest_dspy_ft.experiment.example_id import ID_LENGTH, describe, inputs_id
from pytest_dspy_ft.experiment.files import read_rows, row_problem
from pytest_dspy_ft.experiment.split_sizes import exact_shares, shares_in_words, split_sizes
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.text import excerpt, listed

if TYPE_CHECKING:
    from dspy import Example


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
                stable form or cannot be copied, or the same inputs stand in two splits.
        """
        self.name = name
        self.path = None
        self._splits: dict[Split, list[Example]] = {"train": list(train), "dev": list(dev), "test": list(test)}
        if not any(self._splits.values()):
            raise DatasetError(f"{name}: no examples: at least one of train, dev and test must hold some")
        self._ids = _identified(self._splits, _where)
        for split, examples in self._splits.items():
            examples[:] = [_own_copy(example, _where(split, index)) for index, example in enumerate(examples)]

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
        a header line and comma-separated rows, whose values stay strings, and ``.tsv`` the same with tabs; ``.parquet``
        needs pyarrow. Text is UTF-8.

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
        shares = exact_shares(split)
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
        return cls._divide(list(examples), exact_shares(split), seed, limit, name=name, source=name, where=where)

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
                    f"{source}: split={shares_in_words(shares)} of n={len(order)} leaves {split} empty: n={enough} is "
                    f"enough; or give {split} a larger share, or a share of 0 to do without it"
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
        """Examples to learn from, copied anew each time, so that an optimizer may shuffle and change them."""
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
        """The examples of one split, copied anew each time.

        Raises:
            DatasetError: There is no such split.
        """
        return [copy_example(example) for example in self._splits[_split_name(name)]]

    def held(self, name: str) -> Sequence[Example]:
        """The dataset's own examples of one split: to read, never to change or to hand to a user's code.

        Raises:
            DatasetError: There is no such split.
        """
        return self._splits[_split_name(name)]

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
        return digest_json({name: self._ids[name] for name in names}, length=ID_LENGTH)

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
            ids[split].append(digest_json(parts, length=ID_LENGTH))
            inputs = inputs_id(parts["inputs"])
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


def _own_copy(example: Example, where: str) -> Example:
    try:
        return copy_example(example)
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from None


def _split_name(name: str) -> Split:
    for split in SPLITS:
        if split == name:
            return split
    raise DatasetError(f"there is no split {name!r}; choose one of {listed(SPLITS)}")
