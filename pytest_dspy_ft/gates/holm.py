"""Holm's correction for the number of gates, where each gate must be judged inside its own test.

S. Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 65-70:
of m gates, the clearest is judged at an m-th of the error allowed, the next at an (m-1)-th, and so on until one cannot
be decided. So a gate's verdict depends on the others'. A gate that is decided at an m-th needs none of them
(Bonferroni). For any other, all gates are measured right then: they would be in this session anyway. So a verdict does
not depend on the order of the tests, nor on which worker runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

GateKey = TypeVar("GateKey", bound=Hashable)


class Holm(Generic[GateKey]):
    """The number that each gate's allowed error is divided by.

    Args:
        gates: All gates of the session that are judged at a confidence, each once.
        decided: True if a gate is decided (PASS or FAIL) when its allowed error is divided by a number. A gate that is
            decided at one number is decided at all smaller ones.
    """

    def __init__(self, gates: Sequence[GateKey], decided: Callable[[GateKey, int], bool]) -> None:
        self.gates = tuple(dict.fromkeys(gates))
        self._decided = decided
        self._divisors: dict[GateKey, int] | None = None

    def divisor(self, gate: GateKey) -> int:
        """The number to divide a gate's allowed error by; 1 for a gate that is none of the session's."""
        if gate not in self.gates:
            return 1
        if self._divisors is None:
            if self._decided(gate, len(self.gates)):
                return len(self.gates)
            self._divisors = self._step_down()
        return self._divisors[gate]

    def _step_down(self) -> dict[GateKey, int]:
        divisors: dict[GateKey, int] = {}
        waiting = list(self.gates)
        while waiting:
            divisor = len(waiting)
            clear = [gate for gate in waiting if self._decided(gate, divisor)]
            if not clear:
                return divisors | dict.fromkeys(waiting, divisor)
            divisors |= dict.fromkeys(clear, divisor)
            waiting = [gate for gate in waiting if gate not in divisors]
        return divisors
