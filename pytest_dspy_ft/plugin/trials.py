"""How many gates a session judges at a confidence, and what that means for each of them.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from pytest_dspy_ft.errors import DspyFtError

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.gates.gate import Gate
    from pytest_dspy_ft.gates.holm import Holm
    from pytest_dspy_ft.ladder.ladder import Ladder


Trial = tuple[str, "Gate", str]
"""An experiment's name, a gate, and the slice that it is judged in; no slice for a gate without ``by=``."""


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
        self._holm: Holm[Trial] | None = None

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
        return max(len(list(self._trials())), 1) if self._corrected else 1

    def caution(self) -> str:
        """How many gates are judged by interval, and the risk in that; empty for fewer than two."""
        count = len(self._experiments)
        if count < 2:
            return ""
        sliced = sum(gate.by is not None for _, gate in self._experiments)
        in_slices = f" ({sliced} of them in slices)" if sliced else ""
        if self._corrected:
            trials = "each slice of each" if sliced else "each"
            return (
                f"{count} gates{in_slices} were tried at a confidence; {trials} is judged at one corrected for that by "
                "Holm's method"
            )
        risk = min(sum(1 - (gate.confidence or 0) for _, gate in self._experiments), 1)
        return (
            f"{count} gates{in_slices} were tried at a confidence, each by itself: the chance that any of them errs is "
            f"up to {risk:.0%} (dspy_correction = holm corrects for it)"
        )

    def divisor(self, experiment: Experiment, gate: Gate) -> int:
        """The number that the allowed error of a gate without ``by=`` is divided by; 1 without a correction."""
        return self._corrections.divisor((experiment.name, gate, "")) if self._corrected else 1

    def slice_divisors(self, experiment: Experiment, gate: Gate) -> dict[str, int] | None:
        """The same for each slice of a gate with ``by=``; None where it is corrected for its own slices alone."""
        if gate.by is None or not self._corrected:
            return None
        slices = self._ladder_of(experiment).slices(gate)
        return {part.name: self._corrections.divisor((experiment.name, gate, part.name)) for part in slices}

    @property
    def _corrections(self) -> Holm[Trial]:
        if self._holm is None:
            from pytest_dspy_ft.gates.holm import Holm

            self._holm = Holm(list(self._trials()), self._is_decided)
        return self._holm

    def _trials(self) -> Iterator[Trial]:
        for (name, gate), experiment in self._experiments.items():
            if gate.by is None:
                yield name, gate, ""
            else:
                yield from ((name, gate, part.name) for part in self._ladder_of(experiment).slices(gate))

    def _is_decided(self, trial: Trial, divisor: int) -> bool:
        name, gate, part = trial
        try:
            ladder = self._ladder_of(self._experiments[name, gate])
            if gate.by is not None:
                return ladder.sliced(gate).is_decided(part, divisor)
            ends = ladder.weigh(gate, divisor).interval
        except DspyFtError:
            return False  # it cannot be judged, and its own test says why
        return ends is not None and not ends[0] < 0 <= ends[1]
