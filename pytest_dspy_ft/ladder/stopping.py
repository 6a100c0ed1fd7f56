"""Evaluations that end early: as soon as every gate that needs them is decided, in whichever process they are made.

An evaluation is measured in parts, and its gates are looked at between them. What was measured stays in the journals of
an evaluation under way, and is never filed as a whole one: a session that needs all of it goes on from there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from pytest_dspy_ft.evaluation.repeats import samples
from pytest_dspy_ft.experiment.example_id import example_id
from pytest_dspy_ft.gates.curtailment import curtailed
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.looks import look_sizes, order_of, replayed
from pytest_dspy_ft.gates.stopping import Decision, stoppable
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.ladder.evaluation_task import EvaluationTask
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult

PARTS = 20
"""In how many parts an evaluation is measured at most, where no looks are planned."""


Find = Callable[[str, Split], StageResult | None]
"""Gives the evaluation of a stage on a split, if there is one."""


@dataclass(frozen=True)
class Parts:
    """An evaluation in parts, and when it ends."""

    unordered: Sequence[Any]
    """The split in its own order."""
    examples: Sequence[Any]
    """The same in the order in which it is measured; copies of one example stand side by side."""
    wanted: Sequence[int]
    """After how many examples to look, at the earliest."""
    decided: Callable[[Sequence[ExampleResult]], bool]
    """True where the results so far decide every gate."""

    def ends(self, threads: int) -> list[int]:
        """After how many examples to look: when all threads are done, and not between copies of one example."""
        ids, n = list(map(example_id, self.examples)), len(self.examples)
        found = []
        for least in self.wanted:
            end = min(math.ceil(least / threads) * threads, n)
            while end < n and ids[end] == ids[end - 1]:
                end += 1
            found.append(end)
        return list(dict.fromkeys([*found, n]))

    def first_end(self, results: Sequence[ExampleResult]) -> int:
        """After how many examples it would end, one at a time, if these were the results in this order."""
        ends = self.ends(1)
        return next((end for end in ends[:-1] if self.decided(results[:end])), ends[-1])


class EarlyEnds:
    """Decides gates before their evaluations are whole, for one experiment in one session.

    Args:
        context: The experiment in this session.
    """

    def __init__(self, context: LadderContext) -> None:
        self._context, self._experiment, self._stopping = context, context.experiment, context.settings.stopping
        self._rule = None if self._stopping is None else self._stopping.rule

    def knows(self, gate: Gate) -> bool:
        """True for a gate that evaluations wait for; any other needs them whole."""
        return self._stopping is not None and gate in self._stopping.gates()

    def decide(self, gate: Gate, results: Mapping[str, StageResult]) -> Decision | None:
        """The verdict of a gate by what is measured, or by its planned looks; None where it is judged on the whole.

        Args:
            gate: The gate, with the confidence that it is judged at.
            results: The evaluations of the stages it names.
        """
        if self._stopping is None or not stoppable(gate):
            return None
        max_errors = self._context.settings.max_errors
        if self._rule == "sequential" and gate.confidence is not None:
            order = self._order(gate.on)
            return replayed(gate, results, order, seed=self._experiment.seed, max_errors=max_errors)
        if not any(result.stopped for result in results.values()):
            return None
        decision = curtailed(gate, results, max_errors=max_errors)
        if decision is not None and decision.excess and gate.confidence is not None and self._stopping.divisor() > 1:
            return None  # Holm's correction of the others wants its interval
        return decision

    def parts(self, task: EvaluationTask, find: Find) -> Parts | None:
        """How an evaluation may end early; None where it is made as a whole.

        Args:
            task: The evaluation.
            find: Gives the evaluation of another stage, if there is one.
        """
        if task.answered_here and samples(task.program, task.lm):
            return None  # an engine of this machine counts its samples: in parts they would come out as others
        return self._parts(task.name, task.on, find)

    def foreseen(self, stage: str, on: Split, find: Find, earlier: StageResult | None) -> str:
        """When an evaluation would end, in words; empty where it is made as a whole.

        Args:
            stage: The stage.
            on: The split.
            find: Gives the evaluation of another stage, if there is one.
            earlier: Its last evaluation.
        """
        parts = self._parts(stage, on, find)
        if parts is None:
            waits = "it may end early, if what its gates compare it with is measured before it"
            return waits if self._waiting(stage, on) else ""
        n, ids = len(parts.examples), list(map(example_id, parts.examples))
        last = {} if earlier is None or earlier.on != on else {example.id: example for example in earlier.examples}
        if last.keys() >= set(ids):
            end = parts.first_end([last[one] for one in ids])
            return f"its last evaluation would have ended after {end} of {n} examples"
        extremes = ([ExampleResult(id=one, score=score) for one in ids] for score in (0.0, 1.0))
        return f"it may end after {min(map(parts.first_end, extremes))} of {n} examples, or after all"

    def _waiting(self, stage: str, on: Split) -> list[Gate]:
        """The gates that need an evaluation; none, where one of them needs it whole."""
        gates = [] if self._stopping is None else self._stopping.gates()
        found = [gate for gate in gates if gate.on == on and stage in gate.score_stages]
        return found if all(map(stoppable, found)) else []

    def _parts(self, stage: str, on: Split, find: Find) -> Parts | None:
        gates = self._waiting(stage, on)
        if not gates:
            return None
        others = {other: find(other, on) for gate in gates for other in gate.score_stages if other != stage}
        known = {other: result for other, result in others.items() if result is not None}
        if len(known) < len(others):
            return None
        examples = self._experiment.examples(on)
        sequential = self._rule == "sequential" and any(gate.confidence is not None for gate in gates)
        ids = list(map(example_id, examples))
        order = self._order(on) if sequential else list(dict.fromkeys(ids))
        places, counts = {identity: place for place, identity in enumerate(order)}, Counter(ids)
        ordered = sorted(examples, key=lambda example: places[example_id(example)])
        up_to = list(accumulate(counts[identity] for identity in order))
        step = math.ceil(len(order) / PARTS)
        sizes = look_sizes(len(order)) if sequential else range(step, len(order) + 1, step)
        strict = [self._strictest(gate) for gate in gates]

        def decided(results: Sequence[ExampleResult]) -> bool:
            so_far = StageResult(
                experiment=self._experiment.name,
                stage=stage,
                on=on,
                lm="",
                key="",
                examples=tuple(results),
                planned=len(examples),
            )
            measured = {**known, stage: so_far}
            return all(self.decide(gate, {one: measured[one] for one in gate.score_stages}) for gate in strict)

        return Parts(examples, ordered, [up_to[size - 1] for size in sizes], decided)

    def _strictest(self, gate: Gate) -> Gate:
        """The gate at the highest confidence that it may be judged at."""
        return gate if self._stopping is None else gate.corrected(self._stopping.divisor())

    def _order(self, on: Split) -> list[str]:
        return order_of(list(map(example_id, self._experiment.examples(on))), self._experiment.seed)
