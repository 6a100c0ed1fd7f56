"""Slices in reports: a table of each slicing that was asked for, and the slices that stand out where nobody asked.

What stands out is said only where it is real: the interval of the difference must be clear of 0 at a confidence that is
corrected for all slices that were looked at (Bonferroni), and a loss must pass the exact sign-flip test as well. So
where nothing differs, 5 sessions in 100 at most say that something does. What could not be measured says nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pytest_dspy_ft.records.base import SPLITS
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.pairing import by_copy
from pytest_dspy_ft.records.run import ExperimentRecord
from pytest_dspy_ft.records.slices import SlicingRecord, in_slices
from pytest_dspy_ft.records.trajectories import ladder_results
from pytest_dspy_ft.text import bracket, counted, percent, points, shorten

LONGEST_NAME = 40
MOST_ROWS = 50
"""Slices of a table in Markdown and HTML."""

_CONFIDENCE = 0.95
_MOST_SLICES = 20
_FEWEST_EXAMPLES = 10
"""Different examples of a slice that is looked at where nobody asked."""
_CERTAINLY_NOISE = 1.5
"""Standard errors: what is nearer is noise at any confidence that is asked for here, and costs no interval."""
_MOST_FLIPPED = 3000
"""Examples up to which the sign-flip test is made: with more, the interval is as good."""


@dataclass(frozen=True)
class SliceRow:
    """One slice in a table."""

    name: str
    n: int
    """Its different examples."""
    cells: tuple[StageResult | None, ...]
    """The results in it, one for each stage of the table; None where a stage was not measured on it."""


@dataclass(frozen=True)
class SliceTable:
    """The scores of each stage in each slice."""

    by: str
    on: str
    stages: tuple[str, ...]
    rows: tuple[SliceRow, ...]
    left_out: int
    """How many further slices there are."""


def slice_tables(record: ExperimentRecord, most_rows: int = MOST_ROWS) -> Iterator[SliceTable]:
    """The tables of what gates and the experiment slice by; without slices that a stage's examples do not reach."""
    for slicing in record.slices:
        results = [result for result in record.results if result.on == slicing.on and result.n]
        if not slicing.asked or not results:
            continue
        results.sort(key=lambda r: record.order.index(r.stage) if r.stage in record.order else len(record.order))
        cut = [in_slices(result, slicing.groups) for result in results]
        rows = [
            SliceRow(name, len(ids), tuple(parts.get(name) for parts in cut)) for name, ids in slicing.groups.items()
        ]
        shown = tuple(row for row in rows if any(row.cells))
        names = tuple(result.stage for result in results)
        yield SliceTable(slicing.by, slicing.on, names, shown[:most_rows], len(shown[most_rows:]))


# --- what stands out -------------------------------------------------------------------------------------------------

_Change = tuple[ExampleResult, ExampleResult | None]
"""One example of the last stage, and what the stage before made of it."""


@dataclass(frozen=True)
class _Contender:
    """A slice of the last stage on a split, to be held against the rest of it and against the stage before."""

    slicing: SlicingRecord
    name: str
    stage: str
    before: str
    """The stage before; empty without one."""
    changes: Sequence[_Change]
    rest: Sequence[_Contender] = field(default_factory=list)
    """All slices of its slicing, itself among them."""

    @property
    def label(self) -> str:
        """What is sliced by, and the slice."""
        return f"{self.slicing.by}={shorten(self.name, LONGEST_NAME)}"

    @property
    def score(self) -> float:
        """Of the last stage, whatever could not be measured included."""
        return _mean([new.score for new, _ in self.changes])

    @cached_property
    def measured(self) -> list[ExampleResult]:
        """Of the last stage, what could be measured."""
        return [new for new, _ in self.changes if not _failed(new)]

    @cached_property
    def pairs(self) -> list[tuple[ExampleResult, ExampleResult]]:
        """What could be measured of both stages: the earlier result first."""
        return [(old, new) for new, old in self.changes if old is not None and not _failed(old, new)]

    @cached_property
    def moments(self) -> tuple[int, float, float]:
        """Number, sum and sum of squares of the measured scores."""
        scores = [example.score for example in self.measured]
        return len(scores), math.fsum(scores), math.fsum(score * score for score in scores)


def worst_slices(record: ExperimentRecord) -> list[str]:
    """The worst slice of the last stage on each split, in words: where it is worse than the others beyond noise."""
    contenders = _contenders(record)
    found: dict[str, str] = {}
    for one in sorted(contenders, key=lambda contender: contender.score):
        if one.slicing.on not in found and (worse := _below_the_rest(one, len(contenders))) is not None:
            others, difference, ends = worse
            found[one.slicing.on] = (
                f"worst slice of {one.stage} on {one.slicing.on}: {one.label}, {percent(one.score)} of "
                f"{len(one.changes)} examples; the others {percent(others)} ({points(difference):+.1f} "
                f"{bracket(ends, '+')})"
            )
    return list(found.values())


def lost_slices(record: ExperimentRecord) -> list[str]:
    """The slice in which the last stage lost most to the stage before it, in words: where it lost beyond noise.

    Nothing where a gate has failed in that very slice, and said so.
    """
    told = {
        (verdict.by, verdict.on, name)
        for verdict in record.verdicts
        for part in verdict.slices
        if part.verdict == "FAIL"
        for name in (part.name, *part.pooled)
    }
    contenders = [one for one in _contenders(record) if one.before]
    found: dict[str, str] = {}
    for one in sorted(contenders, key=_change):
        slicing = one.slicing
        if slicing.on in found or (ends := _loss(one, len(contenders))) is None:
            continue
        gated = any(verdict.by == slicing.by and verdict.on == slicing.on for verdict in record.verdicts)
        advice = "" if gated else f"; by={slicing.by!r} on a gate judges each slice"
        old, new = (_mean([pair[side].score for pair in one.pairs]) for side in (0, 1))
        found[slicing.on] = (
            ""
            if (slicing.by, slicing.on, one.name) in told
            else f"`{one.stage}` on {slicing.on} lost in slice {one.label} what `{one.before}` had: {percent(old)} -> "
            f"{percent(new)} of {len(one.pairs)} examples ({points(_change(one)):+.1f} {bracket(ends, '+')}, corrected "
            f"for {counted(len(contenders), 'slice')}){advice}"
        )
    return list(filter(None, found.values()))


def _contenders(record: ExperimentRecord) -> list[_Contender]:
    """All slices that are looked at: of few slices each, and of enough examples."""
    found = []
    for on in SPLITS:
        slicings = [s for s in record.slices if s.on == on and 2 <= len(s.groups) <= _MOST_SLICES]
        if not slicings or not (results := ladder_results(record, on)[-2:]):
            continue
        last, earlier = by_copy(results[-1].examples), by_copy(results[0].examples) if len(results) > 1 else {}
        for slicing in slicings:
            slice_of = {identity: name for name, ids in slicing.groups.items() for identity in ids}
            changes: dict[str, list[_Change]] = {name: [] for name in slicing.groups}
            for key, new in last.items():
                if (name := slice_of.get(key[0])) is not None:
                    changes[name].append((new, earlier.get(key)))
            before = results[0].stage if len(results) > 1 else ""
            all_parts: list[_Contender] = []
            all_parts += [
                _Contender(slicing, name, results[-1].stage, before, pairs, all_parts)
                for name, pairs in changes.items()
            ]
            found += [part for part in all_parts if part.changes and len(slicing.groups[part.name]) >= _FEWEST_EXAMPLES]
    return found


def _below_the_rest(one: _Contender, looked_at: int) -> tuple[float, float, tuple[float, float]] | None:
    """The score of the other slices, the difference to it and its interval; None where it is not below 0."""
    from pytest_dspy_ft.statistics.scores import unpaired_difference_interval

    n, total, squares = one.moments
    others = [part.moments for part in one.rest if part is not one]
    m, other_total, other_squares = (math.fsum(moments[i] for moments in others) for i in range(3))
    if not n or not m:
        return None
    mean, other = total / n, other_total / m
    spread = math.sqrt(max(squares / n - mean**2, 0.0) / n + max(other_squares / m - other**2, 0.0) / m)
    if mean >= other - _CERTAINLY_NOISE * spread:
        return None
    rest = [example for part in one.rest if part is not one for example in part.measured]
    ends = unpaired_difference_interval(
        [example.score for example in one.measured],
        [example.score for example in rest],
        1 - (1 - _CONFIDENCE) / looked_at,
        ids=([example.id for example in one.measured], [example.id for example in rest]),
    )
    return (other, mean - other, ends) if ends[1] < 0 else None


def _change(one: _Contender) -> float:
    """The change of its score from the stage before."""
    return _mean([new.score - old.score for old, new in one.pairs])


def _loss(one: _Contender, looked_at: int) -> tuple[float, float] | None:
    """The interval of the change of its score; None where it is no loss beyond noise."""
    from pytest_dspy_ft.statistics.scores import paired_difference_interval
    from pytest_dspy_ft.statistics.sign_flips import chance_of_loss

    changes: dict[str, list[float]] = {}
    for old, new in one.pairs:
        changes.setdefault(old.id, []).append(new.score - old.score)
    means = [_mean(each) for each in changes.values()]
    spread = math.sqrt(math.fsum(mean * mean for mean in means)) / max(len(means), 1)
    if not means or _mean(means) >= -_CERTAINLY_NOISE * spread:
        return None
    error = (1 - _CONFIDENCE) / looked_at
    if len(means) <= _MOST_FLIPPED and chance_of_loss(means) > error / 2:
        return None
    scores = [old.score for old, _ in one.pairs], [new.score for _, new in one.pairs]
    ends = paired_difference_interval(*scores, 1 - error, ids=[old.id for old, _ in one.pairs])
    return ends if ends[1] < 0 else None


def _failed(*examples: ExampleResult) -> bool:
    return any(example.outcome == "error" for example in examples)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / max(len(values), 1)
