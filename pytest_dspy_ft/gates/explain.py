"""A verdict in words: the observed value of a gate, and the message of the test that fails by it.

Evidence in, text out. Nothing here decides anything: `pytest_dspy_ft.gates.verdict.judge` has done so before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from pytest_dspy_ft.constants import DOCUMENTATION
from pytest_dspy_ft.gates.boxes import fewest_for_quantiles
from pytest_dspy_ft.gates.evidence import Evidence, seen_through
from pytest_dspy_ft.gates.expression import Quantity, quantities
from pytest_dspy_ft.gates.observed import Unit, observe, unit_of, unit_of_sides
from pytest_dspy_ft.gates.stopping import SIDE_OF_ZERO, Decision, stopping_lines
from pytest_dspy_ft.records.trajectories import Trajectory, kind_counts, trajectories
from pytest_dspy_ft.report.examples import show_answer, show_fields
from pytest_dspy_ft.report.show import reply_line
from pytest_dspy_ft.statistics import COSTS_NEED, TAIL_RATIO
from pytest_dspy_ft.text import counted, percent, short_line

if TYPE_CHECKING:
    from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
    from pytest_dspy_ft.records.gate import VerdictName

MAX_EXAMPLES = 5
MAX_STAGES = 6
_SMALL_CHANGE = Fraction(1, 10**9)
_MANY_UNPARSED = Fraction(1, 10)
_MAX_PRACTICAL_EXAMPLES = 100_000
_COUNTED_AS = {"score": "right", "unparsed": "unread"}
_ONE_LINE = 110
"""What takes no more characters is told in one line."""
_SHARE = Unit("%", scale=100, decimals=1, significant=0)


@dataclass(frozen=True)
class Judgement:
    """The verdict on a gate, and the figures it was judged by."""

    verdict: VerdictName
    margin: Fraction | None
    """Exact; None where it divides by zero."""
    interval: tuple[float, float] | None
    """The interval that was judged by, if any."""
    hint_interval: tuple[float, float] | None
    """An interval that tells noise from loss, even where the verdict did not ask for one."""
    excess: Mapping[str, Fraction]
    """The stages with too many errors to be judged, with the share of errors."""
    max_errors: float
    """How large that share may be."""
    decision: Decision | None = None
    """What decided it where an evaluation may end early."""


def explain(
    evidence: Evidence,
    judgement: Judgement,
    examples: Mapping[str, Mapping[str, object]],
    ladder: Sequence[StageResult] = (),
) -> tuple[str, str]:
    """Put a verdict into words.

    Args:
        evidence: What was measured.
        judgement: The verdict on it.
        examples: ``{"inputs": {...}, "expected": {...}, "replies": stage -> replies}`` by example id, as far as it
            may be shown.
        ladder: All that is measured on the split, the lowest stage first.

    Returns:
        (observed, message).
    """
    gate, verdict = evidence.gate, judgement.verdict
    observed = observe(gate.condition, evidence.values.__getitem__)
    outcome = {"PASS": "passed", "FAIL": "failed"}.get(verdict, "is undecided")
    different = "" if len(evidence.sizes) == evidence.n else f", {len(evidence.sizes)} of them different"
    decision = judgement.decision
    of_all = f" of {decision.planned}" if decision is not None and decision.early else ""
    where = (
        f"on {gate.on}, n = {evidence.n}{of_all}{different}"
        if evidence.results
        else "on the traces from the train split"
    )
    pair = None if judgement.margin is None else _compared_pair(evidence)
    paths = trajectories(_ladder_seen(ladder, evidence)) if pair is not None and len(ladder) > 2 else []
    lines = [
        f"Gate `{gate.expression}` {outcome} ({where}): observed {observed}",
        *[
            f"  TOO MANY ERRORS in {stage}: {float(share):.1%} of its examples could not be measured, more than the "
            f"{100 * judgement.max_errors:.3g}% that dspy_max_errors allows; so the gate fails whatever the figures"
            for stage, share in judgement.excess.items()
        ],
        *([] if decision is None else stopping_lines(gate.condition, decision)),
        *_margin_lines(evidence, judgement),
        *_stage_lines(evidence),
        *_error_lines(evidence, examples),
        *_strict_lines(evidence),
    ]
    if pair is not None:
        lines.append(
            f"  {len(pair.fixed)} fixed, {len(pair.broke)} broke of {pair.after.n} examples "
            f"({pair.before.stage} -> {pair.after.stage})"
        )
        if paths:
            counts = ", ".join(f"{count} {kind}" for kind, count in kind_counts(paths).items())
            lines.append(f"  examples by their way through {', '.join(r.stage for r in ladder)}: {counts}")
    if verdict != "PASS":
        lines += _example_lines(evidence, pair, examples, {path.id: path for path in paths})
        lines += [f"  Look next: {hint}" for hint in _hints(evidence, judgement, pair)]
    return observed, "\n".join(lines)


Change = tuple["ExampleResult", "ExampleResult"]
"""One example before and after."""


@dataclass(frozen=True)
class _Pair:
    """The two stages whose scores a gate weighs against each other, and the examples on which they differ."""

    before: StageResult
    after: StageResult
    """The one that ought to be better."""
    fixed: list[Change]
    broke: list[Change]


def _compared_pair(evidence: Evidence) -> _Pair | None:
    """Find the two scores that matter to the margin, by moving each a little: one must help and one must hurt."""
    helps: list[Quantity] = []
    hurts: list[Quantity] = []
    margin = evidence.margin()
    for quantity, value in evidence.values.items():
        if not quantity.is_score:
            continue
        try:
            change = evidence.margin({quantity: value + _SMALL_CHANGE}) - margin
        except ZeroDivisionError:
            return None
        if change:
            (helps if change > 0 else hurts).append(quantity)
    if len(helps) != 1 or len(hurts) != 1:
        return None
    [after], [before] = helps, hurts
    if after.metric != before.metric:
        return None  # one score by two metrics: nothing was fixed, and nothing broke
    both = list(zip(evidence.seen(before), evidence.seen(after), strict=True))
    fixed = [(old, new) for old, new in both if new.score > old.score]
    broke = [(old, new) for old, new in both if new.score < old.score]
    return _Pair(seen_through(before, evidence.results), seen_through(after, evidence.results), fixed, broke)


def _margin_lines(evidence: Evidence, judgement: Judgement) -> list[str]:
    condition, confidence = evidence.gate.condition, evidence.gate.confidence
    margin, interval = judgement.margin, judgement.interval
    plain, signed = unit_of_sides(condition), unit_of_sides(condition, difference=True)
    if margin is None:
        return ["  the margin cannot be computed: it divides by zero, and that is never a pass"]
    sides = (condition.left, condition.right)
    left, right = (plain.write(evidence.side(side)) for side in sides)
    told = any(isinstance(side, Quantity) for side in sides) and not all(quantities(side) for side in sides)
    lines = [] if told else [f"  left side {left}, right side {right}: margin {signed.write(margin)}"]
    if confidence is None or (judgement.decision is not None and judgement.decision.interval is not None):
        return lines
    if interval is not None:
        low, high = (signed.write(end) for end in interval)
        side = SIDE_OF_ZERO[evidence.verdict(*interval, evidence.rounding_error())]
        lines.append(f"  {confidence * 100:g}% interval of the margin: {low} to {high}, {side}")
    elif evidence.results:
        fewest = fewest_for_quantiles(condition, confidence)
        why = f": {COSTS_NEED}" if evidence.too_few_for_costs else ""
        if fewest is not None and len(evidence.sizes) < fewest[0]:
            why = f": {fewest[1]} needs at least {fewest[0]} different examples to be judged at it"
        lines.append(f"  no {confidence * 100:g}% interval of the margin can be given at n = {evidence.n}{why}")
    else:
        lines.append("  a count, not an estimate: judged as it is, without an interval")
    return lines


def _stage_lines(evidence: Evidence) -> list[str]:
    named = list(dict.fromkeys(quantity.stage for quantity in evidence.values))
    lines = []
    for stage in named[:MAX_STAGES]:
        facts = []
        result = evidence.results.get(stage)
        if result is not None:
            counts = [
                f"{sum(result.scores):.0f} of {result.n} right" if result.binary else "",
                f"{result.unparsed} unparsed" if result.unparsed else "",
                counted(result.errors, "error") if result.errors else "",
            ]
            shown = ", ".join(filter(None, counts))
            facts.append(percent(result.score) + (f" ({shown})" if shown else ""))
        for quantity, value in evidence.values.items():
            if quantity.stage == stage and quantity.measure == "bootstrap_rate":
                facts.append(f"bootstrap_rate {float(value):.1%}")
            elif quantity.stage == stage and quantity.metric:
                seen = seen_through(quantity, evidence.results)
                errors = f" ({seen.errors} error{'s' * (seen.errors != 1)})" if seen.errors else ""
                facts.append(f"{quantity.metric} {percent(seen.score)}{errors}")
            elif quantity.stage == stage and not quantity.share:
                name = [f"p{quantity.percentile}"] if quantity.percentile else []
                name += [] if quantity.measure == "tokens" else [quantity.measure]
                facts.append(" ".join([*name, unit_of(quantity.dimension).write(value), "per call"]))
        lines.append(f"  {stage} {', '.join(facts)}")
    if len(named) > MAX_STAGES:
        lines.append(f"  and {len(named) - MAX_STAGES} more stages")
    return _block(lines)


def _error_lines(evidence: Evidence, examples: Mapping[str, Mapping[str, object]]) -> list[str]:
    lines = []
    for quantity in _scores_or_stages(evidence)[:MAX_STAGES]:
        result = seen_through(quantity, evidence.results)
        if result.errors:
            failed = [call for example in result.examples for call in example.each if call.outcome == "error"]
            lines += _block(
                [
                    f"  ERRORS: {len(failed)} of {result.calls} {'examples' if result.repeats == 1 else 'calls'} of "
                    f"{quantity} could not be measured and score 0",
                    f"    first: {failed[0].id}: {short_line(failed[0].error or 'no text was recorded')}",
                    *_raw_reply(quantity.stage, failed[0], examples.get(failed[0].id, {})),
                ]
            )
    return lines


def _scores_or_stages(evidence: Evidence) -> list[Quantity]:
    """The scores that a gate names, by whichever metric; for a stage of which it names none, that by its own."""
    scores = [quantity for quantity in evidence.values if quantity.is_score]
    named = {quantity.stage for quantity in scores}
    return [*scores, *(Quantity("score", stage) for stage in evidence.results if stage not in named)]


def _ladder_seen(ladder: Sequence[StageResult], evidence: Evidence) -> Sequence[StageResult]:
    """The ladder as the metric sees it that the gate's scores are by; none where they are by several."""
    metrics = {quantity.metric for quantity in evidence.values if quantity.is_score} or {""}
    if len(metrics) > 1:
        return ()
    [name] = metrics
    return [result.metric(name) for result in ladder if name in result.metrics] if name else ladder


def _strict_lines(evidence: Evidence) -> list[str]:
    """What the failed examples count as, where they would speak for the gate."""
    lines = []
    for quantity, before in evidence.recorded.items():
        unit = _SHARE if quantity.share else unit_of(quantity.dimension)
        kind = _COUNTED_AS.get("score" if quantity.is_score else quantity.measure, "the mean of the others")
        if quantity.percentile:
            kind = "the furthest of the others"
        judged = unit.write(evidence.values[quantity])
        lines.append(
            f"  errors count against the gate: those of {quantity.stage} as {kind}, so {quantity} is {judged} here, "
            f"not {unit.write(before)}"
        )
    return lines


def _example_lines(
    evidence: Evidence,
    pair: _Pair | None,
    examples: Mapping[str, Mapping[str, object]],
    paths: Mapping[str, Trajectory],
) -> list[str]:
    """The examples worth reading: those that broke, or for a single stage those it got wrong; the worst first."""
    scores = [quantity for quantity in evidence.values if quantity.is_score]
    if pair is not None:
        title, chosen = "broke", [list(both) for both in _largest_loss_first(pair.broke, paths)]
        names = [pair.before.stage, pair.after.stage]
    elif len(evidence.results) == 1 and evidence.gate.condition.upward and scores:
        names = list(evidence.results)
        wrong = [e for e in evidence.seen(scores[0]) if e.score < 1 and e.outcome != "error"]
        title, chosen = "wrong", [[e] for e in sorted(wrong, key=lambda e: e.score)]
    else:
        return []
    lines = []
    for number, row in enumerate(chosen[:MAX_EXAMPLES], 1):
        known = examples.get(row[0].id, {})
        inputs, expected = (show_fields(known.get(part)) for part in ("inputs", "expected"))
        block = [f"  {title} {row[0].id} ({number} of {len(chosen)}){f': {inputs}' if inputs else ''}"]
        if expected:
            block.append(f"    expected {expected}")
        for name, answer in zip(names, row, strict=True):
            block.append(f"    {name} {show_answer(answer)}")
            if answer.feedback:
                block.append(f"      feedback: {short_line(answer.feedback)}")
            block += _raw_reply(name, answer, known)
        if pair is not None and row[0].id in paths:
            block.append(f"    {paths[row[0].id]}")
        lines += _block(block)
    return lines


def _block(lines: list[str]) -> list[str]:
    """Lines that belong together, as one where that is short enough."""
    joined = "  " + "; ".join(line.strip() for line in lines)
    return [joined] if len(joined) <= _ONE_LINE else lines


def _raw_reply(stage: str, answer: ExampleResult, known: Mapping[str, object]) -> list[str]:
    """What the LM really said, where the answer does not show it: it could not be read, failed, or was cut off."""
    replies = known.get("replies")
    if not callable(replies) or (answer.outcome == "scored" and not answer.cut_off):
        return []
    said = reply_line(replies(stage))
    return [f"      {said}"] if said else []


def _largest_loss_first(changes: Sequence[Change], paths: Mapping[str, Trajectory]) -> list[Change]:
    """By how much was lost; where that is equal, by how many stages had it right."""

    def loss(change: Change) -> tuple[float, float]:
        before, after = change
        path = paths.get(before.id)
        return after.score - before.score, -sum(path.scores) if path else 0.0

    return sorted(changes, key=loss)


def _hints(evidence: Evidence, judgement: Judgement, pair: _Pair | None) -> list[str]:
    """Where to look next: the failed measurements, the format, the noise, or the answers themselves."""
    hints, results = [], evidence.results
    if judgement.margin is None:
        hints.append("multiply instead of dividing: `a >= 2 * b` can be judged where `a / b >= 2` cannot.")
    failed = [str(q) for q in _scores_or_stages(evidence) if seen_through(q, results).errors]
    if failed:
        hints.append(f"the errors of {', '.join(failed)} above; a failed measurement says nothing of the program.")
    measures = {quantity.measure for quantity in evidence.values}
    suspects = [pair.after] if pair is not None else list(results.values())
    scored = any(quantity.is_score or quantity.measure == "unparsed" for quantity in evidence.values)
    for result in suspects if scored else []:
        if Fraction(result.unparsed, max(result.calls, 1)) >= _MANY_UNPARSED:
            cut, at = result.cut_off, result.usage.cut_off_at
            limit = f" at {at} tokens" if at else ""
            hints.append(
                f"the format: {result.unparsed} of {result.calls} replies of {result.stage} could not be read"
                + (f", {cut} of {result.usage.lm_calls} were cut off{limit} (max_tokens= of the LM). " if cut else ". ")
                + "Read the raw replies: python -m pytest_dspy_ft show"
                + ("" if cut else "; was the model trained on another prompt?")
            )
    hints += _noise_hint(evidence, judgement)
    confidence = evidence.gate.confidence
    fewest = None if confidence is None else fewest_for_quantiles(evidence.gate.condition, confidence)
    if fewest is not None and len(evidence.sizes) < fewest[0]:
        hints.append(f"more examples, {fewest[0]} or more, or a quantile that lies less far out.")
    if "bootstrap_rate" in measures:
        hints.append(
            "why traces were dropped: unparsed, raised, or below `accept`; try a stronger teacher or an easier metric."
        )
    if measures & {"cost", "tokens", "latency"} and judgement.verdict != "UNDECIDED":
        hints.append("what a call is made of: demos and instructions in the prompt, the length of the reply, retries.")
    if not hints:
        which = "that broke" if pair is not None and pair.broke else "it got wrong"
        early = judgement.decision is not None and judgement.decision.early and judgement.interval is None
        gap = "" if early else "the gap is larger than chance explains: "
        hints.append(f"{gap}compare the answers to the examples {which}.")
    return hints[:3]


def _noise_hint(evidence: Evidence, judgement: Judgement) -> list[str]:
    if judgement.margin is None or judgement.hint_interval is None:
        return []
    margin, (low, high) = float(judgement.margin), judgement.hint_interval
    if not (low < 0 <= high or judgement.verdict == "UNDECIDED"):
        return []
    unit = unit_of_sides(evidence.gate.condition, difference=True)
    confidence = evidence.gate.confidence
    costs = any(not quantity.share for quantity in evidence.values)
    if costs and confidence is None:
        return []  # their interval allows for what may not have been seen, which is no noise
    half_width = margin - low if margin >= 0 else high - margin
    needed = evidence.n * abs(half_width / margin) ** (1 if costs else 2) if margin else math.inf
    if needed <= _MAX_PRACTICAL_EXAMPLES:
        step = 10 ** max(math.floor(math.log10(needed)) - 1, 0)
        amount = f"about {math.ceil(needed / step) * step} examples would tell, if the margin stays"
    else:
        amount = "no practical number of examples would tell a margin so close to 0; allow for a small loss in the gate"
    if confidence is None:
        span = f"95% interval of the margin {unit.write(low)} to {unit.write(high)}"
        return [f"within the noise at n = {evidence.n} ({span}); {amount}."]
    hints = [f"n = {evidence.n} is too few to decide at confidence {confidence:g}; {amount}."]
    if any(not quantity.share and not quantity.percentile for quantity in evidence.values):
        unseen = 1 - ((1 - confidence) / 2) ** (1 / max(len(evidence.sizes), 1))
        hints.append(
            f"a limit further off: {unseen:.2%} of all calls could take {TAIL_RATIO:g} times as much as usual without "
            f"one of them among the examples: {DOCUMENTATION}explanation/statistics.html#costs"
        )
    return hints
