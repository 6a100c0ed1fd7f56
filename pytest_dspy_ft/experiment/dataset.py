"""Datasets: reading examples, splitting them, giving them stable identities, and refusing leakage.

An example's id is a hash of its content (fields, values, and which fields are inputs): the same in every process, on
every platform and in every order. A dataset holds copies of what it is made of, and hands out copies: nothing that
programs, metrics, optimizers or tests do to an example reaches it, or anybody else.

Rows and lines of a file are counted from 1, as editors do; positions in Python lists from 0, as Python does.
dspy is imported only where examples are made or checked.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_dspy_ft.errors import DatasetError, DatasetWarning, raised_where_called
from pytest_dspy_ft.experiment.assignment import DEFAULT_SPLIT, Assignment
from pytest_dspy_ft.experiment.copies import copy_example
from pytest_dspy_ft.experiment.example_id import ID_LENGTH, describe, input_names, inputs_id, is_blank
from pytest_dspy_ft.experiment.files import read_rows, row_problem
from pytest_dspy_ft.experiment.label_gaps import LabelGaps
from pytest_dspy_ft.experiment.split_fields import Key, without_column
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.text import LINE, counted, excerpt, listed, shorten

if TYPE_CHECKING:
    from dspy import Example


@dataclass
class DatasetNotes:
    """What is known of a dataset beside its examples."""

    inputs_ids: dict[Split, list[str]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    gaps: LabelGaps = field(default_factory=LabelGaps)
    assignment: Assignment | None = None
    """How it was split; None where it was given as splits."""
    where: Callable[[Split, int], str] = "{}[{}]".format
    """Where an example stands, for messages."""
    label_types: Mapping[str, str] = field(default_factory=dict)
    """The types that labels were read as, by field; empty where all stayed as they were."""


_NOTES: WeakKeyDictionary[Dataset, DatasetNotes] = WeakKeyDictionary()
"""Not attributes: what a Dataset holds is part of the keys of stages whose functions name it, and those shall last."""


class Dataset:
    """Labelled examples in three splits, each a list of ``dspy.Example`` with inputs set.

    No example, and no two examples with the same inputs, may stand in two splits. Within one split, exact copies are
    allowed, though each weighs in the score: ``duplicates`` counts them.
    """

    name: str
    """What the dataset is called in messages: the file's stem, or ``dataset``."""
    path: Path | None
    """The file it was read from, if it was."""

    @raised_where_called
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
        _NOTES[self] = DatasetNotes(where=_where)
        self._ids = _identified(self._splits, _where, _NOTES[self])
        for split, examples in self._splits.items():
            examples[:] = [_own_copy(example, _where(split, index)) for index, example in enumerate(examples)]

    @classmethod
    @raised_where_called
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        inputs: Sequence[str],
        split: Sequence[float] = DEFAULT_SPLIT,
        assign: str = "order",
        group_by: Key | None = None,
        stratify: Key | None = None,
        seed: int | None = None,
        limit: int | None = None,
    ) -> Dataset:
        """Read examples from a file, one per row, and split them.

        ``.json`` holds a list of objects, or an object whose ``"data"`` is one; ``.jsonl`` an object per line; ``.csv``
        a header line and comma-separated rows, whose values stay strings, and ``.tsv`` the same with tabs; ``.parquet``
        needs pyarrow. Text is UTF-8. What is mended in a table is said by a ``DatasetWarning``.

        Args:
            path: The file.
            inputs: Names of the fields that the program is given; all others are labels.
            split: Shares of train, dev and test, which sum to 1.
            assign: ``order`` cuts the file into three parts; ``hash`` puts each example where a hash of its inputs
                says, whatever is added, removed, reordered, or changed beside its inputs; ``column:NAME`` reads train,
                dev (also validation, valid, val) or test from a column, which is no field of the example then.
            group_by: A field, or a function of an example: examples for which it is the same go into one split. With
                ``hash``, the group says where; with a column, it is checked.
            stratify: A field, or a function of an example: every split gets its share of each value. With ``order``.
            seed: With ``order``, None keeps the file's order, and an integer shuffles first, the same way every time.
                With ``hash``, another seed is another split.
            limit: Use at most this many rows: taken after the shuffle and before the split.

        Raises:
            DatasetError: The file cannot be read, a row lacks an input or has no label, the shares do not sum to 1 or
                leave a split empty, rows with the same inputs come to stand in two splits, a column or a field does not
                say what it should, or two arguments cannot be together.
            MissingDependencyError: A .parquet file without pyarrow installed.
        """
        if isinstance(inputs, str) or not inputs:
            fix = [inputs or "text"]
            raise DatasetError(f"inputs={inputs!r} must be a list of field names, such as inputs={fix!r}")
        file = Path(path)
        how = Assignment.declared(split, assign, group_by, stratify, seed, limit)
        if how.column in inputs:
            raise DatasetError(f"assign={assign!r} and inputs={list(inputs)!r}: the program is not given its split")
        rows = read_rows(file)
        named = without_column(rows.values, how.column, rows.where)
        for index, row in enumerate(rows.values):
            problem = row_problem(row, inputs)
            if problem:
                raise DatasetError(f"{rows.where(index)}: {problem}")
        said = list(rows.mended)
        if silent := [index for index, row in enumerate(rows.values) if all(is_blank(row[name]) for name in inputs)]:
            said.append(f"{counted(len(silent), 'row')} with nothing in {listed(inputs)}: {rows.where(silent[0])}")
        if said:
            warnings.warn(f"{file}: {'; '.join(said)}", DatasetWarning, stacklevel=3)

        import dspy

        examples = [dspy.Example(row).with_inputs(*inputs) for row in rows.values]
        dataset = cls._divide(how, examples, named, name=file.stem, source=str(file), where=rows.where)
        dataset.path = file
        return dataset

    @classmethod
    @raised_where_called
    def from_examples(
        cls,
        examples: Iterable[Example],
        *,
        split: Sequence[float] = DEFAULT_SPLIT,
        assign: str = "order",
        group_by: Key | None = None,
        stratify: Key | None = None,
        seed: int | None = None,
        limit: int | None = None,
        name: str = "dataset",
    ) -> Dataset:
        """Split ready examples; the arguments mean what they mean for ``from_file``.

        Raises:
            DatasetError: As for ``from_file`` and for ``Dataset`` itself.
        """
        where = "examples[{}]".format
        how = Assignment.declared(split, assign, group_by, stratify, seed, limit)
        rows = list(examples)
        if how != Assignment.declared(split, "order", None, None, seed, limit):  # what follows reads their fields
            for index, example in enumerate(rows):
                try:
                    input_names(example)
                except DatasetError as error:
                    raise DatasetError(f"{where(index)}: {error}") from None
        named = without_column(rows, how.column, where)
        return cls._divide(how, rows, named, name=name, source=name, where=where)

    @classmethod
    def _divide(
        cls,
        how: Assignment,
        examples: Sequence[Example],
        named: Sequence[Any],
        *,
        name: str,
        source: str,
        where: Callable[[int], str],
    ) -> Dataset:
        chosen = how.divide(examples, named, where, source)
        picked = {split: [examples[i] for i in rows] for split, rows in chosen.items()}
        dataset = cls(
            train=picked["train"],
            dev=picked["dev"],
            test=picked["test"],
            name=name,
            _where=lambda split, index: where(chosen[split][index]),
        )
        _NOTES[dataset].assignment = how
        return dataset

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

    def inputs_ids(self, split: str) -> list[str]:
        """The ids of the inputs of one split's examples, in its order: what stays when a label is mended.

        Raises:
            DatasetError: There is no such split.
        """
        return list(self._notes.inputs_ids[_split_name(split)])

    @property
    def label_gaps(self) -> LabelGaps:
        """Where fields that are no inputs are empty or missing."""
        return self._notes.gaps

    @property
    def assignment(self) -> Assignment | None:
        """How examples were put into splits; None where the dataset was given as splits."""
        return self._notes.assignment

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
        ids = {split: ids[:n] for split, ids in self._notes.inputs_ids.items()}
        _NOTES[part] = replace(self._notes, inputs_ids=ids)
        return part

    @property
    def label_types(self) -> Mapping[str, str]:
        """The types that labels were read as, by field; empty where all stayed as they are in the data."""
        return self._notes.label_types

    def place(self, split: Split, index: int) -> str:
        """Where an example stands: file, line and row, or its position in what was given."""
        return self._notes.where(split, index)

    def with_labels(self, splits: Mapping[Split, list[Example]], label_types: Mapping[str, str]) -> Dataset:
        """The same examples with labels of other types; each keeps its id.

        Args:
            splits: The examples.
            label_types: What their labels were read as, by field.
        """
        typed = copy.copy(self)
        typed._splits = dict(splits)
        _NOTES[typed] = replace(self._notes, label_types=dict(label_types))
        return typed

    @property
    def _notes(self) -> DatasetNotes:
        if self not in _NOTES:  # a copy by other means than ours
            _NOTES[self] = DatasetNotes()
            _identified(self._splits, "{}[{}]".format, _NOTES[self])
        return _NOTES[self]

    def __repr__(self) -> str:
        sizes = " / ".join(f"{split} {n}" for split, n in self.sizes.items())
        return f"<Dataset {shorten(self.name, LINE - len(sizes) - 20)!r}: {sizes}>"


def _identified(
    splits: Mapping[Split, Sequence[Example]], where: Callable[[Split, int], str], notes: DatasetNotes
) -> dict[Split, list[str]]:
    """The ids of all examples, once it is certain that no inputs stand in two splits; the notes get the rest.

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
            notes.inputs_ids[split].append(inputs)
            notes.gaps.look(parts["expected"], split, index)
            before, at = first.setdefault(inputs, (split, index))
            if before != split:
                leaks.append((before, at, split, index))
    notes.gaps.locate(where)
    if leaks:
        a, i, b, j = leaks[0]
        one, other = describe(splits[a][i]), describe(splits[b][j])
        what = "the same example is" if one == other else "the same inputs, with different labels, are"
        more = f" ({len(leaks)} examples repeat inputs of another split; this is the first)" if len(leaks) > 1 else ""
        raise DatasetError(
            f"{what} in two splits, {a} and {b}, so that a score would reward remembering it; keep only one of "
            f"them, or put both into the same split{more}:\n"
            f"  {excerpt(one['inputs'])}\n"
            f"  {a}: {where(a, i)}: {excerpt(one['expected'])}\n"
            f"  {b}: {where(b, j)}: {excerpt(other['expected'])}"
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
