"""Examples that earlier sessions had in dev or test, and that are on another side today."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_dspy_ft.experiment.example_id import describe
from pytest_dspy_ft.text import counted, excerpt

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.dataset import Dataset

_SHOWN = 3


@dataclass(frozen=True)
class MovedExamples:
    """Ids of the inputs of examples that changed sides."""

    from_dev: Set[str]
    """In train today, and in dev of an earlier session."""
    from_test: Set[str]
    """In train today, and in test of an earlier session."""
    between: Set[str]
    """In dev today and in test before, or the other way round."""

    @property
    def into_train(self) -> Set[str]:
        """All that is in train today and was not."""
        return self.from_dev | self.from_test

    def __bool__(self) -> bool:
        return bool(self.into_train or self.between)

    def headline(self) -> str:
        """How many there are."""
        parts = []
        if n := len(self.into_train):
            parts.append(
                f"{counted(n, 'example')} of train {'were' if n > 1 else 'was'} in dev or test in earlier sessions "
                f"(dev {len(self.from_dev)}, test {len(self.from_test)})"
            )
        if n := len(self.between):
            parts.append(f"{counted(n, 'example')} changed between dev and test")
        return "; ".join(parts)

    def describe(self, dataset: Dataset, memory: str) -> str:
        """The findings in words, with the first examples, and what helps.

        Args:
            dataset: Today's.
            memory: The file that remembers the splits.
        """
        lines = [f"dataset {dataset.name!r}: {self.headline()}:"]
        split, ids = ("train", self.into_train) if self.into_train else ("test", self.between)
        for index, inputs in enumerate(dataset.inputs_ids(split)):
            if inputs in ids and len(lines) <= _SHOWN:
                lines.append(f"  {split}[{index}] {excerpt(describe(dataset.held(split)[index])['inputs'])}")
        how = dataset.assignment.assign if dataset.assignment is not None else ""
        if how == "hash":
            lines.append("Splits by hash stay from here on.")
        elif how in ("", "order"):
            lines.append('With assign="hash" every example stays on its side, whatever is added, removed or reordered.')
        lines.append(f"Once the splits are as they shall stay, delete {memory}: the store remembers them from there.")
        return "\n".join(lines)


def moved_examples(dataset: Dataset, dev_before: Set[str], test_before: Set[str]) -> MovedExamples:
    """The examples of a dataset that are not where they were, known by their inputs, whatever their labels are.

    Args:
        dataset: Today's.
        dev_before: Ids of the inputs that earlier sessions had in dev.
        test_before: And in test.
    """
    train, dev, test = (frozenset(dataset.inputs_ids(split)) for split in ("train", "dev", "test"))
    between = (dev & test_before) | (test & dev_before)
    return MovedExamples(train & dev_before, train & test_before, between)
