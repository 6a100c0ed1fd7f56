"""Gates: what is asked of the stages, and the verdict on it.

`Gate.parse` reads what stands in a ``dspy_gate`` marker; `judge` holds it against the results. This module is imported
while tests are collected, so it loads nothing heavy; numpy comes in when an interval is needed.

Rules:
    * Point estimates are exact fractions: 0.8 is 70% + 10%. Where something recorded as a float goes in (graded
      scores, costs, seconds), a margin below its rounding error (1e-12 of the size of the sides) counts as 0.
    * The margin is left minus right, with its sign turned for ``<=`` and ``<``: 0 or more is good.
    * Dividing by zero is a FAIL: a comparison that cannot be made has not been passed.
    * ``bootstrap_rate`` is a count over the train split of this very build, not an estimate: it has no interval.

The observed value, in words people read, follows one rule: it is the figure to hold against the number written in the
gate.
    1. A side is a plain number: the other side (``finetuned >= 88%``: "88.3%").
    2. The right side is something times or divided by a number: left side over that something
       (``student >= 93% * teacher``: "0.95x").
    3. Otherwise the left side minus the right one without the number added to it
       (``finetuned >= baseline + 10%``: "+12.0 pts").
It gets more decimals where the usual ones would show a number on the wrong side (87.96%, not 88.0%, fails 88%).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, Self, cast

from pytest_dspy_ft import expressions, parsing
from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.expressions import Condition, Node, Quantity
from pytest_dspy_ft.gate_tokens import complain

if TYPE_CHECKING:
    from pytest_dspy_ft.results import ExampleResult, StageResult, VerdictRecord

SplitName = Literal["train", "dev", "test"]
Undecided = Literal["fail", "pass", "warn"]

_SPLITS = ("train", "dev", "test")
_UNDECIDED = ("fail", "pass", "warn")
_ROUNDING = Fraction(1, 10**12)
_HINT_CONFIDENCE = 0.95
_ABSURD = 10**60


@dataclass(frozen=True)
class Gate:
    """One condition on the stages of an experiment. Make it with `Gate.parse`."""

    expression: str
    on: SplitName = "dev"
    confidence: float | None = None
    undecided: Undecided = "fail"
    lm: str | None = None
    condition: Condition = field(kw_only=True, compare=False, repr=False)

    @classmethod
    def parse(
        cls,
        expression: str,
        *,
        on: str = "dev",
        confidence: float | None = None,
        undecided: str = "fail",
        lm: str | None = None,
    ) -> Self:
        """Read a gate and check everything that can be checked without knowing the stages.

        Args:
            expression: A comparison such as ``"finetuned >= prompt_optimized"``.
            on: The split to judge on: ``train``, ``dev`` or ``test``.
            confidence: Judge by the interval of the margin with this confidence, in (0, 1); None: by the figures as
                they are.
            undecided: What an interval on both sides of 0 does: ``fail``, ``pass`` or ``warn``.
            lm: The gate holds only for LMs whose name matches this glob, such as ``openai/*``.

        Raises:
            GateError: Something is wrong; the message says what, where, and what would be right.
        """
        condition = parsing.parse(expression)
        _choose("on", on, _SPLITS)
        _choose("undecided", undecided, _UNDECIDED)
        if confidence is not None:
            if isinstance(confidence, bool) or not isinstance(confidence, (int, float)):
                raise GateError(f"dspy_gate: confidence must be a number such as 0.95, not {confidence!r}")
            if not 0 < confidence < 1:
                hint = f"; did you mean {confidence / 100:g}?" if 1 < confidence < 100 else ", such as 0.95"
                raise GateError(f"dspy_gate: confidence must lie between 0 and 1, not {confidence!r}{hint}")
        if lm is not None and not (isinstance(lm, str) and lm.strip()):
            raise GateError(f"dspy_gate: lm must be the name of a model or a pattern such as 'openai/*', not {lm!r}")
        return cls(
            expression.strip(),
            cast(SplitName, on),
            None if confidence is None else float(confidence),
            cast(Undecided, undecided),
            lm,
            condition=condition,
        )

    @property
    def stages(self) -> frozenset[str]:
        """All stages named."""
        return frozenset(q.stage for q in self.condition.quantities)

    @property
    def score_stages(self) -> frozenset[str]:
        """The stages that must be evaluated on the split."""
        return frozenset(q.stage for q in self.condition.quantities if q.measure != "bootstrap_rate")

    @property
    def build_stages(self) -> frozenset[str]:
        """The stages that need only be built: their ``bootstrap_rate`` is all that is asked."""
        return self.stages - self.score_stages

    def check_names(self, known: Collection[str]) -> None:
        """Check that every stage named exists.

        Args:
            known: The names of all stages of the experiment.

        Raises:
            GateError: One does not; the message suggests the likely one and lists the choices.
        """
        for stage, position in self.condition.positions.items():
            if stage in known:
                continue
            near = get_close_matches(stage, known, n=1)
            hyphened = next((name for name in known if not name.isidentifier() and name in self.expression), None)
            if hyphened is not None:
                hint = f" (`{hyphened}` reads as a calculation here: only names like `{_word(hyphened)}` can be gated)"
            else:
                hint = f"; did you mean `{near[0]}`?" if near else ""
            problem = f"there is no stage `{stage}`{hint}\n    stages: {', '.join(known)}"
            raise complain(self.condition.expression, position, problem)

    def applies_to(self, lm_model: str) -> bool:
        """Whether the gate holds for this LM."""
        return self.lm is None or fnmatchcase(lm_model, self.lm)


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise GateError(f"dspy_gate: {name} must be one of {', '.join(choices)}, not {value!r}{hint}")


def _word(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


# -- judging ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """What was measured of the stages in one gate, example by example and in sum."""

    gate: Gate
    results: dict[str, StageResult]
    """The evaluated stages, in the order the gate names them."""
    aligned: dict[str, list[ExampleResult]]
    """Their examples, all in one order."""
    values: dict[Quantity, Fraction]
    exact: bool
    """Whether every value is a count over a count, with no float in it."""
    seed: int

    @property
    def n(self) -> int:
        """How many examples every stage was evaluated on; 0 where none was."""
        return next((result.n for result in self.results.values()), 0)

    def side(self, node: Node, moved: Mapping[Quantity, Fraction] | None = None) -> Fraction:
        """One side, exactly, with the values in ``moved`` in place of the measured ones."""
        values = self.values if moved is None else {**self.values, **moved}
        return expressions.exactly(node, values.__getitem__)

    def margin(self, moved: Mapping[Quantity, Fraction] | None = None) -> Fraction:
        """Left minus right, sign turned for ``<=`` and ``<``; raises ZeroDivisionError."""
        condition = self.gate.condition
        difference = self.side(condition.left, moved) - self.side(condition.right, moved)
        return difference if condition.upward else -difference

    def slack(self) -> Fraction:
        """The rounding error that values recorded as floats may bring into the margin."""
        condition = self.gate.condition
        sizes = [
            expressions.evaluate(
                side,
                lambda quantity: _Size(abs(self.values[quantity])),
                lambda value: _Size(abs(value)),
                lambda name, sizes: max(sizes, key=lambda size: size.value),
            )
            for side in (condition.left, condition.right)
        ]
        return _ROUNDING * (sizes[0].value + sizes[1].value)

    def column(self, quantity: Quantity) -> list[float]:
        """A quantity, example by example."""
        return _column(quantity.measure, self.aligned[quantity.stage])

    def holds(self, margin: Fraction | float, slack: Fraction) -> bool:
        """Whether a margin is on the right side of 0."""
        return margin > slack if self.gate.condition.strict else margin >= -slack


@dataclass(frozen=True)
class _Size:
    """Magnitudes for bounding a rounding error: sizes only ever add up."""

    value: Fraction

    def __add__(self, other: _Size) -> _Size:
        return _Size(self.value + other.value)

    __sub__ = __add__

    def __mul__(self, other: _Size) -> _Size:
        return _Size(self.value * other.value)

    def __truediv__(self, other: _Size) -> _Size:
        return _Size(self.value / other.value)

    def __neg__(self) -> _Size:
        return self


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
        gate: The gate.
        results: The evaluations on the gate's split, by stage: at least those of ``gate.score_stages``.
        bootstrap_rates: Shares of train examples whose trace was kept, by stage; None for a stage without training.
        experiment: Name of the experiment, for the record.
        examples: What the message may show of an example, by its id: ``{"inputs": {...}, "expected": {...}}``.
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
    from pytest_dspy_ft.explanations import explain
    from pytest_dspy_ft.guards import excess_errors
    from pytest_dspy_ft.results import VerdictName, VerdictRecord

    evidence = _collect(gate, results, bootstrap_rates or {}, seed)
    interval: tuple[float, float] | None = None
    try:
        margin: Fraction | None = evidence.margin()
    except ZeroDivisionError:
        margin = None
    if margin is not None and abs(margin) > _ABSURD:
        raise GateError(f"gate `{gate.expression}`: the sides are too large to be compared; check its numbers")
    if margin is None:
        verdict: VerdictName = "FAIL"
    elif gate.confidence is None or not evidence.results:
        slack = Fraction(0) if evidence.exact else evidence.slack()
        verdict = "PASS" if evidence.holds(margin, slack) else "FAIL"
    else:
        interval = _interval(evidence, gate.confidence)
        slack = evidence.slack()
        if interval is None:
            verdict = "UNDECIDED"
        elif evidence.holds(interval[0], slack):
            verdict = "PASS"
        else:
            verdict = "UNDECIDED" if evidence.holds(interval[1], slack) else "FAIL"
    excess = excess_errors(gate, evidence.results, max_errors)
    if excess:
        verdict = "FAIL"
    hint_interval = interval
    if verdict == "FAIL" and gate.confidence is None and margin is not None and evidence.results:
        hint_interval = _interval(evidence, _HINT_CONFIDENCE)
    observed, message = explain(
        evidence,
        verdict,
        margin,
        interval,
        hint_interval,
        examples or {},
        excess=excess,
        max_errors=max_errors,
        ladder=ladder,
    )
    return VerdictRecord(
        experiment=experiment,
        expression=gate.expression,
        on=gate.on,
        verdict=verdict,
        passed=verdict == "PASS" or (verdict == "UNDECIDED" and gate.undecided != "fail"),
        observed=observed,
        margin=-1.0 if margin is None else float(margin),
        interval=interval,
        confidence=gate.confidence,
        undecided=gate.undecided,
        message=message,
    )


def _collect(gate: Gate, results: Mapping[str, StageResult], rates: Mapping[str, float | None], seed: int) -> Evidence:
    wanted = gate.condition.quantities
    used: dict[str, StageResult] = {}
    for stage in dict.fromkeys(q.stage for q in wanted if q.measure != "bootstrap_rate"):
        if stage not in results:
            raise GateError(f"gate `{gate.expression}`: stage `{stage}` has not been evaluated on {gate.on}")
        result = used[stage] = results[stage]
        if result.on != gate.on:
            raise GateError(f"gate `{gate.expression}` is on {gate.on}, the result of `{stage}` is on {result.on}")
        if not result.n:
            raise GateError(f"gate `{gate.expression}`: the {gate.on} split has no examples, so nothing was measured")
    aligned = _align(gate, used)
    values: dict[Quantity, Fraction] = {}
    for quantity in wanted:
        if quantity.measure == "bootstrap_rate":
            values[quantity] = _rate(gate, quantity, rates)
        else:
            values[quantity] = _value(gate, quantity, used[quantity.stage])
    exact = all(
        (q.measure in ("errors", "unparsed", "tokens") and used[q.stage].repeats == 1)
        or (q.measure == "score" and used[q.stage].binary)
        for q in wanted
    )
    return Evidence(gate, used, aligned, values, exact, seed)


def _align(gate: Gate, results: Mapping[str, StageResult]) -> dict[str, list[ExampleResult]]:
    """The examples of every stage in the order of the first stage; ids may repeat."""
    aligned: dict[str, list[ExampleResult]] = {}
    first: list[str] = []
    for stage, result in results.items():
        ids = [example.id for example in result.examples]
        if not aligned:
            first, leader = ids, stage
        missing, extra = Counter(first) - Counter(ids), Counter(ids) - Counter(first)
        if missing or extra:
            parts = [
                f"{lacking.total()} only in `{name}` ({', '.join(list(lacking)[:3])}{', ...' * (len(lacking) > 3)})"
                for name, lacking in ((leader, missing), (stage, extra))
                if lacking
            ]
            raise GateError(
                f"gate `{gate.expression}`: `{leader}` and `{stage}` were not evaluated on the same examples: "
                f"{'; '.join(parts)}. Evaluate both on one dataset."
            )
        of: dict[str, list[ExampleResult]] = {}
        for example in reversed(result.examples):
            of.setdefault(example.id, []).append(example)
        aligned[stage] = [of[example_id].pop() for example_id in first]
    return aligned


def _value(gate: Gate, quantity: Quantity, result: StageResult) -> Fraction:
    measure, stage = quantity.measure, quantity.stage
    if measure == "score":
        return result.exact_score
    if measure in ("cost", "tokens", "latency"):
        cached = sum(example.usage.cached_calls for example in result.examples)
        if cached:
            calls = sum(example.usage.lm_calls for example in result.examples)
            raise GateError(
                f"gate `{gate.expression}`: {quantity} is not known: {cached} of {calls} calls were answered from a "
                "response cache, which takes no tokens, money or time. Evaluate the stage without the cache."
            )
        if measure == "cost" and any(example.usage.cost is None for example in result.examples):
            raise GateError(
                f"gate `{gate.expression}`: {quantity} is not known: the LM `{result.lm}` of stage `{stage}` has no "
                f"known price. Gate on `tokens({stage})` instead, or give the LM a price."
            )
    return Fraction(math.fsum(_column(measure, result.examples))) / result.n


def _column(measure: str, examples: Iterable[ExampleResult]) -> list[float]:
    match measure:
        case "score":
            return [e.score for e in examples]
        case "cost":
            return [(e.usage.cost or 0.0) / len(e.each) for e in examples]
        case "tokens":
            return [e.usage.tokens / len(e.each) for e in examples]
        case "latency":
            return [e.usage.seconds / len(e.each) for e in examples]
        case "errors":
            return [sum(call.outcome == "error" for call in e.each) / len(e.each) for e in examples]
        case _:
            return [sum(call.outcome == "unparsed" for call in e.each) / len(e.each) for e in examples]


def _rate(gate: Gate, quantity: Quantity, rates: Mapping[str, float | None]) -> Fraction:
    rate = rates.get(quantity.stage)
    if rate is None:
        raise GateError(
            f"gate `{gate.expression}`: there is no {quantity}: stage `{quantity.stage}` collected no traces for "
            "fine-tuning. Name a stage that is fine-tuned."
        )
    if not 0 <= rate <= 1:
        raise GateError(f"gate `{gate.expression}`: {quantity} is {rate}, which is no share")
    return Fraction(rate)


def _interval(evidence: Evidence, confidence: float) -> tuple[float, float] | None:
    """Interval of the margin; None where there cannot be one."""
    from pytest_dspy_ft.intervals import gate_interval

    condition = evidence.gate.condition
    return gate_interval(
        condition,
        {q: evidence.column(q) for q in condition.quantities if q.measure != "bootstrap_rate"},
        {q: value for q, value in evidence.values.items() if q.measure == "bootstrap_rate"},
        confidence=confidence,
        seed=evidence.seed,
    )
