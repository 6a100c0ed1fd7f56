"""How failures of an LM's provider are waited out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """How often what failed is tried again, and the growing pauses before it."""

    rounds: int = 5
    """How often it is tried again without a single success in between."""
    first: float = 2.0
    """Seconds before the first of these rounds; each later pause is twice as long, until something succeeds."""
    longest: float = 60.0
    longest_hint: float = 600.0
    """The longest ``Retry-After`` that is honoured; a provider that asks for more is given up."""

    def growing(self, failed_rounds: int) -> float:
        """Seconds to wait after so many failed rounds, where the provider does not ask for a pause of its own."""
        return min(self.first * 2.0**failed_rounds, self.longest)


@dataclass(frozen=True)
class Patience(Backoff):
    """How failures of the provider are waited out, after the retries that an LM makes by itself.

    What failed is tried again at the end of the split.
    """

    sleep: Callable[[float], None] = time.sleep

    def wait(self, failed_rounds: int, hints: Sequence[float]) -> float | None:
        """Seconds to wait after so many failed rounds; None when the provider asks for far more."""
        hint = max(hints, default=0.0)
        return None if hint > self.longest_hint else max(hint, self.growing(failed_rounds))


DEFAULT_PATIENCE = Patience()
