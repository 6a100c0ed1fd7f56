"""The verdict on a gate.

Rules:
    * Point estimates are exact fractions: 0.8 is 70% + 10%. Where something recorded as a float goes in (graded
      scores, costs, seconds), a margin below its rounding error (1e-12 of the size of the sides) counts as 0.
    * The margin is left minus right, with its sign turned for ``<=`` and ``<``: 0 or more is good.
    * Dividing by zero is a FAIL: a comparison that cannot be made has not been passed.
    * ``bootstrap_rate`` is a count over the train split of this very build, not an estimate: it has no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.evidence import Evidence, collect_evidence, excess_errors
from pytest_dspy_ft.gates.explain import Judgement, explain
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.stopping import Decision
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.gate import VerdictName, VerdictRecord

_HINT_CONFIDENCE = 0.95
_LARGEST_MARGIN = 10**60


def judge(
    gate: Gate,
    results: Mapping[str, StageResult],
    bootstrap_rates: Mapping[str, float | None] | None = None,
    *,
    experiment: str = "",
    examples: Mapping[str, Mapping[str, object]] | None = None,
    ladder: Sequence[StageResult] = (),
    seed: int = 0,
    max_errors: float = 1.0,
) -> VerdictRecord:
    """Hold a gate against the results.

    Args:
        gate: The gate, without ``by=``: in slices it is judged by `pytest_dspy_ft.gates.sliced`.
        results: The evaluations on the gate's split, by stage: at least those of ``gate.score_stages``.
        bootstrap_rates: Shares of train examples whose trace was kept, by stage; None for a stage without training.
        experiment: Name of the experiment, for the record.
        examples: What the message may show of an example, by its id: ``{"inputs": {...}, "expected": {...}}``, and a
            function ``replies`` from a stage to the LM's answers.
        ladder: All that is measured on the gate's split, the lowest stage first: what the message follows examples
            through.
        seed: Of the resampling; one seed always gives one verdict.
        max_errors: The gate fails, whatever the figures, where a larger share of a stage's examples was not measured.

    Returns:
        The verdict, with a message for the failing test.

    Raises:
        GateError: It cannot be judged: a result is missing, the results cover different examples, a cost or a
            bootstrap rate is not known.
    """
    if gate.by is not None:
        raise GateError(f"gate `{gate.expression}` by {gate.by!r} is judged in slices: use Ladder.judge or SlicedGate")
    evidence = collect_evidence(gate, results, bootstrap_rates or {}, seed)
    interval: tuple[float, float] | None = None
    verdict: VerdictName = "FAIL"
    try:
        margin: Fraction | None = evidence.margin()
    except ZeroDivisionError:
        margin = None
    if margin is None:
        pass
    elif abs(margin) > _LARGEST_MARGIN:
        raise GateError(f"gate `{gate.expression}`: the sides are too large to be compared; check its numbers")
    elif gate.confidence is None or not evidence.results:
        verdict = evidence.verdict(margin, margin, Fraction(0) if evidence.exact else evidence.rounding_error())
    else:
        interval = evidence.interval(gate.confidence)
        verdict = "UNDECIDED" if interval is None else evidence.verdict(*interval, evidence.rounding_error())
    excess = excess_errors(gate, evidence.results, max_errors)
    if excess:
        verdict = "FAIL"
    hint_interval = interval
    if verdict == "FAIL" and gate.confidence is None and margin is not None and evidence.results:
        hint_interval = evidence.interval(_HINT_CONFIDENCE)
    judgement = Judgement(verdict, margin, interval, hint_interval, excess, max_errors)
    return _record(evidence, judgement, experiment, *explain(evidence, judgement, examples or {}, ladder))


def judge_decided(
    gate: Gate,
    results: Mapping[str, StageResult],
    decision: Decision,
    *,
    experiment: str = "",
    examples: Mapping[str, Mapping[str, object]] | None = None,
    ladder: Sequence[StageResult] = (),
    seed: int = 0,
    max_errors: float = 1.0,
) -> VerdictRecord:
    """Put a decision on a gate into a verdict: one that stood before all examples were measured, or by a planned look.

    Args:
        gate: The gate.
        results: The evaluations of ``gate.score_stages``, with the examples that the decision rests on.
        decision: The decision.
        experiment: As that of :func:`judge`, like the other arguments.
        examples: What the message may show of an example.
        ladder: All that is measured on the gate's split.
        seed: Of the resampling.
        max_errors: The share of errors that the decision allowed.
    """
    evidence = collect_evidence(gate, results, {}, seed)
    try:
        margin: Fraction | None = evidence.margin()
    except ZeroDivisionError:
        margin = None
    interval = decision.interval
    judgement = Judgement(decision.verdict, margin, interval, interval, decision.excess, max_errors, decision)
    record = _record(evidence, judgement, experiment, *explain(evidence, judgement, examples or {}, ladder))
    changes = {
        "margin": record.margin if decision.bound is None else float(decision.bound),
        "stopped": str(decision) if decision.early else "",
        "level": None if interval is None else decision.level,
    }
    return record.model_copy(update=changes)


def _record(evidence: Evidence, judgement: Judgement, experiment: str, observed: str, message: str) -> VerdictRecord:
    gate, verdict, margin = evidence.gate, judgement.verdict, judgement.margin
    return VerdictRecord(
        experiment=experiment,
        expression=gate.expression,
        on=gate.on,
        verdict=verdict,
        passed=verdict == "PASS" or (verdict == "UNDECIDED" and gate.undecided != "fail"),
        observed=observed,
        margin=-1.0 if margin is None else float(margin),
        interval=judgement.interval,
        confidence=gate.confidence,
        undecided=gate.undecided,
        message=message,
    )
