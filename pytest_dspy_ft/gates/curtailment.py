"""Verdicts on a whole split from a part of it: those that no example that is still to be measured can change.

Each of these scores anything from 0 to 1, cannot be read, or fails. Margins are bounded by exact arithmetic. An
interval is looked at with the others at their worst and at their best: of 0/1 scores its ends move with every example
that does. As a metric that gave only 0 and 1 so far may yet give something between, those ends are the outer ones of
the counted interval and of the resampled one at a quarter of the error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from pytest_dspy_ft.gates.expression import (
    Extreme,
    Negative,
    Node,
    Number,
    Operation,
    Quantity,
    affine,
    without_signs,
)
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.intervals import gate_interval
from pytest_dspy_ft.gates.stopping import Decision, stoppable
from pytest_dspy_ft.gates.unmeasured import against_the_claim
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.gate import VerdictName
from pytest_dspy_ft.statistics.bootstrap import Array, margin_interval

_ROUNDING = Fraction(1, 10**12)
_ALLOWED_FOR_RESAMPLING = 4
_RESAMPLES = 200_000
_FEWEST_BEYOND = 25
"""Resamples that must lie outside either end."""

Span = tuple[Fraction, Fraction]
"""The least and the most that something can come to."""


def curtailed(gate: Gate, results: Mapping[str, StageResult], *, max_errors: float = 1.0) -> Decision | None:
    """The verdict on a gate where no example that is still to be measured can change it; None where one could.

    Args:
        gate: The gate.
        results: The evaluations of the stages it names, whole or not.
        max_errors: The share of a stage's examples that may fail before its gates do.
    """
    used = {stage: results[stage] for stage in sorted(gate.score_stages) if stage in results}
    if not stoppable(gate) or len(used) < len(gate.score_stages) or len({r.planned_n for r in used.values()}) != 1:
        return None
    planned = next(iter(used.values())).planned_n
    common = frozenset.intersection(*(frozenset(e.id for e in result.examples) for result in used.values()))
    if not common:
        return None
    ground = common, next(iter(used.values())).part(common).n, planned
    limit = Fraction(str(max_errors))
    asked = {q.stage for q in gate.condition.quantities if q.measure == "errors"}
    most: dict[str, Fraction] = {}
    excess: dict[str, Fraction] = {}
    for stage, result in used.items():
        if stage not in asked:
            calls = planned * result.repeats
            if (share := Fraction(result.errors, calls)) > limit:
                excess[stage] = share
            most[stage] = Fraction(result.errors + calls - result.calls, calls)
    if excess:
        return Decision("curtail", "FAIL", *ground, excess=excess)
    may_pass = all(share <= limit for share in most.values())  # else the others may fail, and the gate with them
    found = (_by_margin if gate.confidence is None else _by_interval)(gate, used, planned, may_pass=may_pass)
    if found is None:
        return None
    verdict, bound, interval = found
    return Decision("curtail", verdict, *ground, bound, interval, gate.confidence)


_Found = tuple[VerdictName, Fraction | None, tuple[float, float] | None]


def _by_margin(gate: Gate, results: Mapping[str, StageResult], planned: int, *, may_pass: bool) -> _Found | None:
    """The verdict by the margin itself, from the spans of all that is measured."""
    margin, form = _margin(gate), affine(_margin(gate))
    spans = {}
    for quantity in gate.condition.quantities:
        result = results[quantity.stage]
        # Which way a quantity moves a margin that is no sum may depend on what is not measured yet.
        senses = [False, True] if form is None else [form[0].get(quantity, Fraction(0)) < 0]
        sums = [_sum(quantity, against_the_claim(quantity, small, result.examples)) for small in senses]
        spans[quantity] = min(sums) / planned, (max(sums) + planned - result.n) / planned
    if form is not None:
        terms = [sorted((factor * spans[q][0], factor * spans[q][1])) for q, factor in form[0].items()]
        span: Span | None = tuple(sum(ends, form[1]) for ends in zip(*terms, strict=True)) if terms else None  # type: ignore[assignment]
    else:
        span = _span(margin, spans)
    size = _span(Operation("+", *(without_signs(side) for side in (gate.condition.left, gate.condition.right))), spans)
    if span is None or size is None:
        return None
    (low, high), rounding = span, _ROUNDING * size[1]
    if low > rounding if gate.condition.strict else low >= 0:
        return ("PASS", low, None) if may_pass else None
    if high <= 0 if gate.condition.strict else high < -rounding:
        return "FAIL", high, None
    return None


def _sum(quantity: Quantity, column: Sequence[float]) -> Fraction:
    return sum(map(Fraction, column), Fraction(0)) if quantity.measure == "score" else Fraction(math.fsum(column))


def _margin(gate: Gate) -> Operation:
    condition = gate.condition
    sides = (condition.left, condition.right) if condition.upward else (condition.right, condition.left)
    return Operation("-", *sides)


def _span(node: Node, spans: Mapping[Quantity, Span]) -> Span | None:
    """What a side can come to; None where it may divide by 0."""
    match node:
        case Quantity():
            return spans[node]
        case Number(value):
            return value, value
        case Negative(operand):
            inner = _span(operand, spans)
            return None if inner is None else (-inner[1], -inner[0])
        case Extreme(name, arguments):
            parts = [part for argument in arguments if (part := _span(argument, spans)) is not None]
            pick = min if name == "min" else max
            return (pick(p[0] for p in parts), pick(p[1] for p in parts)) if len(parts) == len(arguments) else None
        case Operation(operator, left, right):
            a, b = _span(left, spans), _span(right, spans)
            if a is None or b is None:
                return None
            if operator == "+":
                return a[0] + b[0], a[1] + b[1]
            if operator == "-":
                return a[0] - b[1], a[1] - b[0]
            if operator == "/":
                if b[0] <= 0 <= b[1]:
                    return None
                b = 1 / b[1], 1 / b[0]
            products = [x * y for x in a for y in b]
            return min(products), max(products)


def _by_interval(gate: Gate, results: Mapping[str, StageResult], planned: int, *, may_pass: bool) -> _Found | None:
    """The verdict by the interval, with all examples that are not measured at their worst and at their best.

    Only for what intervals of counts are for: one 0/1 score, or the difference of two, of examples without copies.
    """
    form = affine(_margin(gate))
    if form is None or gate.confidence is None or not _countable(form[0], results):
        return None
    worst, best = (_completed(form[0], results, planned, best=best) for best in (False, True))
    size = _ROUNDING * (sum(map(abs, form[0].values()), abs(form[1])) + 1)

    def verdict(low: float, high: float) -> VerdictName | None:
        return "PASS" if may_pass and low > size else "FAIL" if high < -size else None

    ends = [gate_interval(gate.condition, columns, confidence=gate.confidence) for columns in (worst, best)]
    if ends[0] is None or ends[1] is None or verdict(ends[0][0], ends[1][1]) is None:
        return None
    low, high = ends[0][0], ends[1][1]
    if any(q.measure == "score" for q in form[0]):
        wider = 1 - (1 - gate.confidence) / _ALLOWED_FOR_RESAMPLING
        if (1 - wider) / 2 * _RESAMPLES < _FEWEST_BEYOND:
            return None
        factors = np.array([float(factor) for factor in form[0].values()])
        low = min(low, _resampled(worst, factors, float(form[1]), wider)[0])
        high = max(high, _resampled(best, factors, float(form[1]), wider)[1])
    found = verdict(low, high)
    return None if found is None else (found, None, (low, high))


def _countable(factors: Mapping[Quantity, Fraction], results: Mapping[str, StageResult]) -> bool:
    values = list(factors.values())
    if not (len(values) == 1 or (len(values) == 2 and values[0] == -values[1])):
        return False
    named = [results[quantity.stage] for quantity in factors]
    ids = {example.id for result in named for example in result.examples}
    alone = all(len({example.id for example in result.examples}) == result.n for result in named)
    known = len(ids) == max(result.n for result in named) or len(named) == 1
    return alone and known and all(result.binary and result.repeats == 1 for result in named)


def _completed(
    factors: Mapping[Quantity, Fraction], results: Mapping[str, StageResult], planned: int, *, best: bool
) -> dict[Quantity, Array]:
    """Columns of the whole split: as measured, and else as good or as bad for the gate as can be."""
    ids = list(dict.fromkeys(e.id for quantity in factors for e in results[quantity.stage].examples))
    columns = {}
    for quantity, factor in factors.items():
        examples = results[quantity.stage].examples
        judged = against_the_claim(quantity, factor < 0, examples)
        known = {example.id: value for example, value in zip(examples, judged, strict=True)}
        other = float((factor > 0) == best)
        columns[quantity] = np.array([known.get(one, other) for one in ids] + [other] * (planned - len(ids)))
    return columns


def _resampled(
    columns: Mapping[Quantity, Array], factors: Array, offset: float, confidence: float
) -> tuple[float, float]:
    table = np.column_stack(list(columns.values()))
    return margin_interval(table, lambda means: means @ factors + offset, confidence=confidence, resamples=_RESAMPLES)
