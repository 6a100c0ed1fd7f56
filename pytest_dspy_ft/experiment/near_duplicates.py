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

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.text import excerpt

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.dataset import Dataset

THRESHOLD = 0.8
"""From this similarity on: one word changed in the middle of fifteen."""

_WORD = re.compile(r"\w+")
_CHARACTER = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")
_CHUNK = 2_000_000
_SHOWN = 3

Ints = NDArray[np.int64]


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
        """What was found, with the first pairs in full: the text of a warning or an error."""
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
                inputs = dataset.split(split)[index].inputs().toDict()
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
    texts = {split: [_text(example) for example in dataset.split(split)] for split in SPLITS}
    places = [(split, index) for split in SPLITS for index in range(len(texts[split]))]
    groups = np.repeat(np.arange(len(SPLITS)), [len(texts[split]) for split in SPLITS])
    pairs = [
        NearDuplicate(places[first], places[second], similarity)
        for first, second, similarity in similar_pairs(
            [text for split in SPLITS for text in texts[split]], groups, threshold
        )
    ]
    pairs.sort(key=lambda pair: -pair.similarity)
    return NearDuplicates(tuple(pairs), dataset.sizes)


def words(text: str) -> list[str]:
    """The words that two texts are compared by."""
    if not text.isascii():
        text = _CHARACTER.sub(r" \1 ", unicodedata.normalize("NFKC", text))
    text = text.casefold()
    return _WORD.findall(text) or [text.strip()]


def similar_pairs(texts: Sequence[str], groups: Ints, threshold: float) -> Iterator[tuple[int, int, float]]:
    """The pairs of texts of different groups that are at least so similar.

    Args:
        texts: The texts.
        groups: Shape (n,): the group of each.
        threshold: In (0, 1].

    Yields:
        (first, second, similarity), the positions ascending.
    """
    if len(texts) < 2 or len(np.unique(groups)) < 2:
        return
    owners, members = _members(texts)
    sizes = np.bincount(owners, minlength=len(texts))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    place = np.arange(len(owners)) - starts[owners]
    # Members ascend from rare to common. Two sets this similar share one of their first ones; with e = 1e-9, since
    # a threshold such as 0.8 is not quite the double it is written as.
    overlap = np.ceil(threshold * sizes - 1e-9).astype(np.int64)
    leading = place < (sizes - overlap + 1)[owners]
    sets = _Sets(members, starts, sizes)
    known: set[tuple[int, int]] = set()
    for first, second in _candidates(owners[leading], members[leading], groups, sizes, threshold):
        shared = sets.shared(first, second)
        similarity = shared / (sizes[first] + sizes[second] - shared)
        for index in np.flatnonzero(similarity >= threshold - 1e-9):
            pair = int(first[index]), int(second[index])
            if pair not in known:
                known.add(pair)
                yield *pair, float(similarity[index])


def _text(example: Any) -> str:
    return "\n".join(str(value) for value in example.inputs().toDict().values())


def _members(texts: Sequence[str]) -> tuple[Ints, Ints]:
    """Which text has which word or pair of words, as numbers that ascend from rare to common; sorted by text."""
    vocabulary: dict[str, int] = {}
    flat: list[int] = []
    lengths = []
    for text in texts:
        found = words(text)
        lengths.append(len(found))
        flat.extend([vocabulary.setdefault(word, len(vocabulary)) for word in found])
    single = np.asarray(flat, dtype=np.int64)
    owner = np.repeat(np.arange(len(texts)), lengths)
    inside = owner[1:] == owner[:-1]
    double = (single[:-1][inside] + 1) * (len(vocabulary) + 1) + single[1:][inside] + 1
    owners = np.concatenate([owner, owner[:-1][inside]])
    members = np.concatenate([single, double + len(vocabulary)])
    order = np.argsort(members)
    ascending = members[order]
    new = np.concatenate([[True], ascending[1:] != ascending[:-1]])
    counts = np.diff(np.concatenate([np.flatnonzero(new), [len(members)]]))
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    codes = np.empty(len(members), dtype=np.int64)
    codes[order] = rank[np.cumsum(new) - 1]
    keys = _distinct(owners * len(counts) + codes)
    return keys // len(counts), keys % len(counts)


def _distinct(values: Ints) -> Ints:
    """The values in order, each once; for millions of them faster than numpy's own, which hashes."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values


def _candidates(
    owners: Ints, members: Ints, groups: Ints, sizes: Ints, threshold: float
) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of different groups that share a leading member and are of fitting size; a pair may come again."""
    wide = int(sizes.max()) + 2
    keys = members * wide + sizes[owners]
    order = np.argsort(keys, kind="stable")
    owners, keys = owners[order], keys[order]
    of = groups[owners]
    for group in np.unique(groups)[:-1]:
        here, later = of == group, of > group
        partners, theirs = owners[here], keys[here]
        probes = owners[later]
        member, size = np.divmod(keys[later], wide)
        smallest = np.ceil(threshold * size - 1e-9).astype(np.int64)
        largest = np.minimum(np.floor(size / threshold + 1e-9).astype(np.int64), wide - 2)
        low = np.searchsorted(theirs, member * wide + smallest, side="left")
        count = np.searchsorted(theirs, member * wide + largest, side="right") - low
        sums = np.cumsum(count)
        start = 0
        while start < len(probes):
            done = int(sums[start - 1]) if start else 0
            stop = max(int(np.searchsorted(sums, done + _CHUNK, side="right")), start + 1)
            part = count[start:stop]
            at = np.repeat(low[start:stop] - (np.cumsum(part) - part), part) + np.arange(int(part.sum()))
            pairs = _distinct(partners[at] * len(sizes) + np.repeat(probes[start:stop], part))
            yield pairs // len(sizes), pairs % len(sizes)
            start = stop


@dataclass(frozen=True)
class _Sets:
    """All sets in one array, each ascending."""

    members: Ints
    starts: Ints
    sizes: Ints

    def shared(self, first: Ints, second: Ints) -> Ints:
        """How many members the sets at ``first`` and ``second`` share, pair by pair."""
        counts = np.zeros(len(first), dtype=np.int64)
        if not len(first):
            return counts
        step = max(_CHUNK // max(int(self.sizes[first].max()), 1), 1)
        universe = int(self.members.max()) + 1
        for begin in range(0, len(first), step):
            part = slice(begin, begin + step)
            mine, of = self._gather(first[part])
            theirs, of_theirs = self._gather(second[part])
            # Keys ascend, since pairs come one after the other and each set ascends.
            keys, wanted = of_theirs * universe + theirs, of * universe + mine
            found = keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted
            counts[part] = np.bincount(of[found], minlength=len(first[part]))
        return counts

    def _gather(self, which: Ints) -> tuple[Ints, Ints]:
        """The members of the sets, one after the other, and to which of them each belongs."""
        sizes = self.sizes[which]
        of = np.repeat(np.arange(len(which)), sizes)
        offsets = np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.members[self.starts[which][of] + offsets], of
