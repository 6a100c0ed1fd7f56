"""Evaluations that end early: as soon as every gate that needs them is decided, in whichever process they are made.

An evaluation is measured in parts, and its gates are looked at between them. What was measured stays in the journals of
an evaluation under way, and is never filed as a whole one: a session that needs all of it goes on from there.
"""

from __future__ import annotations

import dataclasses
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


class EarlyEnds:
    """Decides gates before their evaluations are whole, for one experiment in one session.

    Args:
        context: The experiment in this session.
    """

    def __init__(self, context: LadderContext) -> None:
        self._context, self._experiment, self._stopping = context, context.experiment, context.settings.stopping

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
        if self._stopping.rule == "sequential" and gate.confidence is not None:
            order = self._order(gate.on)
            return replayed(gate, results, order, seed=self._experiment.seed, max_errors=max_errors)
        if not any(result.stopped for result in results.values()):
            return None
        decision = curtailed(gate, results, max_errors=max_errors)
        if decision is not None and decision.excess and gate.confidence is not None and self._stopping.divisor() > 1:
            return None  # Holm's correction of the others wants its interval
        return decision

    def parts(self, task: EvaluationTask, find: Callable[[str, Split], StageResult | None]) -> Parts | None:
        """How an evaluation may end early; None where it is made as a whole.

        Args:
            task: The evaluation.
            find: Gives the evaluation of another stage, if there is one.
        """
        if self._stopping is None or (task.answered_here and samples(task.program, task.lm)):
            return None  # an engine of this machine counts its samples: in parts they would come out as others
        gates = [gate for gate in self._stopping.gates() if gate.on == task.on and task.name in gate.score_stages]
        if not gates or not all(map(stoppable, gates)):
            return None
        others = {stage: find(stage, task.on) for gate in gates for stage in gate.score_stages if stage != task.name}
        known = {stage: result for stage, result in others.items() if result is not None}
        if len(known) < len(others):
            return None
        examples = self._experiment.examples(task.on)
        sequential = self._stopping.rule == "sequential" and any(gate.confidence is not None for gate in gates)
        ids = list(map(example_id, examples))
        order = self._order(task.on) if sequential else list(dict.fromkeys(ids))
        places = {identity: place for place, identity in enumerate(order)}
        ordered = sorted(examples, key=lambda example: places[example_id(example)])
        counts = Counter(ids)
        up_to = list(accumulate(counts[identity] for identity in order))
        step = math.ceil(len(order) / PARTS)
        sizes = look_sizes(len(order)) if sequential else range(step, len(order) + 1, step)
        strict = [self._strictest(gate) for gate in gates]

        def decided(results: Sequence[ExampleResult]) -> bool:
            measured = {**known, task.name: _so_far(task, results, len(examples))}
            return all(
                self.decide(gate, {stage: measured[stage] for stage in gate.score_stages}) is not None
                for gate in strict
            )

        return Parts(examples, ordered, [up_to[size - 1] for size in sizes], decided)

    def _strictest(self, gate: Gate) -> Gate:
        """The gate at the highest confidence that it may be judged at."""
        if self._stopping is None or gate.confidence is None:
            return gate
        return dataclasses.replace(gate, confidence=1 - (1 - gate.confidence) / max(self._stopping.divisor(), 1))

    def _order(self, on: Split) -> list[str]:
        return order_of(list(map(example_id, self._experiment.examples(on))), self._experiment.seed)


def _so_far(task: EvaluationTask, results: Sequence[ExampleResult], planned: int) -> StageResult:
    return StageResult(
        experiment=task.experiment,
        stage=task.name,
        on=task.on,
        lm=task.model,
        key=task.key,
        examples=tuple(results),
        planned=planned,
    )
