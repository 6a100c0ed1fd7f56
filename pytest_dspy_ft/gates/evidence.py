"""The evidence for a gate: what was measured of the stages it names, example by example and in sum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.expression import Node, Quantity, exact_value, magnitude
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.unmeasured import Column, against_the_claim, column_of, seen_by, wants_small
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.gate import VerdictName
from pytest_dspy_ft.records.pairing import Copy, by_copy
from pytest_dspy_ft.statistics.order import quantile
from pytest_dspy_ft.statistics.sums import exact_sum

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROUNDING = Fraction(1, 10**12)


@dataclass(frozen=True)
class Evidence:
    """The measurements of the stages in one gate, example by example and in sum."""

    gate: Gate
    results: dict[str, StageResult]
    """The evaluated stages, in the order the gate names them."""
    aligned: dict[str, Sequence[ExampleResult]]
    """Their examples, all in one order."""
    values: dict[Quantity, Fraction]
    """What the gate is judged by: as recorded, but for what failed (see `unmeasured`)."""
    columns: dict[Quantity, Column]
    """The same, example by example."""
    exact: bool
    """Every value is a count over a count, with no float in it."""
    seed: int
    recorded: dict[Quantity, Fraction] = field(default_factory=dict)
    """The values as recorded of quantities in which failed examples count against the claim."""

    @property
    def n(self) -> int:
        """How many examples every stage was evaluated on; 0 where none was."""
        return next((result.n for result in self.results.values()), 0)

    @cached_property
    def sizes(self) -> list[int]:
        """How many copies of each different example the split holds."""
        return list(self._copies.values())

    def seen(self, score: Quantity) -> Sequence[ExampleResult]:
        """The examples of a score's stage, all in one order, as the metric sees them that it is by."""
        return seen_by(score, self.aligned[score.stage])

    @cached_property
    def _copies(self) -> Counter[str]:
        return Counter(next((result.ids for result in self.results.values()), ()))

    @property
    def too_few_for_costs(self) -> bool:
        """True where its costs, tokens or seconds cannot be judged at a confidence: too few different examples."""
        from pytest_dspy_ft.gates.intervals import too_few_for_costs

        means = {q: column for q, column in self.observations().items() if not q.percentile}
        return bool(means) and too_few_for_costs(means)

    def side(self, node: Node, moved: Mapping[Quantity, Fraction] | None = None) -> Fraction:
        """One side, exactly, with the values in ``moved`` in place of the measured ones."""
        values = self.values if moved is None else {**self.values, **moved}
        return exact_value(node, values.__getitem__)

    def margin(self, moved: Mapping[Quantity, Fraction] | None = None) -> Fraction:
        """Left minus right, sign turned for ``<=`` and ``<``; raises ZeroDivisionError."""
        condition = self.gate.condition
        difference = self.side(condition.left, moved) - self.side(condition.right, moved)
        return difference if condition.upward else -difference

    def rounding_error(self) -> Fraction:
        """The rounding error that values recorded as floats may bring into the margin."""
        sides = (self.gate.condition.left, self.gate.condition.right)
        return _ROUNDING * sum((magnitude(side, self.values.__getitem__) for side in sides), Fraction(0))

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """The confidence interval of the margin; None where there cannot be one."""
        from pytest_dspy_ft.gates.intervals import gate_interval

        rates = {quantity: value for quantity, value in self.values.items() if quantity.measure == "bootstrap_rate"}
        return gate_interval(
            self.gate.condition, self.observations(), rates, confidence=confidence, sizes=self.sizes, seed=self.seed
        )

    def observations(self) -> dict[Quantity, NDArray[np.float64]]:
        """The columns with one row for each different example: its copies are one observation, the mean of them."""
        import numpy as np

        order = {identity: place for place, identity in enumerate(self._copies)}
        found = {}
        for quantity, column in self.columns.items():
            if len(order) == len(column):
                found[quantity] = np.array(column)
                continue
            places = [order[example.id] for example in self.aligned[quantity.stage]]
            if quantity.percentile:  # of calls: the first of an example's copies stands for it
                found[quantity] = np.array(column)[np.unique(places, return_index=True)[1]]
                continue
            found[quantity] = np.bincount(places, weights=column) / np.array(self.sizes)
        return found

    def verdict(self, low: Fraction | float, high: Fraction | float, rounding_error: Fraction) -> VerdictName:
        """Judge a margin known to lie between two figures: PASS if both hold, FAIL if neither does.

        Args:
            low: The lower end of its interval; the margin itself where there is none.
            high: The upper end.
            rounding_error: How far off they may be: closer to 0 counts as 0.
        """

        def holds(margin: Fraction | float) -> bool:
            return margin > rounding_error if self.gate.condition.strict else margin >= -rounding_error

        return "PASS" if holds(low) else "UNDECIDED" if holds(high) else "FAIL"


def collect_evidence(
    gate: Gate, results: Mapping[str, StageResult], bootstrap_rates: Mapping[str, float | None], seed: int
) -> Evidence:
    """Collect what a gate asks about.

    Args:
        gate: The gate.
        results: The evaluations on the gate's split, by stage.
        bootstrap_rates: Shares of train examples whose trace was kept, by stage; None for a stage without training.
        seed: Of the resampling.

    Raises:
        GateError: A result is missing, the results cover different examples, a cost or a bootstrap rate
            is not known.
    """
    quantities = gate.condition.quantities
    used: dict[str, StageResult] = {}
    for stage in dict.fromkeys(q.stage for q in quantities if q.measure != "bootstrap_rate"):
        if stage not in results:
            raise GateError(f"gate `{gate.expression}`: stage `{stage}` has not been evaluated on {gate.on}")
        result = used[stage] = results[stage]
        if result.on != gate.on:
            raise GateError(f"gate `{gate.expression}` is on {gate.on}, the result of `{stage}` is on {result.on}")
        if not result.n:
            raise GateError(f"gate `{gate.expression}`: the {gate.on} split has no examples, so nothing was measured")
    aligned = _align(gate, used)
    values: dict[Quantity, Fraction] = {}
    columns: dict[Quantity, Column] = {}
    for quantity in quantities:
        if quantity.measure == "bootstrap_rate":
            values[quantity] = _rate(gate, quantity, bootstrap_rates)
        else:
            _check_known(gate, quantity, used[quantity.stage])
            seen_through(quantity, used)
            columns[quantity] = _recorded(quantity, used[quantity.stage], aligned[quantity.stage])
            values[quantity] = _summed_up(quantity, columns[quantity])
    margin = Evidence(gate, used, aligned, values, {}, exact=False, seed=seed).margin
    recorded = {}
    for quantity in list(columns):
        small = wants_small(quantity, values, margin) if seen_through(quantity, used).errors else None
        if small is not None:
            strict = against_the_claim(quantity, small, aligned[quantity.stage])
            if strict != columns[quantity]:
                columns[quantity], recorded[quantity] = strict, values[quantity]
    judged = values | {quantity: _summed_up(quantity, columns[quantity]) for quantity in recorded}
    exact = all(
        (q.measure in ("errors", "unparsed") and used[q.stage].repeats == 1)
        or (q.measure == "tokens" and used[q.stage].repeats == 1 and q not in recorded)
        or (q.is_score and seen_through(q, used).binary)
        for q in quantities
    )
    return Evidence(gate, used, aligned, judged, columns, exact, seed, recorded)


def _recorded(quantity: Quantity, result: StageResult, examples: Sequence[ExampleResult]) -> Column:
    """A quantity as it was recorded; scores in the evaluation's own order are at hand."""
    if examples is result.examples and quantity.is_score and not (quantity.metric or quantity.percentile):
        return tuple(result.scores)
    return column_of(quantity, examples)


def _align(gate: Gate, results: Mapping[str, StageResult]) -> dict[str, Sequence[ExampleResult]]:
    """The examples of every stage in the order of the first stage; ids may repeat."""
    aligned: dict[str, Sequence[ExampleResult]] = {}
    first = next(iter(results), "")
    ids = results[first].ids if results else ()
    order: dict[Copy, ExampleResult] = {}
    for stage, result in results.items():
        if ids == result.ids:
            aligned[stage] = result.examples
            continue
        copies, order = by_copy(result.examples), order or by_copy(results[first].examples)
        expected, found = (Counter(identity for identity, _ in keys) for keys in (order, copies))
        missing, extra = expected - found, found - expected
        if missing or extra:
            parts = [
                f"{lacking.total()} only in `{name}` ({', '.join(list(lacking)[:3])}{', ...' * (len(lacking) > 3)})"
                for name, lacking in ((first, missing), (stage, extra))
                if lacking
            ]
            raise GateError(
                f"gate `{gate.expression}`: `{first}` and `{stage}` were not evaluated on the same examples: "
                f"{'; '.join(parts)}. Evaluate both on one dataset."
            )
        aligned[stage] = [copies[key] for key in order]
    return aligned


def _check_known(gate: Gate, quantity: Quantity, result: StageResult) -> None:
    measure, stage = quantity.measure, quantity.stage
    if measure in ("cost", "tokens", "latency"):
        cached, calls = result.usage.cached_calls, result.usage.lm_calls
        if cached:
            raise GateError(
                f"gate `{gate.expression}`: {quantity} is not known: {cached} of {calls} calls were answered from a "
                "response cache, which takes no tokens, money or time. Evaluate the stage without the cache."
            )
        if measure == "latency" and result.waited:
            raise GateError(
                f"gate `{gate.expression}`: {quantity} is not known: an LM of this machine answered several calls of "
                f"`{stage}` at once ({result.lm}), and what a call waits in a batch is not its latency. Measure them "
                "one by one: --dspy-num-threads=1"
            )
        unmetered = result.usage.unmetered_calls
        if unmetered and (measure == "tokens" or (measure == "cost" and result.cost is None)):
            raise GateError(
                f"gate `{gate.expression}`: {quantity} is not known: {unmetered} of {result.usage.lm_calls} replies "
                f"did not say how many tokens they took. Gate on `latency({stage})`, or have the server report `usage`."
            )
        if measure == "cost" and result.usage.cost is None:
            raise GateError(
                f"gate `{gate.expression}`: {quantity} is not known: the LM `{result.lm}` of stage `{stage}` has no "
                f"known price. Gate on `tokens({stage})` instead, or give the LM a price."
            )


def _summed_up(quantity: Quantity, column: Column) -> Fraction:
    """A quantile, or the mean, of scores exactly: ``1/3 >= 1/3`` holds."""
    if quantity.percentile:
        return Fraction(quantile(column, quantity.percentile))
    total = exact_sum(column) if quantity.is_score else Fraction(math.fsum(column))
    return total / len(column)


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


def seen_through(quantity: Quantity, results: Mapping[str, StageResult]) -> StageResult:
    """The evaluation of a quantity's stage, as the metric sees it whose score is asked for.

    Raises:
        GateError: That metric did not score it.
    """
    result = results[quantity.stage]
    if not quantity.metric:
        return result
    try:
        return result.metric(quantity.metric)
    except KeyError as error:
        raise GateError(f"`{quantity}` is not known: {error.args[0]}") from None


def excess_errors(gate: Gate, results: Mapping[str, StageResult], limit: float) -> dict[str, Fraction]:
    """The stages of which too much could not be measured to judge them, with the share of errors.

    They are counted by the metrics that the gate names, for a stage of which it names no score by the experiment's
    own. A gate on ``errors(stage)`` states its own limit, and is held to that.
    """
    named = [q for q in gate.condition.quantities if q.measure != "bootstrap_rate"]
    asked = {q.stage for q in named if q.measure == "errors"}
    shares: dict[str, Fraction] = {}
    for stage in results.keys() - asked:
        scores = [q for q in named if q.stage == stage and q.is_score] or [Quantity("score", stage)]
        seen = [seen_through(quantity, results) for quantity in scores]
        shares[stage] = max(Fraction(result.errors, max(result.calls, 1)) for result in seen)
    return {name: shares[name] for name in results if name in shares and shares[name] > Fraction(str(limit))}
