"""How many gates a session judges at a confidence, and what that means for each of them.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from pytest_dspy_ft.errors import DspyFtError

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.gates.gate import Gate
    from pytest_dspy_ft.gates.holm import Holm
    from pytest_dspy_ft.ladder.ladder import Ladder


class Trials:
    """The gates that a session judges, and those of them that it judges at a confidence.

    Args:
        correction: ``holm`` or ``none``.
        ladder_of: Gives the ladder that measures an experiment.
    """

    def __init__(self, correction: str, ladder_of: Callable[[Experiment], Ladder]) -> None:
        self._corrected = correction == "holm"
        self._ladder_of = ladder_of
        self._experiments: dict[tuple[str, Gate], Experiment] = {}
        self._gates: dict[str, dict[Gate, None]] = {}
        self._holm: Holm[tuple[str, Gate]] | None = None

    @property
    def experiments(self) -> list[Experiment]:
        """The experiments of the gates, one for each gate."""
        return list(self._experiments.values())

    def add(self, experiment: Experiment, gate: Gate) -> None:
        """Note a gate, and count it if it is judged at a confidence; the same gate in two tests is one."""
        self._gates.setdefault(experiment.name, {})[gate] = None
        if gate.confidence is not None and gate.score_stages:
            self._experiments[experiment.name, gate] = experiment

    def gates(self, experiment: str) -> Collection[Gate]:
        """All gates of an experiment that the session will judge."""
        return self._gates.get(experiment, {}).keys()

    def largest_divisor(self) -> int:
        """The most that any gate's allowed error is divided by."""
        return max(len(self._experiments), 1) if self._corrected else 1

    def caution(self) -> str:
        """How many gates are judged by interval, and the risk in that; empty for fewer than two."""
        count = len(self._experiments)
        if count < 2:
            return ""
        if self._corrected:
            return (
                f"{count} gates were tried at a confidence; each is judged at one corrected for that by Holm's method"
            )
        risk = min(sum(1 - (gate.confidence or 0) for _, gate in self._experiments), 1)
        return (
            f"{count} gates were tried at a confidence, each by itself: the chance that any of them errs is up to "
            f"{risk:.0%} (dspy_correction = holm corrects for it)"
        )

    def divisor(self, experiment: Experiment, gate: Gate) -> int:
        """The number that a gate's allowed error is divided by; 1 without a correction."""
        if not self._corrected:
            return 1
        if self._holm is None:
            from pytest_dspy_ft.gates.holm import Holm

            self._holm = Holm(list(self._experiments), self._is_decided)
        return self._holm.divisor((experiment.name, gate))

    def _is_decided(self, trial: tuple[str, Gate], divisor: int) -> bool:
        try:
            ends = self._ladder_of(self._experiments[trial]).weigh(trial[1], divisor).interval
        except DspyFtError:
            return False  # it cannot be judged, and its own test says why
        return ends is not None and not ends[0] < 0 <= ends[1]
