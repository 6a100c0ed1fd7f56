"""Sets that have almost all members in common, found without comparing every pair.

Two sets that similar must share one of their few rarest members (the prefix filter of S. Chaudhuri, V. Ganti,
R. Kaushik (2006), A primitive operator for similarity joins in data cleaning, ICDE), and the earlier members that
either has and the other has not count against the pair (the positional filter of C. Xiao et al. (2008), Efficient
similarity joins for near duplicate detection, WWW). Rows of one template share some rare member with thousands of
others: where a member has so many owners, two of them must share a second one soon after it, and then a third, until
few are left (as with the longer prefixes of J. Wang, G. Li, J. Feng (2012), Can we beat the prefix filtering?, SIGMOD).
The search is exact: every pair at or above the threshold is found; unlike MinHash it misses nothing and draws no random
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_PAIRS_AT_ONCE = 1 << 17
_ENTRIES_AT_ONCE = 1 << 21
_CHEAP = 3
"""Pairs that are compared in the time that one entry takes to be sorted into smaller groups."""
_ROUNDING = 1e-6
"""Bounds are looser by so much; what they let through is compared exactly."""


@dataclass(frozen=True)
class _Sets:
    """The sets, one after the other in one array: the members of each from rare to common."""

    members: Array
    starts: Array
    sizes: Array
    groups: Array
    shared: Array
    """By member: True where sets of two groups have it."""
    parities: Array
    """By set, words of 64 bits: each member flips one bit of the first and one of the others, so that two sets have at
    least as many members that the other has not as bits of the first, or of all others, differ."""
    threshold: float

    def reach(self, rows: Array, left: Array) -> Array:
        """The size of the largest set that may be similar to each of these, if at most ``left`` members are common."""
        return np.asarray((1 + self.threshold) / self.threshold * left - self.sizes[rows] + _ROUNDING)

    def differing(self, together: Array) -> Array:
        """How many members two sets of so many together may have that the other has not."""
        return together * ((1 - self.threshold) / (1 + self.threshold)) + _ROUNDING


@dataclass(frozen=True)
class _Entries:
    """Sets in buckets: those in one bucket have the same members in common, one after the other."""

    buckets: Array
    rows: Array
    places: Array
    """Where in each set the last of these members is."""

    def at(self, chosen: Array) -> _Entries:
        return _Entries(self.buckets[chosen], self.rows[chosen], self.places[chosen])


def similar_pairs(
    sets: Sequence[Sequence[int]], groups: Sequence[int], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """The pairs of sets of different groups whose similarity (Jaccard's) is at least so high.

    Args:
        sets: The members of each set, numbered from 0, each once.
        groups: The group of each set.
        threshold: In (0, 1].

    Yields:
        (first, second, similarity), each pair once: positions in ``sets``, the one of the lower group first.
    """
    joined = _prepared(sets, groups, threshold)
    known: dict[int, frozenset[int]] = {}
    entries, _ = _bucketed(joined, _first_entries(joined), 1)
    pairs = np.unique(np.concatenate([np.empty(0, np.int64), *_candidates(joined, entries, 1)]))
    for first, second in zip(*(part.tolist() for part in np.divmod(pairs, len(sets))), strict=True):
        for row in (first, second):
            if row not in known:
                known[row] = frozenset(sets[row])
        shared = len(known[first] & known[second])
        similarity = shared / (len(known[first]) + len(known[second]) - shared)
        if similarity >= threshold - 1e-9:
            yield first, second, similarity


def _prepared(sets: Sequence[Sequence[int]], groups: Sequence[int], threshold: float) -> _Sets:
    sizes = np.fromiter(map(len, sets), np.int64, len(sets))
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    flat = np.fromiter((member for members in sets for member in members), np.int64, int(sizes.sum()))
    group = np.asarray(groups, dtype=np.int64)
    owners = np.repeat(np.arange(len(sets)), sizes)
    count = int(flat.max(initial=-1)) + 1
    rank = np.empty(count, np.int64)
    rank[np.argsort(np.bincount(flat, minlength=count), kind="stable")] = np.arange(count)
    ranked = rank[flat]
    ranked = ranked[np.argsort(owners * count + ranked, kind="stable")]
    lowest, highest = np.full(count, np.iinfo(np.int64).max), np.full(count, -1, dtype=np.int64)
    np.minimum.at(lowest, ranked, group[owners])
    np.maximum.at(highest, ranked, group[owners])
    scattered = ranked.astype(np.uint64) * _SCATTERING >> np.uint64(32)
    bits, words = np.uint64(1) << scattered % np.uint64(64), 1 + int(sizes.mean()) // _MEMBERS_OF_WORD
    parities = np.zeros((1 + words, len(sizes)), np.uint64)
    np.bitwise_xor.at(parities[0], owners, np.uint64(1) << scattered // np.uint64(1 << 26))
    np.bitwise_xor.at(parities, (1 + scattered // np.uint64(64) % np.uint64(words), owners), bits)
    return _Sets(ranked, starts, sizes, group, lowest < highest, parities, threshold)


_SCATTERING = np.uint64(0x9E3779B97F4A7C15)
"""An odd number without a pattern: multiplied by it, the upper bits of a number depend on all of it."""

_MEMBERS_OF_WORD = 50


def _first_entries(sets: _Sets) -> _Entries:
    """Each set by each of its rarest members, of which a similar set has at least one."""
    rows = np.arange(len(sets.sizes))
    return _expanded(sets, _Entries(np.zeros_like(rows), rows, np.full_like(rows, -1)), 0, np.zeros(len(rows)))


def _expanded(sets: _Sets, entries: _Entries, depth: int, smallest: Array) -> _Entries:
    """Each entry by each of the members that may be the next one that it shares with a similar set.

    Args:
        sets: The sets.
        entries: Some of them in buckets.
        depth: How many members those in a bucket share.
        smallest: The size of the smallest set in each entry's bucket.
    """
    counts = _next_places(sets, entries, depth, smallest)
    owners = np.repeat(np.arange(len(counts)), counts)
    steps = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = entries.places[owners] + 1 + steps
    members = sets.members[sets.starts[entries.rows[owners]] + places]
    kept = sets.shared[members]
    owners, places, members = owners[kept], places[kept], members[kept]
    return _Entries(entries.buckets[owners] * len(sets.shared) + members, entries.rows[owners], places)


def _next_places(sets: _Sets, entries: _Entries, depth: int, smallest: Array) -> Array:
    """How many members of each entry may be the next one that it shares with a similar set."""
    sizes, threshold = sets.sizes[entries.rows], sets.threshold
    needed = threshold / (1 + threshold) * (sizes + np.maximum(smallest, threshold * sizes))
    last = np.floor(sizes + depth - needed + _ROUNDING).astype(np.int64)
    return np.asarray(np.maximum(np.minimum(last, sizes - 1) - entries.places, 0))


def _candidates(sets: _Sets, entries: _Entries, depth: int) -> Iterator[Array]:
    """The pairs that share so many members and may be similar, each as one number; a pair may come several times."""
    pairs = _pairs_of(sets, entries)
    if not len(pairs):
        return
    smallest = np.minimum.reduceat(sets.sizes[entries.rows], _bounds(entries.buckets)[:-1])
    work = np.bincount(entries.buckets, _next_places(sets, entries, depth, smallest[entries.buckets]))
    large = pairs > _CHEAP * (work + np.bincount(entries.buckets))
    yield from _compared(sets, entries.at(~large[entries.buckets]), depth)
    for chosen in _portions(np.flatnonzero(large), work):
        parents = entries.at(np.isin(entries.buckets, chosen))
        children, origin = _bucketed(sets, _expanded(sets, parents, depth, smallest[parents.buckets]), depth + 1)
        beyond = np.bincount(origin, _pairs_of(sets, children), minlength=len(pairs))
        worth = 2 * beyond < pairs  # else what they share says little more of them: rather compare all
        alone = worth[parents.buckets] & (sets.threshold * sets.sizes[parents.rows] <= depth)  # may share nothing more
        yield from _compared(sets, parents.at(~worth[parents.buckets]), depth)
        yield from _compared(sets, parents.at(alone), depth)
        below, _ = _bucketed(sets, children.at(worth[origin[children.buckets]]), depth + 1)
        yield from _candidates(sets, below, depth + 1)


def _bucketed(sets: _Sets, entries: _Entries, depth: int) -> tuple[_Entries, Array]:
    """The entries by bucket and group, without those that have no partner.

    Returns:
        (entries, origin): buckets numbered from 0; and by number, the bucket that it is a part of.
    """
    entries = entries.at(np.lexsort((sets.groups[entries.rows], entries.buckets)))
    while len(entries.rows):
        bounds = _bounds(entries.buckets)
        groups, sizes = sets.groups[entries.rows], sets.sizes[entries.rows]
        mixed = groups[bounds[:-1]] != groups[bounds[1:] - 1]
        smallest = np.minimum.reduceat(sizes, bounds[:-1])
        numbers = np.repeat(np.arange(len(mixed)), np.diff(bounds))
        kept = mixed[numbers] & (sets.reach(entries.rows, sizes - entries.places - 1 + depth) >= smallest[numbers])
        if kept.all():
            return _Entries(numbers, entries.rows, entries.places), entries.buckets[bounds[:-1]] // len(sets.shared)
        entries = entries.at(kept)
    return entries, entries.buckets


def _bounds(buckets: Array) -> Array:
    """Where each bucket begins, and the end of the last one."""
    if not len(buckets):
        return np.zeros(1, dtype=np.int64)
    return np.concatenate([[0], np.flatnonzero(np.diff(buckets)) + 1, [len(buckets)]])


def _runs(sets: _Sets, entries: _Entries) -> Array:
    """Where each bucket's entries of one group begin, and the end of the last ones."""
    return _bounds(entries.buckets * (int(sets.groups.max(initial=0)) + 1) + sets.groups[entries.rows])


def _pairs_of(sets: _Sets, entries: _Entries) -> Array:
    """By bucket, how many pairs of different groups it has."""
    runs = _runs(sets, entries)
    same = np.bincount(entries.buckets[runs[:-1]], np.diff(runs).astype(float) ** 2)
    return (np.bincount(entries.buckets).astype(float) ** 2 - same) / 2


def _portions(buckets: Array, work: Array) -> Iterator[Array]:
    """Buckets in portions of which the next entries fit into memory."""
    if len(buckets):
        portions = np.floor(np.cumsum(work[buckets]) / _ENTRIES_AT_ONCE)
        yield from np.split(buckets, np.flatnonzero(np.diff(portions)) + 1)


def _compared(sets: _Sets, entries: _Entries, depth: int) -> Iterator[Array]:
    """The pairs of different groups within buckets, without those that cannot be similar."""
    bounds, runs = _bounds(entries.buckets), _runs(sets, entries)
    ends, begins = np.repeat(bounds[1:], np.diff(bounds)), np.repeat(runs[1:], np.diff(runs))
    sizes = sets.sizes[entries.rows]
    reach = sets.reach(entries.rows, sizes - entries.places - 1 + depth)
    parities = sets.parities[:, entries.rows]
    most = sets.differing(sizes + reach)
    before = np.concatenate([[0], np.cumsum(ends - begins)])
    start = 0
    while start < len(entries.rows):
        stop = max(int(np.searchsorted(before, before[start] + _PAIRS_AT_ONCE, "right")) - 1, start + 1)
        counts = (ends - begins)[start:stop]
        second = np.repeat(begins[start:stop] - (before[start:stop] - before[start]), counts) + np.arange(counts.sum())
        differing = _bits(np.repeat(parities[0][start:stop], counts) ^ parities[0][second])
        left = np.flatnonzero(differing <= np.repeat(most[start:stop], counts))
        first, second = np.repeat(np.arange(start, stop), counts)[left], second[left]
        start = stop
        kept = (reach[first] >= sizes[second]) & (reach[second] >= sizes[first])
        first, second = first[kept], second[kept]
        differing = np.zeros(len(first))
        for parity in parities[1:]:
            differing += _bits(parity[first] ^ parity[second])
            kept = differing <= sets.differing(sizes[first] + sizes[second])
            first, second, differing = first[kept], second[kept], differing[kept]
        yield np.unique(entries.rows[first] * len(sets.sizes) + entries.rows[second])


def _bits(words: Array) -> Array:
    """How many bits of each word are set."""
    if hasattr(np, "bitwise_count"):  # since numpy 2.0
        return np.asarray(np.bitwise_count(words))
    return np.asarray(_BITS[words.view(np.uint16)].reshape(len(words), 4).sum(axis=1))


_BITS = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)
