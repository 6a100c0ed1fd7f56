"""Gates that are looked at several times while their examples are measured, and decided as soon as a look is sure.

A gate is looked at ten times, before the last by intervals so sure that all looks together err hardly more often than
the gate's confidence says (`pytest_dspy_ft.statistics.sequential`); the last look is that of a gate without looks. A
look sees its own examples and no more. So whoever measured them, and however many there are by now, the same look
decides, with the same verdict.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.evidence import collect_evidence, excess_errors
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.intervals import resolves
from pytest_dspy_ft.gates.stopping import Decision, stoppable
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.gate import VerdictName
from pytest_dspy_ft.statistics.sequential import look_confidences

LOOKS = 10
"""How often a gate with a confidence is looked at, the last time with all examples."""


def order_of(ids: Sequence[str], seed: int) -> list[str]:
    """Different examples in an order that the seed shuffles, the same in every session, whatever is beside them."""
    return sorted(dict.fromkeys(ids), key=lambda one: hashlib.sha256(f"{seed}:{one}".encode()).digest())


def look_sizes(different: int) -> list[int]:
    """How many different examples each look has."""
    return list(dict.fromkeys(math.ceil(different * look / LOOKS) for look in range(1, LOOKS + 1)))


def replayed(
    gate: Gate, results: Mapping[str, StageResult], order: Sequence[str], *, seed: int = 0, max_errors: float = 1.0
) -> Decision | None:
    """The verdict of the first look that decides a gate, or of the last; None where a look lacks examples.

    Args:
        gate: The gate; it has a confidence.
        results: The evaluations of the stages it names, whole or not.
        order: The different examples of the split, in the order in which they are measured.
        seed: Of the resampling.
        max_errors: The share of a look's examples that may fail to be measured if it is to decide.
    """
    if not stoppable(gate) or gate.confidence is None or not gate.score_stages <= results.keys():
        return None
    used = {stage: results[stage] for stage in gate.score_stages}
    planned = next(iter(used.values())).planned_n
    sizes = look_sizes(len(order))
    levels = look_confidences([size / len(order) for size in sizes], gate.confidence)
    held = {stage: set(result.ids) for stage, result in used.items()}
    for number, (size, level) in enumerate(zip(sizes, levels, strict=True), 1):
        seen, last = frozenset(order[:size]), size == len(order)
        if any(not seen <= ids for ids in held.values()):
            return None
        parts = {stage: result.part(seen) for stage, result in used.items()}
        decision = _looked(gate, parts, level, seed, max_errors, last=last)
        if decision is not None:
            verdict, interval, excess = decision
            count = next(iter(parts.values())).n
            look = f"{number} of {len(sizes)}"
            return Decision("sequential", verdict, seen, count, planned, None, interval, level, look, excess)
    return None


_Look = tuple[VerdictName, tuple[float, float] | None, Mapping[str, Fraction]]


def _looked(
    gate: Gate, parts: Mapping[str, StageResult], level: float, seed: int, max_errors: float, *, last: bool
) -> _Look | None:
    """What one look comes to; None where it decides nothing."""
    try:
        evidence = collect_evidence(gate, parts, {}, seed)
        rounding = evidence.rounding_error()
        evidence.margin()
    except (GateError, ZeroDivisionError):
        return None
    excess = excess_errors(gate, evidence.results, max_errors)
    resolved = last or resolves(gate.condition, evidence.observations(), level, evidence.sizes)
    if not resolved or (excess and not last):
        return None
    interval = evidence.interval(level)
    verdict: VerdictName = "UNDECIDED" if interval is None else evidence.verdict(*interval, rounding)
    if excess:
        verdict = "FAIL"
    return (verdict, interval, excess) if last or verdict != "UNDECIDED" else None
