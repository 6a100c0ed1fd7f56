"""What a session knows of its LMs' providers: who answers, how long each was waited for in vain, who was given up.

A session has one patience for each provider, whatever its threads, calls, stages and evaluations: time in which its
calls failed, or paused before they were made again, and it answered nothing. When that is spent, what it fails is not
tried again. A provider that is silent then, or that was silent from the beginning, is not even asked any more.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import dspy

from pytest_dspy_ft.errors import ProviderWarning
from pytest_dspy_ft.insides.lm_calls import is_reached_by_name
from pytest_dspy_ft.lms.failures import failure_status, is_timeout
from pytest_dspy_ft.lms.withheld import AnswerWithheldError
from pytest_dspy_ft.redaction import plain_address
from pytest_dspy_ft.text import duration
from pytest_dspy_ft.tracebacks import warn

CALL_SECONDS = 600.0
"""How long a call may take where nobody says; as long as DSPy waits for a server's next word."""
PATIENCE = 900.0
"""Seconds in vain for one provider, where nobody says."""
PROBE = 0.1
"""One who has said nothing yet is asked once more for this share of a call's time, before it counts as silent."""
SHORTEST_PROBE = 0.1
_LONGEST_DELAY = 60.0


class ProviderSilentError(dspy.LMTimeoutError):  # type: ignore[misc]
    """A call was not made, as its provider was given up earlier in the session."""


@dataclass
class _Standing:
    """One provider."""

    name: str
    heard: bool = False
    """It said something: an answer, or why it gave none."""
    last: float = float("-inf")
    """When it last answered, or the end of the last time in vain, whichever is later."""
    vain: float = 0.0
    """Seconds waited for it in vain."""
    given_up: str = ""
    """Why it is not asked any more."""
    told: bool = False


class Providers:
    """The providers of one session's LMs, in one process.

    Args:
        time_limit: Seconds that one call may take, DSPy's own retries of it included, of LMs without a ``timeout`` of
            their own; None: ten minutes, and for an engine of the user's own no limit.
        patience: Seconds that each provider is waited for in vain.
    """

    def __init__(self, time_limit: float | None = None, patience: float = PATIENCE) -> None:
        self.time_limit, self.patience = time_limit, patience
        self._standings: dict[str, _Standing] = {}
        self._of_model: dict[str, _Standing] = {}
        self._answered: set[str] = set()
        self._lock = threading.Lock()

    def _of(self, lm: Any) -> _Standing:
        model, address = str(getattr(lm, "model", "")), plain_address(getattr(lm, "kwargs", {}).get("api_base"))
        name = f"{model.partition('/')[0]} at {address}" if address else model.partition("/")[0]
        with self._lock:
            self._of_model[model] = standing = self._standings.setdefault(name, _Standing(name))
        return standing

    # --- how long a call may take ------------------------------------------------------------------------------------

    def limits(self, lm: Any, call: Any) -> tuple[float | None, float | None]:
        """How long a call may take in all, and how long one attempt of it; None: as long as it takes.

        An LM's own ``timeout`` is that of one attempt. DSPy hands it to the client, which waits so long for each next
        byte; so is the whole limited to what DSPy's retries may take, and a second.
        """
        own = {**getattr(lm, "kwargs", {}), **call.kwargs}.get("timeout")
        if own is None:
            limit = self.time_limit or (CALL_SECONDS if is_reached_by_name(lm) else None)
            return limit, limit
        attempt = _seconds(own)
        if attempt is None:
            return None, None
        retries = int(getattr(lm, "num_retries", 0) or 0)
        pauses = sum(min(2.0**n, _LONGEST_DELAY) for n in range(retries))
        return attempt * (retries + 1) + pauses + 1.0, attempt

    # --- what became of calls ----------------------------------------------------------------------------------------

    def answers(self, model: str) -> bool:
        """True for a model that has answered in this session: what it refuses, it refuses for what is asked."""
        return model in self._answered

    def note_answer(self, lm: Any) -> None:
        """A model answered."""
        standing = self._of(lm)
        with self._lock:
            self._answered.add(lm.model)
            standing.heard, standing.given_up, standing.last = True, "", time.monotonic()

    def may_be_silent(self, lm: Any, error: BaseException, since: float, attempt: float | None) -> bool:
        """True where a call failed as nothing came for all of an attempt's time, of one who has said nothing yet."""
        return not self._of(lm).heard and _was_silent(error, since, attempt)

    def note_failure(self, lm: Any, error: BaseException, since: float, attempt: float | None) -> None:
        """A call failed in a way that the provider may mend.

        Args:
            lm: The LM that was asked.
            error: What the call raised.
            since: When it began, by the monotonic clock.
            attempt: How long one attempt might take.
        """
        standing, silent = self._of(lm), _was_silent(error, since, attempt)
        with self._lock:
            self._add(standing, since)
            if not silent:
                standing.heard |= failure_status(error) is not None or isinstance(error, AnswerWithheldError)
            elif not standing.heard:
                waited = duration(time.monotonic() - since)
                standing.given_up = (
                    f"{standing.name} was silent for {waited}, and has not said anything in this session "
                    "(--dspy-lm-timeout=SECONDS is how long one call may take)"
                )
            elif standing.vain >= self.patience:
                standing.given_up = self._spent(standing)
        self._tell(standing)

    def note_pause(self, model: str, since: float) -> None:
        """A pause is over that was made before a model is asked again."""
        if (standing := self._of_model.get(model)) is not None:
            with self._lock:
                self._add(standing, since)

    def may_wait(self, model: str, seconds: float = 0.0) -> bool:
        """True where there is patience left for a pause, before a model is asked again."""
        standing = self._of_model.get(model)
        if standing is None:
            return True
        left = not standing.given_up and standing.vain + seconds < self.patience
        if not left:
            self._tell(standing)
        return left

    def given_up(self, lm: Any) -> str:
        """Why an LM is not asked any more in this session; empty where it is."""
        return self._of(lm).given_up

    def _add(self, standing: _Standing, since: float) -> None:
        now = time.monotonic()
        standing.vain += max(0.0, now - max(since, standing.last))
        standing.last = max(standing.last, now)

    def _spent(self, standing: _Standing) -> str:
        return (
            f"{standing.name} was waited for in vain for {duration(standing.vain)} in this session "
            "(--dspy-patience=SECONDS is how long it is waited for in all)"
        )

    def _tell(self, standing: _Standing) -> None:
        """Say once that a provider is not waited for any more."""
        why = standing.given_up or (self._spent(standing) if standing.vain >= self.patience else "")
        with self._lock:
            if not why or standing.told:
                return
            standing.told = True
        warn(
            f"{why}: what it fails from here on is not tried again in this session, and counts as the provider's "
            "error, which a later session asks again",
            ProviderWarning,
        )


def _was_silent(error: BaseException, since: float, attempt: float | None) -> bool:
    return attempt is not None and is_timeout(error) and time.monotonic() - since >= 0.9 * attempt


def _seconds(timeout: Any) -> float | None:
    """A ``timeout`` in seconds; an ``httpx.Timeout`` is the sum of its parts. None for one that never ends."""
    if isinstance(timeout, (int, float)):
        return float(timeout)
    parts = [getattr(timeout, name, None) for name in ("connect", "read", "write", "pool")]
    return None if None in parts else float(sum(parts))  # type: ignore[arg-type]
