"""Examples that all but repeat one of another split: leakage that comparing them letter by letter does not see.

Inputs are compared as sets of their words and of their pairs of neighbouring words, without case, punctuation and
accents' composition; the similarity of two is what they share by what they have together (Jaccard). Chinese, Japanese
and Korean characters count as words.

The search is exact: every pair at or above the threshold is found. Two sets that similar must share one of their few
rarest members (the prefix filter of S. Chaudhuri, V. Ganti, R. Kaushik (2006), A primitive operator for similarity
joins in data cleaning, ICDE), so only examples that share such a member are compared. Unlike MinHash it misses nothing
and draws no random numbers, and it is fast because examples are only compared across splits.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    found = similar_pairs([text for split in SPLITS for text in texts[split]], groups, threshold)
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


def similar_pairs(texts: Sequence[str], groups: Sequence[int], threshold: float) -> Iterator[tuple[int, int, float]]:
    """The pairs of texts of different groups that are at least so similar.

    Args:
        texts: The texts.
        groups: The group of each.
        threshold: In (0, 1].

    Yields:
        (first, second, similarity), each pair once: positions in ``texts``, the one of the lower group first.
    """
    sets = _members(texts)
    by_member: defaultdict[int, list[int]] = defaultdict(list)  # who of lower groups has a rare member
    in_order = sorted(range(len(texts)), key=groups.__getitem__)
    for _, group in itertools.groupby(in_order, key=groups.__getitem__):
        leading: list[tuple[int, int]] = []
        for second in group:
            members = sets[second]
            # With 1e-9, since a threshold such as 0.8 is not quite the double it is written as.
            smallest, largest = threshold * len(members) - 1e-9, len(members) / threshold + 1e-9
            rarest = members[: len(members) - math.ceil(smallest) + 1]
            leading += [(member, second) for member in rarest]
            candidates = {
                other
                for member in rarest
                for other in by_member.get(member, ())
                if smallest <= len(sets[other]) <= largest
            }
            own = set(members)
            for first in candidates:
                shared = len(own.intersection(sets[first]))
                similarity = shared / (len(members) + len(sets[first]) - shared)
                if similarity >= threshold - 1e-9:
                    yield first, second, similarity
        for member, owner in leading:
            by_member[member].append(owner)


def _text(example: Any) -> str:
    return "\n".join(str(value) for value in example.inputs().toDict().values())


def _members(texts: Sequence[str]) -> list[list[int]]:
    """The words and pairs of neighbouring words of each text as numbers, each once, from rare to common."""
    numbers: dict[str | tuple[str, str], int] = {}
    sets = []
    for text in texts:
        found = words(text)
        parts: set[str | tuple[str, str]] = {*found, *itertools.pairwise(found)}
        sets.append([numbers.setdefault(part, len(numbers)) for part in parts])
    counts = Counter(itertools.chain.from_iterable(sets))
    for members in sets:
        members.sort(key=lambda member: (counts[member], member))
    return sets
