"""A ceiling on what a session spends: asked before every LM call, so that it is never passed.

Before a call is made, the most that it may cost is set aside (its prompt's tokens and the longest reply it may give, at
the model's price); when it is over, what it did cost takes that place. A call for which nothing is left is not made:
the work stops, and what was paid for so far lies in the store. All processes of a session draw on one ledger.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from pytest_dspy_ft.errors import BudgetError
from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.insides.lm_calls import Asked, CallResult
from pytest_dspy_ft.lms.calls import passing
from pytest_dspy_ft.lms.prices import Prices
from pytest_dspy_ft.lms.usage import CHARACTERS_PER_TOKEN, call_cost, estimated, reply_tokens
from pytest_dspy_ft.locks import locked
from pytest_dspy_ft.text import counted

FIRST_REPLY_TOKENS = 1000
"""How long a reply may be, of an LM without ``max_tokens`` that has not answered yet."""
REPLY_MARGIN = 1.5
"""Of such an LM later on: so many times its longest reply so far."""
LONGEST_WAIT = 600.0
"""Seconds to wait at most for calls under way to make room for another one."""


class BudgetStop(BaseException):
    """Nothing is left for the next call. Not an Exception: DSPy's optimizers swallow those and go on."""


class Reservation(NamedTuple):
    """The answer to :meth:`Ledger.reserve`."""

    ticket: str | None
    """To give it back; None where the limit would be passed."""
    committed: float
    """US dollars spent and set aside before."""
    may_fit_later: bool = False
    """True if it would fit once all that is set aside now had turned out to cost nothing."""


class LedgerState:
    """US dollars spent, and set aside by ticket."""

    def __init__(self, spent: float = 0.0, aside: Mapping[str, float] | None = None) -> None:
        self.spent = spent
        self.aside = dict(aside or {})

    def reserve(self, amount: float, limit: float) -> Reservation:
        """See :meth:`Ledger.reserve`."""
        committed = self.spent + sum(self.aside.values())
        if committed + amount > limit:
            return Reservation(None, committed, bool(self.aside) and self.spent + amount <= limit)
        ticket = f"{os.getpid()}-{uuid.uuid4().hex}"
        self.aside[ticket] = amount
        return Reservation(ticket, committed)


class Ledger(ABC):
    """Holds what was spent and what is set aside, in US dollars."""

    @abstractmethod
    def _open(self) -> AbstractContextManager[LedgerState]:
        """Its state, for one thread of one process at a time; changes count when the block ends."""

    def reserve(self, amount: float, limit: float) -> Reservation:
        """Set an amount aside if spent, set aside and this stay within the limit."""
        with self._open() as state:
            return state.reserve(amount, limit)

    def release(self, ticket: str) -> None:
        """Give back what was set aside."""
        with self._open() as state:
            state.aside.pop(ticket, None)

    def add(self, amount: float) -> None:
        """Note that an amount was spent."""
        with self._open() as state:
            state.spent += amount

    @property
    def spent(self) -> float:
        """US dollars spent so far."""
        with self._open() as state:
            return state.spent


class MemoryLedger(Ledger):
    """The ledger of a session that is one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = LedgerState()

    @contextlib.contextmanager
    def _open(self) -> Iterator[LedgerState]:
        with self._lock:
            yield self._state


class FileLedger(Ledger):
    """The ledger that several processes of one machine share: a small file under a lock.

    What a killed process had set aside counts as spent: nobody knows whether its calls were billed.

    Args:
        path: The file; its folder is made when something is first written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def _open(self) -> Iterator[LedgerState]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{self._path}.lock")):
            state = self._read()
            before = json.dumps(vars(state))
            for ticket in [t for t in state.aside if not _is_running(int(t.partition("-")[0]))]:
                state.spent += state.aside.pop(ticket)
            yield state
            if (after := json.dumps(vars(state))) == before:
                return  # it was only looked at
            write_atomically(self._path, after, flushed=False)

    def _read(self) -> LedgerState:
        if not self._path.is_file():
            return LedgerState()
        try:
            return LedgerState(**json.loads(self._path.read_text("utf-8")))
        except (ValueError, TypeError):
            raise BudgetError(f"{self._path} is damaged: what this session has spent is not known any more") from None


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # there, but somebody else's
        return True
    return True


class Budget:
    """A limit to what a session spends.

    Args:
        limit: US dollars.
        prices: What models cost.
        ledger: Shared by the processes of the session; None for a session that is one process.
    """

    def __init__(self, limit: float, prices: Prices | None = None, ledger: Ledger | None = None) -> None:
        self.limit = limit
        self.prices = prices or Prices()
        self._ledger: Ledger = ledger or MemoryLedger()
        self._longest: dict[str, int] = {}
        self.estimated_calls = 0
        """Calls of this process whose reply did not say what they used: what they cost is an estimate."""

    @property
    def spent(self) -> float:
        """US dollars spent so far, by all processes of the session."""
        return self._ledger.spent

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Hold the LM calls made inside the block, in whatever thread DSPy makes them, to the limit.

        Raises:
            BudgetError: If a call would pass the limit, or a model's price is not known.
        """
        try:
            with passing(budget=self):
                yield
        except BudgetStop as stop:
            raise BudgetError(str(stop)) from None

    def allow(self, estimate: float | None, what: str) -> None:
        """Spend on something that is no LM call: a hosted training job. The estimate counts as spent.

        Args:
            estimate: US dollars at most; None where nobody knows.
            what: In words, for the message.

        Raises:
            BudgetError: If the estimate is not known, or would pass the limit.
        """
        if estimate is None:
            raise BudgetError(
                f"--dspy-max-cost={self.limit:g}: what {what} costs is not known; say it in the ini file: "
                "dspy_prices = MODEL = INPUT OUTPUT training=PRICE (US dollars for a million tokens)"
            )
        try:
            ticket = self._set_aside(estimate, what)
        except BudgetStop as stop:
            raise BudgetError(str(stop)) from None
        self._ledger.add(estimate)
        self._ledger.release(ticket)

    @contextlib.contextmanager
    def reserved(self, lm: Any, call: Any) -> Iterator[None]:
        """Set aside the most that a call may cost, until it is over.

        Args:
            lm: The LM.
            call: DSPy's prepared call.

        Raises:
            BudgetStop: If nothing is left for it, or its price is not known.
        """
        price = self.prices.of(lm.model)
        if price is None:
            raise BudgetStop(
                f"--dspy-max-cost={self.limit:g}: the price of {lm.model} is not known, so nothing can hold the limit; "
                f"say it in the ini file: dspy_prices = {lm.model} = INPUT OUTPUT (US dollars for a million tokens)"
            )
        settings = {**getattr(lm, "kwargs", {}), **call.kwargs}
        longest = settings.get("max_completion_tokens") or settings.get("max_tokens") or self._longest.get(lm.model)
        prompt = json.dumps(call.messages or call.prompt or call.request, default=str)
        replies = int(settings.get("n") or 1) * int(longest or FIRST_REPLY_TOKENS)
        amount = price.cost(int(len(prompt) / CHARACTERS_PER_TOKEN), replies)
        ticket = self._set_aside(amount, f"the next call of {lm.model}") if amount else None
        try:
            yield
        finally:
            if ticket is not None:
                self._ledger.release(ticket)

    def count(self, model: str, result: CallResult, asked: Asked) -> None:
        """Note what an answered call did cost: nothing, where the answer comes from a cache or a recording.

        Where a reply does not say what it used, that is estimated from its length.
        """
        if result.cache_hit or result.cost_details.get("replayed"):
            return
        if not result.usage:
            result = estimated(result, asked)
            self.estimated_calls += 1
        if cost := call_cost(model, result, self.prices):
            self._ledger.add(cost)
        longest = int(REPLY_MARGIN * reply_tokens(result.usage)) + 1
        self._longest[model] = max(self._longest.get(model, 0), longest)

    def _of_estimates(self) -> str:
        if not self.estimated_calls:
            return ""
        calls = counted(self.estimated_calls, "answer")
        return f" (an estimate: {calls} came without a count of tokens, and are counted by their length)"

    def _set_aside(self, amount: float, what: str) -> str:
        """Set an amount aside, waiting for work under way to show what it really costs where that may make room.

        Raises:
            BudgetStop: If there is no room.
        """
        deadline = time.monotonic() + LONGEST_WAIT
        while True:
            reservation = self._ledger.reserve(amount, self.limit)
            if reservation.ticket is not None:
                return reservation.ticket
            if not reservation.may_fit_later or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        raise BudgetStop(
            f"--dspy-max-cost={self.limit:g}: stopped before {what}, which may cost up to ${amount:.4f}, with "
            f"${reservation.committed:.4f} spent{self._of_estimates()}; what was paid for is kept: run again with a "
            "higher limit to go on"
        )
