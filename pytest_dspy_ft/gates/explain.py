"""A verdict in words: the observed value of a gate, and the message of the test that fails by it.

Evidence in, text out. Nothing here decides anything: `pytest_dspy_ft.gates.judge` has done so before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from pytest_dspy_ft.gates.expression import Condition, Operation, Quantity, describe, exactly, quantities
from pytest_dspy_ft.records.trajectories import Trajectory, kind_counts, trajectories

if TYPE_CHECKING:
    from pytest_dspy_ft.gates.gate import Evidence
    from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
    from pytest_dspy_ft.records.gate import VerdictName

MAX_EXAMPLES = 5
MAX_STAGES = 6
MAX_TEXT = 200
_NUDGE = Fraction(1, 10**9)
_MANY_UNPARSED = Fraction(1, 10)
_MOST_USEFUL_EXAMPLES = 100_000


@dataclass(frozen=True)
class _Unit:
    """How a value is written."""

    suffix: str
    prefix: str = ""
    scale: int = 1
    signed: bool = False
    decimals: int = 2
    significant: int = 2
    """More decimals where a small value needs them for so many significant digits."""

    def digits(self, value: Fraction) -> int:
        """How many decimals a value usually gets."""
        size = abs(float(value * self.scale))
        if not size or not self.significant:
            return self.decimals
        order = int(f"{size:.{self.significant - 1}e}".partition("e")[2])
        return min(max(self.significant - 1 - order, self.decimals), 15)

    def write(self, value: Fraction | float, digits: int | None = None) -> str:
        """The value as text."""
        value = Fraction(value)
        digits = self.digits(value) if digits is None else digits
        rounded = self.round(value, digits)
        sign = "-" if rounded < 0 else "+" if self.signed else ""
        return f"{sign}{self.prefix}{float(abs(rounded * self.scale)):.{digits}f}{self.suffix}"

    def round(self, value: Fraction, digits: int) -> Fraction:
        """The value that the text says."""
        return Fraction(round(value * self.scale, digits)) / self.scale


def _unit(condition: Condition, *, difference: bool = False) -> _Unit:
    if condition.shares:
        suffix = " pts" if difference else "%"
        return _Unit(suffix, scale=100, signed=difference, decimals=1, significant=0)
    match condition.dimension:
        case (0, 0, 0):
            return _Unit("x", signed=difference)
        case (1, 0, 0):
            return _Unit("", prefix="$", signed=difference)
        case (0, 1, 0):
            return _Unit(" tokens" if difference else "", signed=difference, decimals=0)
        case (0, 0, 1):
            return _Unit(" s", signed=difference, decimals=1)
        case dimension:
            return _Unit(f" {describe(dimension)}", signed=difference)


def explain(
    evidence: Evidence,
    verdict: VerdictName,
    margin: Fraction | None,
    interval: tuple[float, float] | None,
    hint_interval: tuple[float, float] | None,
    examples: Mapping[str, Mapping[str, object]],
    excess: Mapping[str, Fraction] | None = None,
    max_errors: float = 1.0,
    ladder: Sequence[StageResult] = (),
) -> tuple[str, str]:
    """Put a verdict into words.

    Args:
        evidence: What was measured.
        verdict: What became of the gate.
        margin: The exact margin; None where it divides by zero.
        interval: The interval that was judged by, if any.
        hint_interval: An interval that tells noise from loss, even where the verdict did not ask for one.
        examples: ``{"inputs": {...}, "expected": {...}}`` by example id, as far as it may be shown.
        excess: The stages with too many errors to be judged, with the share of errors.
        max_errors: How large that share may be.
        ladder: All that is measured on the split, the lowest stage first.

    Returns:
        (observed, message).
    """
    gate = evidence.gate
    observed = observe(gate.condition, evidence.values.__getitem__)
    outcome = {"PASS": "passed", "FAIL": "failed"}.get(verdict, "is undecided")
    where = f"on {gate.on}, n = {evidence.n}" if evidence.results else "on the traces from the train split"
    pair = None if margin is None else _pair(evidence)
    ways = {way.id: way for way in trajectories(ladder)} if len(ladder) > 2 else {}
    lines = [
        f"Gate `{gate.expression}` {outcome} ({where}): observed {observed}",
        *[
            f"  TOO MANY ERRORS in {stage}: {float(share):.1%} of its examples could not be measured, more than the "
            f"{max_errors:.3g} that dspy_max_errors allows; so the gate fails whatever the figures"
            for stage, share in (excess or {}).items()
        ],
        *_sums(evidence, margin, interval),
        *_stages(evidence),
        *_errors(evidence),
        *([] if pair is None else [_flips(pair)]),
        *([] if pair is None or not ways else [_ways(ladder)]),
    ]
    if verdict != "PASS":
        lines += _examples(evidence, pair, examples, ways)
        lines += [f"  Look next: {hint}" for hint in _hints(evidence, verdict, margin, hint_interval, pair)]
    return observed, "\n".join(lines)


# -- the observed value ----------------------------------------------------------------------------------------------


def observe(condition: Condition, measured: Callable[[Quantity], Fraction]) -> str:
    """The observed value of a gate, by the rule that `pytest_dspy_ft.gates` states."""
    try:
        value, threshold, unit = _observed(condition, measured)
    except ZeroDivisionError:
        return "division by zero"
    digits = unit.digits(value)
    side = (value > threshold) - (value < threshold)
    for more in range(digits, digits + 7):
        rounded = unit.round(value, more)
        if (rounded > threshold) - (rounded < threshold) == side:
            return unit.write(value, more)
    return unit.write(value, digits)


def _observed(condition: Condition, measured: Callable[[Quantity], Fraction]) -> tuple[Fraction, Fraction, _Unit]:
    """The value, the number in the gate to hold it against, and how to write it."""
    left, right = condition.left, condition.right
    if not (quantities(left) and quantities(right)):
        side, number = (left, right) if quantities(left) else (right, left)
        difference = isinstance(side, Operation) and side.operator == "-" and bool(quantities(side.left))
        return exactly(side, measured), exactly(number, measured), _unit(condition, difference=difference)
    value, difference_unit = exactly(left, measured), _unit(condition, difference=True)
    if isinstance(right, Operation) and not (quantities(right.left) and quantities(right.right)):
        first = not quantities(right.left)
        parts = (right.left, right.right) if first else (right.right, right.left)
        constant, other = (exactly(part, measured) for part in parts)
        match right.operator, first:
            case ("*", _) if constant > 0 and other > 0:
                return value / other, constant, _Unit("x")
            case ("/", False) if constant > 0 and other > 0:
                return value / other, 1 / constant, _Unit("x")
            case ("+", _):
                return value - other, constant, difference_unit
            case ("-", False):
                return value - other, -constant, difference_unit
    return value - exactly(right, measured), Fraction(0), difference_unit


# -- the message -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """The two stages whose scores a gate weighs against each other, and the examples on which they differ."""

    before: StageResult
    after: StageResult
    """The one that ought to be better."""
    fixed: list[tuple[ExampleResult, ExampleResult]]
    broke: list[tuple[ExampleResult, ExampleResult]]


def _pair(evidence: Evidence) -> _Pair | None:
    """Find the two scores that matter to the margin, by moving each a little: one must help and one must hurt."""
    helps: list[str] = []
    hurts: list[str] = []
    margin = evidence.margin()
    for quantity, value in evidence.values.items():
        if quantity.measure != "score":
            continue
        try:
            change = evidence.margin({quantity: value + _NUDGE}) - margin
        except ZeroDivisionError:
            return None
        if change:
            (helps if change > 0 else hurts).append(quantity.stage)
    if len(helps) != 1 or len(hurts) != 1:
        return None
    [after], [before] = helps, hurts
    both = list(zip(evidence.aligned[before], evidence.aligned[after], strict=True))
    broke = sorted((pair for pair in both if pair[1].score < pair[0].score), key=lambda p: p[1].score - p[0].score)
    fixed = [pair for pair in both if pair[1].score > pair[0].score]
    return _Pair(evidence.results[before], evidence.results[after], fixed, broke)


def _sums(evidence: Evidence, margin: Fraction | None, interval: tuple[float, float] | None) -> list[str]:
    condition, confidence = evidence.gate.condition, evidence.gate.confidence
    plain, signed = _unit(condition), _unit(condition, difference=True)
    if margin is None:
        return ["  the margin cannot be computed: it divides by zero, and that is never a pass"]
    left, right = (plain.write(evidence.side(side)) for side in (condition.left, condition.right))
    lines = [f"  left side {left}, right side {right}: margin {signed.write(margin)}"]
    if confidence is None:
        return lines
    if interval is not None:
        low, high = (signed.write(end) for end in interval)
        slack = evidence.slack()
        side = "on both sides of 0"
        if evidence.holds(interval[0], slack):
            side = "all on the right side of 0"
        elif not evidence.holds(interval[1], slack):
            side = "all on the wrong side of 0"
        lines.append(f"  {confidence * 100:g}% interval of the margin: {low} to {high}, {side}")
    elif evidence.results:
        lines.append(f"  no {confidence * 100:g}% interval of the margin can be given at n = {evidence.n}")
    else:
        lines.append("  a count, not an estimate: judged as it is, without an interval")
    return lines


def _stages(evidence: Evidence) -> list[str]:
    named = list(dict.fromkeys(quantity.stage for quantity in evidence.values))
    width = max(map(len, named))
    lines = []
    for stage in named[:MAX_STAGES]:
        facts = []
        result = evidence.results.get(stage)
        if result is not None:
            counts = [f"{result.unparsed} unparsed", f"{result.errors} error{'s' * (result.errors != 1)}"]
            if result.binary:
                counts[0] = f"{sum(result.scores):.0f}/{result.n}; {counts[0]}"
            facts.append(f"{result.score * 100:5.1f}% ({', '.join(counts)})")
        facts += [
            f"{quantity.measure} {_measured(quantity, value)}"
            for quantity, value in evidence.values.items()
            if quantity.stage == stage and quantity.measure in ("cost", "tokens", "latency", "bootstrap_rate")
        ]
        lines.append(f"  {stage:<{width}}  {', '.join(facts)}")
    if len(named) > MAX_STAGES:
        lines.append(f"  and {len(named) - MAX_STAGES} more stages")
    return lines


def _measured(quantity: Quantity, value: Fraction) -> str:
    if quantity.measure == "bootstrap_rate":
        return f"{float(value):.1%}"
    units = {"cost": _Unit("", prefix="$"), "tokens": _Unit("", decimals=0), "latency": _Unit(" s", decimals=1)}
    return f"{units[quantity.measure].write(value)} per call"


def _errors(evidence: Evidence) -> list[str]:
    lines = []
    for stage, result in list(evidence.results.items())[:MAX_STAGES]:
        failed = [call for example in result.examples for call in example.each if call.outcome == "error"]
        if failed:
            text = _shorten(failed[0].error or "no text was recorded")
            lines.append(
                f"  ERRORS: {len(failed)} of {result.calls} {'examples' if result.repeats == 1 else 'calls'} of "
                f"{stage} could not be measured; they count as 0"
            )
            lines.append(f"    first: {failed[0].id}: {text}")
    return lines


def _flips(pair: _Pair) -> str:
    return (
        f"  {len(pair.fixed)} fixed, {len(pair.broke)} broke of {pair.after.n} examples "
        f"({pair.before.stage} -> {pair.after.stage})"
    )


def _ways(ladder: Sequence[StageResult]) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in kind_counts(trajectories(ladder)).items())
    return f"  examples by their way through {', '.join(result.stage for result in ladder)}: {counts}"


def _examples(
    evidence: Evidence,
    pair: _Pair | None,
    examples: Mapping[str, Mapping[str, object]],
    ways: Mapping[str, Trajectory],
) -> list[str]:
    """The examples worth reading: those that broke, or for a single stage those it got wrong; the worst first."""
    if pair is not None:
        title, chosen = "broke", [list(both) for both in _worst_first(pair.broke, ways)]
        names = [pair.before.stage, pair.after.stage]
    elif len(evidence.results) == 1 and evidence.gate.condition.upward:
        names = list(evidence.results)
        wrong = [e for e in evidence.aligned[names[0]] if e.score < 1 and e.outcome != "error"]
        title, chosen = "wrong", [[e] for e in sorted(wrong, key=lambda e: e.score)]
        if not any(quantity.measure == "score" for quantity in evidence.values):
            return []
    else:
        return []
    lines = []
    for row in chosen[:MAX_EXAMPLES]:
        known = examples.get(row[0].id, {})
        inputs, expected = (show_fields(known.get(part)) for part in ("inputs", "expected"))
        lines.append(f"  {title} {row[0].id}{f': {inputs}' if inputs else ''}")
        answers = [f"expected {expected}"] if expected else []
        answers += [f"{name} {show_answer(e)}" for name, e in zip(names, row, strict=True)]
        lines += [f"    {answer}" for answer in answers]
        if pair is not None and row[0].id in ways:
            lines.append(f"    {ways[row[0].id]}")
    if len(chosen) > MAX_EXAMPLES:
        lines.append(f"  and {len(chosen) - MAX_EXAMPLES} more {title}")
    return lines


def _worst_first(
    broke: Sequence[tuple[ExampleResult, ExampleResult]], ways: Mapping[str, Trajectory]
) -> list[tuple[ExampleResult, ExampleResult]]:
    """By how much was lost; where that is equal, by how many stages had it right."""

    def loss(pair: tuple[ExampleResult, ExampleResult]) -> tuple[float, float]:
        way = ways.get(pair[0].id)
        return pair[1].score - pair[0].score, -sum(result.score for _, result in way.steps) if way else 0.0

    return sorted(broke, key=loss)


def show_answer(example: ExampleResult) -> str:
    """What a program answered to an example, on one line: its fields and a graded score, or why there are none."""
    score = "" if example.score in (0.0, 1.0) else f" (score {example.score:.3g})"
    if example.outcome == "scored":
        return f"{show_fields(example.prediction) or 'gave nothing'}{score}"
    said = example.error or show_fields(example.prediction)
    return f"{'UNPARSED' if example.outcome == 'unparsed' else 'ERROR'}{f': {_shorten(said)}' if said else ''}"


def show_fields(fields: object) -> str:
    """Fields and their values on one line, shortened."""
    if not isinstance(fields, Mapping):
        return "" if fields is None else _shorten(str(fields))
    return _shorten(", ".join(f"{name}={value!r}" for name, value in fields.items()))


def _shorten(text: str) -> str:
    """One line of printable characters, not too long: what a model wrote may hold anything."""
    line = "".join(c if c.isprintable() else " " for c in text[: 4 * MAX_TEXT])
    line = " ".join(line.split())
    return line if len(line) <= MAX_TEXT and len(text) <= 4 * MAX_TEXT else f"{line[: MAX_TEXT - 3]}..."


def _hints(
    evidence: Evidence,
    verdict: VerdictName,
    margin: Fraction | None,
    interval: tuple[float, float] | None,
    pair: _Pair | None,
) -> list[str]:
    """Where to look next: the failed measurements, the format, the noise, or the answers themselves."""
    hints = []
    results = evidence.results
    if margin is None:
        hints.append("multiply instead of dividing: `a >= 2 * b` can be judged where `a / b >= 2` cannot.")
    failed = [stage for stage, result in results.items() if result.errors]
    if failed:
        hints.append(f"the errors of {', '.join(failed)} above; a failed measurement says nothing of the program.")
    measures = {quantity.measure for quantity in evidence.values}
    suspects = [pair.after] if pair is not None else list(results.values())
    for result in suspects if measures & {"score", "unparsed"} else []:
        if Fraction(result.unparsed, max(result.calls, 1)) >= _MANY_UNPARSED:
            hints.append(
                f"the format: {result.unparsed} of {result.calls} replies of {result.stage} could not be read. Read a "
                "raw reply; is it cut off (max_tokens), or was the model trained on another prompt?"
            )
    if margin is not None and interval is not None:
        hints += _noise(evidence, verdict, float(margin), interval)
    if "bootstrap_rate" in measures:
        hints.append(
            "why traces were dropped: unparsed, raised, or below `accept`; try a stronger teacher or an easier metric."
        )
    if measures & {"cost", "tokens", "latency"}:
        hints.append("what a call is made of: demos and instructions in the prompt, the length of the reply, retries.")
    if not hints:
        which = "that broke" if pair is not None and pair.broke else "it got wrong"
        hints.append(f"the gap is larger than chance explains: compare the answers to the examples {which}.")
    return hints[:3]


def _noise(evidence: Evidence, verdict: VerdictName, margin: float, interval: tuple[float, float]) -> list[str]:
    low, high = interval
    if not (low < 0 <= high or verdict == "UNDECIDED"):
        return []
    unit = _unit(evidence.gate.condition, difference=True)
    confidence = evidence.gate.confidence
    reach = margin - low if margin >= 0 else high - margin
    needed = evidence.n * (reach / margin) ** 2 if margin else math.inf
    if needed <= _MOST_USEFUL_EXAMPLES:
        step = 10 ** max(math.floor(math.log10(needed)) - 1, 0)
        amount = f"about {math.ceil(needed / step) * step} examples would tell if the margin stays what it is"
    else:
        amount = "no practical number of examples would tell a margin so close to 0; allow for a small loss in the gate"
    if confidence is None:
        span = f"{unit.write(low)} to {unit.write(high)}"
        return [f"this is within the noise at n = {evidence.n} (95% interval of the margin {span}); {amount}."]
    return [f"n = {evidence.n} is too few to decide at confidence {confidence:g}; {amount}."]
