"""The verdict on a gate in slices: judged in each by itself, at a confidence corrected for their number.

The gate holds where it holds in every slice. With a confidence the slices are a family of trials, corrected by Holm's
method: the clearest of m slices is judged at an m-th of the error allowed, the last one that is left at all of it. So
the chance that any slice passes or fails falsely is what one gate's would be. Where the session corrects for its gates,
each slice is one trial more among theirs, and the numbers to divide by come from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_dspy_ft.gates.evidence import collect_evidence
from pytest_dspy_ft.gates.gate import MIN_SLICE
from pytest_dspy_ft.gates.holm import Holm
from pytest_dspy_ft.gates.observed import unit_of_sides
from pytest_dspy_ft.gates.verdict import judge
from pytest_dspy_ft.records.gate import SliceVerdict, VerdictName, VerdictRecord
from pytest_dspy_ft.records.pairing import flips
from pytest_dspy_ft.records.slices import in_slices
from pytest_dspy_ft.text import counted, shorten

if TYPE_CHECKING:
    from pytest_dspy_ft.gates.gate import Gate
    from pytest_dspy_ft.gates.slices import Slice
    from pytest_dspy_ft.records.evaluation import StageResult

_MOST_TOLD = 3
"""Slices whose whole story a message tells."""
_MOST_LISTED = 40
_LONGEST_NAME = 40
_WORST_FIRST: dict[VerdictName, int] = {"FAIL": 0, "UNDECIDED": 1, "PASS": 2}


class SlicedGate:
    """A gate, and the results that it is judged by, slice by slice.

    Args:
        gate: One with ``by=``.
        slices: Those of its split.
        results: The evaluations on the split, by stage.
        bootstrap_rates: As for :func:`~pytest_dspy_ft.gates.verdict.judge`.
        seed: Of the resampling.
        max_errors: The share of a slice that may fail to be measured before the gate fails in it.
    """

    def __init__(
        self,
        gate: Gate,
        slices: Sequence[Slice],
        results: Mapping[str, StageResult],
        bootstrap_rates: Mapping[str, float | None],
        *,
        seed: int = 0,
        max_errors: float = 1.0,
    ) -> None:
        self._gate = gate
        self._slices = {part.name: part for part in slices}
        self._groups = {part.name: part.ids for part in slices}
        self._rates = bootstrap_rates
        self._seed, self._max_errors = seed, max_errors
        self._results: dict[str, dict[str, StageResult]] = {part.name: {} for part in slices}
        for stage, result in results.items():
            for name, cut in in_slices(result, self._groups).items():
                self._results[name][stage] = cut

    @property
    def names(self) -> tuple[str, ...]:
        """The slices."""
        return tuple(self._slices)

    def is_decided(self, name: str, divisor: int) -> bool:
        """True where the gate is decided in a slice, its allowed error divided by a number."""
        gate = self._corrected(divisor)
        if gate.confidence is None:
            return True
        ends = collect_evidence(gate, self._results[name], self._rates, self._seed).interval(gate.confidence)
        return ends is not None and not ends[0] < 0 <= ends[1]

    def own_divisors(self) -> dict[str, int]:
        """By slice, the number that its allowed error is divided by, where the gate's slices are all there is."""
        if self._gate.confidence is None:
            return dict.fromkeys(self._slices, 1)
        holm = Holm(list(self._slices), self.is_decided)
        return {name: holm.divisor(name) for name in self._slices}

    def judge(
        self,
        divisors: Mapping[str, int],
        *,
        experiment: str = "",
        examples: Mapping[str, Mapping[str, object]] | None = None,
        ladder: Sequence[StageResult] = (),
    ) -> VerdictRecord:
        """Judge the gate in each slice.

        Args:
            divisors: By slice, the number that its allowed error is divided by.
            experiment: Name of the experiment, for the record.
            examples: What the message may show of an example, by its id.
            ladder: All that is measured on the split, the lowest stage first.

        Returns:
            PASS where all slices pass, UNDECIDED where none fails and some are undecided; with a message for the
            failing test. Its figures are those of the worst slice.
        """
        ways = [in_slices(result, self._groups) for result in ladder]
        found = {
            name: judge(
                self._corrected(divisors[name]),
                self._results[name],
                self._rates,
                experiment=experiment,
                examples=examples,
                ladder=[way[name] for way in ways if name in way],
                seed=self._seed,
                max_errors=self._max_errors,
            )
            for name in self._slices
        }
        ordered = sorted(found, key=lambda name: (_WORST_FIRST[found[name].verdict], found[name].margin))
        worst = found[ordered[0]]
        slices = tuple(self._record(name, found[name], divisors[name]) for name in ordered)
        return worst.model_copy(
            update={
                "by": self._gate.by,
                "slices": slices,
                "observed": f"{worst.observed} in {shorten(ordered[0], _LONGEST_NAME)}",
                "tried": divisors[ordered[0]],
                "message": self._message(slices, {name: found[name].message for name in ordered}),
            }
        )

    def _corrected(self, divisor: int) -> Gate:
        """The gate as it is judged in one slice."""
        return dataclasses.replace(self._gate.corrected(divisor), by=None, min_n=MIN_SLICE)

    def _record(self, name: str, verdict: VerdictRecord, divisor: int) -> SliceVerdict:
        part = self._slices[name]
        return SliceVerdict(
            name=name,
            n=len(part.ids),
            verdict=verdict.verdict,
            observed=verdict.observed,
            margin=verdict.margin,
            interval=verdict.interval,
            confidence=verdict.confidence,
            tried=divisor,
            pooled=part.pooled,
            broke=self._broke(name),
        )

    def _broke(self, name: str) -> tuple[str, ...]:
        condition = self._gate.condition
        stages = list(dict.fromkeys(q.stage for q in condition.quantities if q.measure == "score"))
        if len(stages) != 2:
            return ()
        after, before = stages if condition.upward else stages[::-1]
        _, broke = flips(self._results[name][before], self._results[name][after])
        return tuple(dict.fromkeys(broke))

    # --- in words ----------------------------------------------------------------------------------------------------

    def _message(self, slices: Sequence[SliceVerdict], stories: Mapping[str, str]) -> str:
        gate, worst = self._gate, slices[0]
        failed = [part for part in slices if part.verdict == "FAIL"]
        undecided = [part for part in slices if part.verdict == "UNDECIDED"]
        outcome = "failed" if failed else "is undecided" if undecided else "passed"
        bad = failed or undecided
        n = sum(part.n for part in slices)
        parts = counted(len(slices), "slice")
        how_many = f"{outcome.removeprefix('is ')} in {len(bad)} of {parts}, " if bad else ""
        lines = [
            f"Gate `{gate.expression}` by {gate.by} {outcome} (on {gate.on}, n = {n} in {parts}): {how_many}the "
            f"worst is {_short(worst.name)}: observed {worst.observed}",
            *self._table(slices),
        ]
        for part in slices:
            name = _short(part.name)
            if part.pooled:
                lines.append(f"  {name}: {len(part.pooled)} slices of fewer than {gate.min_n} examples, as one")
            if part.n < gate.min_n:
                lines.append(f"  {name} has {part.n}, fewer than min_n={gate.min_n}: judged all the same")
        if gate.confidence is not None and len(slices) > 1:
            divisors = sorted({part.tried for part in slices}, reverse=True)
            error = f"error {1 - gate.confidence:.3g} / {' or '.join(map(str, divisors))}"
            lines.append(f"  corrected by Holm's method for {counted(max(divisors), 'trial')}: {error}")
        for part in bad[:_MOST_TOLD]:
            said = "failed" if part.verdict == "FAIL" else "is undecided"
            lines.append(f"  Slice {_short(part.name)} {said} (n = {part.n}): observed {part.observed}")
            lines += [f"  {line}" for line in stories[part.name].splitlines()[1:]]
        if len(bad) > _MOST_TOLD:
            lines.append(f"  and {len(bad) - _MOST_TOLD} more slices, as listed above")
        return "\n".join(lines)

    def _table(self, slices: Sequence[SliceVerdict]) -> list[str]:
        unit = unit_of_sides(self._gate.condition, difference=True)
        rows = []
        for part in slices[:_MOST_LISTED]:
            interval = ""
            if part.interval is not None and part.confidence is not None:
                low, high = (unit.write(end) for end in part.interval)
                interval = f"  margin at {100 * part.confidence:.4g}%: {low} to {high}"
            rows.append((_short(part.name), f"n = {part.n}", part.observed, f"{part.verdict}{interval}"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            f"    {name:<{widths[0]}}  {n:>{widths[1]}}  {observed:>{widths[2]}}  {rest}"
            for name, n, observed, rest in rows
        ]
        more = [f"    and {len(slices) - _MOST_LISTED} more slices"] if len(slices) > _MOST_LISTED else []
        return lines + more


def _short(name: str) -> str:
    return name if name.startswith("(pooled: ") else shorten(name, _LONGEST_NAME)
