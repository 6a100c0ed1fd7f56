"""Slices in reports: a table of each slicing that was asked for, and the slices that stand out where nobody asked.

What stands out is said only where it is real: the interval of the difference must be clear of 0 at a confidence that is
corrected for all slices that were looked at (Bonferroni), and a loss must pass the exact sign-flip test as well. So
where nothing differs, 5 sessions in 100 at most say that something does. What could not be measured says nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pytest_dspy_ft.records.base import SPLITS
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.pairing import aligned
from pytest_dspy_ft.records.run import ExperimentRecord
from pytest_dspy_ft.records.slices import SlicingRecord, in_slices
from pytest_dspy_ft.records.trajectories import ladder_results
from pytest_dspy_ft.text import bracket, percent, points, shorten

LONGEST_NAME = 40
MOST_ROWS = 50
"""Slices of a table in Markdown and HTML."""

_CONFIDENCE = 0.95
_MOST_SLICES = 20
_FEWEST_EXAMPLES = 10
"""Different examples of a slice that is looked at where nobody asked."""
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


@dataclass(frozen=True)
class _Contender:
    """A slice of the last stage on a split, held against the rest of it and against the stage before."""

    slicing: SlicingRecord
    name: str
    part: StageResult
    rest: tuple[ExampleResult, ...]
    before: StageResult | None

    @property
    def label(self) -> str:
        """What is sliced by, and the slice."""
        return f"{self.slicing.by}={shorten(self.name, LONGEST_NAME)}"


def worst_slices(record: ExperimentRecord) -> list[str]:
    """The worst slice of the last stage on each split, in words: where it is worse than the others beyond noise."""
    found: dict[str, tuple[float, str]] = {}
    candidates = _candidates(record)
    for candidate in candidates:
        ends = _below_the_rest(candidate, 1 - (1 - _CONFIDENCE) / len(candidates))
        if ends is None:
            continue
        part, on = candidate.part, candidate.slicing.on
        others = _mean(candidate.rest)
        text = (
            f"worst slice of {part.stage} on {on}: {candidate.label}, {percent(part.score)} of {part.n} examples; the "
            f"others {percent(others)} ({points(_mean(_measured(part)) - others):+.1f} {bracket(ends, '+')})"
        )
        if on not in found or part.score < found[on][0]:
            found[on] = part.score, text
    return [text for _, text in found.values()]


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
    found: dict[str, tuple[float, str]] = {}
    candidates = [candidate for candidate in _candidates(record) if candidate.before is not None]
    for candidate in candidates:
        slicing, part, before = candidate.slicing, candidate.part, candidate.before
        if before is None or (loss := _loss(before, part, len(candidates))) is None:
            continue
        change, ends = loss
        gated = any(verdict.by == slicing.by and verdict.on == slicing.on for verdict in record.verdicts)
        advice = "" if gated else f"; by={slicing.by!r} on a gate judges each slice"
        text = (
            f"`{part.stage}` on {slicing.on} lost in slice {candidate.label} what `{before.stage}` had: "
            f"{percent(before.score)} -> {percent(part.score)} of {part.n} examples ({points(change):+.1f} "
            f"{bracket(ends, '+')}, corrected for {len(candidates)} slices){advice}"
        )
        if slicing.on not in found or change < found[slicing.on][0]:
            found[slicing.on] = change, "" if (slicing.by, slicing.on, candidate.name) in told else text
    return [text for _, text in found.values() if text]


def _candidates(record: ExperimentRecord) -> list[_Contender]:
    """All slices that are looked at: of few slices each, and of enough examples."""
    found = []
    for on in SPLITS:
        results = ladder_results(record, on)[-2:]
        for slicing in record.slices:
            if not results or slicing.on != on or not 2 <= len(slicing.groups) <= _MOST_SLICES:
                continue
            parts, *earlier = (in_slices(result, slicing.groups) for result in reversed(results))
            for name, part in parts.items():
                if len(slicing.groups[name]) >= _FEWEST_EXAMPLES:
                    rest = tuple(e for other, result in parts.items() if other != name for e in _measured(result))
                    before = earlier[0].get(name) if earlier else None
                    found.append(_Contender(slicing, name, part, rest, before))
    return found


def _measured(result: StageResult) -> tuple[ExampleResult, ...]:
    return tuple(example for example in result.examples if example.outcome != "error")


def _mean(examples: tuple[ExampleResult, ...]) -> float:
    return math.fsum(example.score for example in examples) / max(len(examples), 1)


def _below_the_rest(candidate: _Contender, confidence: float) -> tuple[float, float] | None:
    """The interval of a slice's score minus the others'; None where it is not below 0."""
    from pytest_dspy_ft.statistics.scores import unpaired_difference_interval

    part, rest = _measured(candidate.part), candidate.rest
    if not part or not rest or _mean(part) >= _mean(rest):
        return None
    scores = [[example.score for example in examples] for examples in (part, rest)]
    ids = [example.id for example in part], [example.id for example in rest]
    ends = unpaired_difference_interval(scores[0], scores[1], confidence, ids=ids)
    return ends if ends[1] < 0 else None


def _loss(before: StageResult, after: StageResult, looked_at: int) -> tuple[float, tuple[float, float]] | None:
    """The change of the score and its interval; None where it is no loss beyond noise."""
    from pytest_dspy_ft.statistics.scores import paired_difference_interval
    from pytest_dspy_ft.statistics.sign_flips import chance_of_loss

    pairs = [(old, new) for old, new in aligned([before.examples, after.examples]) if not _failed(old, new)]
    changes: dict[str, list[float]] = {}
    for old, new in pairs:
        changes.setdefault(old.id, []).append(new.score - old.score)
    change = math.fsum(new.score - old.score for old, new in pairs) / max(len(pairs), 1)
    if change >= 0:
        return None
    error = (1 - _CONFIDENCE) / looked_at
    if len(changes) <= _MOST_FLIPPED and chance_of_loss(_means(changes)) > error / 2:
        return None
    scores = [old.score for old, _ in pairs], [new.score for _, new in pairs]
    ends = paired_difference_interval(*scores, 1 - error, ids=[old.id for old, _ in pairs])
    return (change, ends) if ends[1] < 0 else None


def _failed(*examples: ExampleResult) -> bool:
    return any(call.outcome == "error" for example in examples for call in example.each)


def _means(changes: Mapping[str, list[float]]) -> list[float]:
    return [math.fsum(each) / len(each) for each in changes.values()]
