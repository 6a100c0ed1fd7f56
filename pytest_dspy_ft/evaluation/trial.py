"""Metrics are tried on the first answers, before the other examples are paid for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_dspy_ft.lms.resolve import is_local
from pytest_dspy_ft.records.evaluation import ExampleResult

MOST_ALONE = 3
"""Examples that are answered one after the other, while no answer tells that the metrics work."""


class MetricTrial:
    """The beginning of an evaluation by metrics that have scored nothing yet.

    The first example is answered alone, and scored before any other is started; what is no score ends the evaluation
    there. A score of 0 does not tell whether the metric counts to 1 or to 100, so the next example is tried too, up to
    three. An LM of this machine answers for nothing and in batches that would be others then: there the first example
    of the split tells, whenever it comes. What is refused depends on the examples' order alone, never on timing.

    Args:
        lm: The LM that is bound around the program's calls.
        examples: What is to be measured, in order.
    """

    def __init__(self, lm: Any, examples: Sequence[Any]) -> None:
        self._first = examples[0] if examples else None
        self._left = 0 if is_local(lm) else MOST_ALONE
        self._going = False
        self._noted = self._told = False

    def goes_on(self) -> bool:
        """True where the next example is to be answered alone; asked before each round of calls, in one thread."""
        if self._going and not self._noted:
            self._left = 0  # its provider failed, and will be asked again: meanwhile the others go on
        self._going = self._left > 0 and not self._told
        self._left -= self._going
        self._noted = False
        return self._going

    def holds(self, example: Any) -> bool:
        """True for an example on which an answer that is no score counts against the metric itself."""
        return self._going or example is self._first

    def note(self, result: ExampleResult) -> None:
        """Note a result: it tells that the metrics work where each of them gave more than 0, or raised."""
        said = [(result.score, result.error), *((s.score, s.error) for s in result.further.values())]
        self._noted = True
        scored = result.outcome == "scored" or result.fault == "metric"
        self._told |= scored and all(score > 0 or error is not None for score, error in said)
