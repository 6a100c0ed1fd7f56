"""Which split each example goes to: by its place in the file, by a hash of its inputs, or as a column says.

By hash, an example's place depends on its own inputs (or its group) and the seed alone, so that nothing that happens to
other rows, to labels or to further columns moves it. How a place is found must therefore never change.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.experiment.example_id import describe, inputs_id
from pytest_dspy_ft.experiment.split_fields import Key, Where, named_places, refuse_straddling, values_by
from pytest_dspy_ft.experiment.split_sizes import (
    empty_by_hash,
    exact_shares,
    grouped_places,
    split_sizes,
    stratified_places,
    too_few,
)
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.text import did_you_mean, listed

if TYPE_CHECKING:
    from dspy import Example

DEFAULT_SPLIT = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class Assignment:
    """How examples are put into splits, as it was declared and checked."""

    shares: Sequence[Fraction]
    assign: str = "order"
    group_by: Key | None = None
    stratify: Key | None = None
    seed: int | None = None
    limit: int | None = None

    @classmethod
    def declared(
        cls,
        split: Sequence[float],
        assign: str,
        group_by: Key | None,
        stratify: Key | None,
        seed: int | None,
        limit: int | None,
    ) -> Assignment:
        """What the arguments of ``Dataset.from_file`` say.

        Raises:
            DatasetError: One of them is not what it should be, or two of them cannot be together.
        """
        assignment = cls(exact_shares(split), assign, group_by, stratify, seed, limit)
        if limit is not None and limit < 1:
            raise DatasetError(f"limit={limit} leaves no rows: give at least 1, or None for all of them")
        for option, by in (("group_by", group_by), ("stratify", stratify)):
            if by is not None and not callable(by) and not (isinstance(by, str) and by):
                raise DatasetError(f"{option}={by!r} must be the name of a field or a function of an example")
        if assign not in ("order", "hash") and assignment.column is None:
            raise DatasetError(f"assign={assign!r} {_not_an_assign(assign)}")
        for problem in assignment._contradictions(tuple(split) != DEFAULT_SPLIT):
            raise DatasetError(problem)
        return assignment

    @property
    def column(self) -> str | None:
        """The column that names each example's split; None without one."""
        kind, _, name = self.assign.partition(":") if isinstance(self.assign, str) else ("", "", "")
        return name if kind == "column" and name else None

    def _contradictions(self, has_split: bool) -> Iterable[str]:
        how = f"assign={self.assign!r}"
        if self.column is not None:
            if has_split:
                yield f"split= and {how}: the column says where each example goes; leave out split="
            if self.seed is not None:
                yield f"seed= and {how}: the column says where each example goes, nothing is drawn; leave out seed="
            if self.stratify is not None:
                yield f"stratify= and {how}: the column says where each example goes; leave out stratify="
        if self.assign == "hash" and self.stratify is not None:
            yield (
                f"stratify= and {how}: a label's share would be kept by moving its other examples, and by hash none "
                "ever moves; leave out stratify= (by hash each label's shares are kept but for chance), or use "
                "assign='order'"
            )
        if self.group_by is not None and self.stratify is not None:
            yield (
                "group_by= and stratify=: a group goes into one split as a whole, with whatever labels it has; leave "
                "out one of them"
            )

    def divide(
        self, examples: Sequence[Example], named: Sequence[Any], where: Where, source: str
    ) -> dict[Split, list[int]]:
        """The positions of each split's examples, in order.

        Args:
            examples: All examples.
            named: With a column, its value for each of them.
            where: Says where an example stands, for messages.
            source: The file, for messages.

        Raises:
            DatasetError: A split comes out empty, a group would straddle splits, or a value cannot be used.
        """
        if not examples:
            raise DatasetError(f"{source}: there are no rows")
        order = list(range(len(examples)))
        if self.seed is not None and self.assign == "order":
            random.Random(self.seed).shuffle(order)
        order = order[: self.limit]
        places = self._places(examples, order, named, where)
        chosen = {split: [row for row in order if places[row] == split] for split in SPLITS}
        self._refuse_empty(chosen, source)
        return chosen

    def _places(
        self, examples: Sequence[Example], order: Sequence[int], named: Sequence[Any], where: Where
    ) -> dict[int, Split]:
        groups: dict[int, JsonValue] = {}
        if self.group_by is not None:
            groups = values_by(examples, order, self.group_by, "group_by", where)
        if self.column is not None:
            places = named_places(self.column, order, named, where)
            refuse_straddling(groups, places, where)
            return places
        if self.assign == "hash":
            return {row: self._hashed(groups.get(row), examples[row], where(row)) for row in order}
        if groups:
            return grouped_places([(row, digest_json(groups[row])) for row in order], self.shares)
        if self.stratify is not None:
            labels = values_by(examples, order, self.stratify, "stratify", where)
            return stratified_places([(row, digest_json(labels[row])) for row in order], self.shares)
        ends = [
            split for split, size in zip(SPLITS, split_sizes(len(order), self.shares), strict=True) for _ in range(size)
        ]
        return dict(zip(order, ends, strict=True))

    def _hashed(self, group: JsonValue, example: Example, where: str) -> Split:
        """The split of an example by hash: train from the bottom, test from the top, so that other shares move few."""
        if self.group_by is not None:
            position = digest_json({"group": group, "seed": self.seed})
        else:
            try:
                position = digest_json({"inputs": inputs_id(describe(example)["inputs"]), "seed": self.seed})
            except DatasetError as error:
                raise DatasetError(f"{where}: {error}") from None
        share = Fraction(int(position, 16), 16 ** len(position))
        if share < self.shares[0]:
            return "train"
        return "dev" if share < self.shares[0] + self.shares[1] else "test"

    def _refuse_empty(self, chosen: dict[Split, list[int]], source: str) -> None:
        if self.column is not None:
            return  # whoever wrote the column knows which splits there are
        n, grouped = sum(map(len, chosen.values())), self.group_by is not None
        for split, share in zip(SPLITS, self.shares, strict=True):
            if share and not chosen[split]:
                if self.assign == "hash":
                    sizes = {name: len(rows) for name, rows in chosen.items()}
                    raise DatasetError(f"{source}: {empty_by_hash(sizes, split, self.shares, grouped=grouped)}")
                raise DatasetError(f"{source}: {too_few(n, split, self.shares, grouped=grouped)}")


def _not_an_assign(assign: object) -> str:
    choices = ("order", "hash", "column:NAME")
    if not isinstance(assign, str):
        return f"must be one of {listed(choices)}"
    if assign.strip(": ") == "column":
        return 'names no column: write assign="column:NAME"'
    return f"is none of {listed(choices)}{did_you_mean(assign.partition(':')[0], ('order', 'hash', 'column'))}"
