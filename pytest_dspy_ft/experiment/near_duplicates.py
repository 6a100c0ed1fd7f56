"""Examples that all but repeat one of another split: leakage that comparing them letter by letter does not see.

Inputs are compared as sets of their words and of their pairs of neighbouring words, without case, punctuation and
accents' composition; the similarity of two is what they share by what they have together (Jaccard). Chinese, Japanese
and Korean characters count as words.

The search (`pytest_dspy_ft.experiment.similar_pairs`) is exact: every pair at or above the threshold is found.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.experiment.similar_pairs import similar_pairs
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.text import excerpt

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.dataset import Dataset

THRESHOLD = 0.8
"""From this similarity on: one word changed in the middle of fifteen."""

_WORD = re.compile(r"\w+")
_CHARACTER = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")
_SHOWN = 3


@dataclass(frozen=True)
class NearDuplicate:
    """Two examples of two splits with all but the same inputs."""

    first: tuple[Split, int]
    """Split and position of the earlier one, in the order train, dev, test."""
    second: tuple[Split, int]
    similarity: float
    """In [0, 1]; 1 where the words are the same."""


@dataclass(frozen=True)
class NearDuplicates:
    """All near-duplicates of a dataset across its splits."""

    pairs: tuple[NearDuplicate, ...]
    """The most similar first."""
    sizes: Mapping[Split, int]

    def describe(self, dataset: Dataset) -> str:
        """The findings in words, the first pairs in full: the text of a warning or an error."""
        affected: dict[Split, set[int]] = {}
        for pair in self.pairs:
            affected.setdefault(pair.second[0], set()).add(pair.second[1])
        counts = " and ".join(
            f"{len(found)} of {self.sizes[split]} {split} examples" for split, found in sorted(affected.items())
        )
        lines = [f"dataset {dataset.name!r}: {counts} all but repeat one of an earlier split, so that a score rewards "]
        lines[0] += "remembering it:"
        for pair in self.pairs[:_SHOWN]:
            lines.append(f"  {pair.similarity:.0%} the same:")
            for split, index in (pair.first, pair.second):
                inputs = dataset.held(split)[index].inputs().toDict()
                lines.append(f"    {split}[{index}]: {excerpt(inputs)}")
        if len(self.pairs) > _SHOWN:
            lines.append(f"  and {len(self.pairs) - _SHOWN} more pairs")
        return "\n".join(lines)


def near_duplicates(dataset: Dataset, threshold: float = THRESHOLD) -> NearDuplicates:
    """Find the examples whose inputs all but repeat those of an example in another split.

    Args:
        dataset: The dataset.
        threshold: The similarity from which two count, in (0, 1].

    Raises:
        ValueError: ``threshold`` is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a similarity lies between 0 and 1, not {threshold!r}")
    texts = {split: [_text(example) for example in dataset.held(split)] for split in SPLITS}
    places = [(split, index) for split in SPLITS for index in range(len(texts[split]))]
    groups = [SPLITS.index(split) for split, _ in places]
    found = similar_pairs(member_sets(text for split in SPLITS for text in texts[split]), groups, threshold)
    pairs = tuple(
        NearDuplicate(places[first], places[second], similarity)
        for first, second, similarity in sorted(found, key=lambda pair: (-pair[2], pair[:2]))
    )
    return NearDuplicates(pairs, dataset.sizes)


def words(text: str) -> list[str]:
    """The words that two texts are compared by."""
    if not text.isascii():
        text = _CHARACTER.sub(r" \1 ", unicodedata.normalize("NFKC", text))
    text = text.casefold()
    return _WORD.findall(text) or [text.strip()]


def _text(example: Any) -> str:
    return "\n".join(str(value) for value in example.inputs().toDict().values())


def member_sets(texts: Iterable[str]) -> list[list[int]]:
    """The words and pairs of neighbouring words of each text as numbers, each once."""
    numbers: dict[str | tuple[str, str], int] = {}
    sets = []
    for text in texts:
        found = words(text)
        parts: set[str | tuple[str, str]] = {*found, *itertools.pairwise(found)}
        sets.append([numbers.setdefault(part, len(numbers)) for part in parts])
    return sets
