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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import dspy
from dspy.utils.callback import BaseCallback
from filelock import FileLock

from pytest_dspy_ft.errors import BudgetError
from pytest_dspy_ft.lms.prices import Prices
from pytest_dspy_ft.lms.usage import call_cost

CHARACTERS_PER_TOKEN = 3.0
"""Of a prompt, for a bound from above: English text has about four."""
FIRST_REPLY_TOKENS = 1000
"""How long a reply may be, of an LM without ``max_tokens`` that has not answered yet."""
REPLY_MARGIN = 1.5
"""Of such an LM later on: so many times its longest reply so far."""
LONGEST_WAIT = 600.0
"""Seconds to wait at most for calls under way to make room for another one."""


class BudgetStop(BaseException):
    """Nothing is left for the next call. Not an Exception: DSPy's optimizers swallow those and go on."""


class Reservation(NamedTuple):
    """What became of the wish to set an amount aside."""

    ticket: str | None
    """To give it back; None where the limit would be passed."""
    committed: float
    """US dollars spent and set aside before."""
    may_fit_later: bool = False
    """Whether it would fit if all that is set aside now turned out to cost nothing."""


class Ledger(Protocol):
    """Who has spent and set aside how much, in US dollars."""

    def reserve(self, amount: float, limit: float) -> Reservation:
        """Set an amount aside if spent, set aside and this stay within the limit."""

    def release(self, ticket: str) -> None:
        """Give back what was set aside."""

    def add(self, amount: float) -> None:
        """Note that an amount was spent."""

    @property
    def spent(self) -> float:
        """What was spent so far."""


class _State:
    """What a ledger holds, and its arithmetic."""

    def __init__(self, spent: float = 0.0, aside: Mapping[str, float] | None = None) -> None:
        self.spent = spent
        self.aside = dict(aside or {})

    def reserve(self, amount: float, limit: float) -> Reservation:
        committed = self.spent + sum(self.aside.values())
        if committed + amount > limit:
            return Reservation(None, committed, bool(self.aside) and self.spent + amount <= limit)
        ticket = f"{os.getpid()}-{uuid.uuid4().hex}"
        self.aside[ticket] = amount
        return Reservation(ticket, committed)


class MemoryLedger:
    """The ledger of a session that is one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = _State()

    def reserve(self, amount: float, limit: float) -> Reservation:
        """See :class:`Ledger`."""
        with self._lock:
            return self._state.reserve(amount, limit)

    def release(self, ticket: str) -> None:
        """See :class:`Ledger`."""
        with self._lock:
            self._state.aside.pop(ticket, None)

    def add(self, amount: float) -> None:
        """See :class:`Ledger`."""
        with self._lock:
            self._state.spent += amount

    @property
    def spent(self) -> float:
        """See :class:`Ledger`."""
        return self._state.spent


class FileLedger:
    """The ledger that several processes of one machine share: a small file under a lock.

    What a killed process had set aside counts as spent: nobody knows whether its calls were billed.

    Args:
        path: The file; its folder is made when something is first written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def reserve(self, amount: float, limit: float) -> Reservation:
        """See :class:`Ledger`."""
        with self._changed() as state:
            return state.reserve(amount, limit)

    def release(self, ticket: str) -> None:
        """See :class:`Ledger`."""
        with self._changed() as state:
            state.aside.pop(ticket, None)

    def add(self, amount: float) -> None:
        """See :class:`Ledger`."""
        with self._changed() as state:
            state.spent += amount

    @property
    def spent(self) -> float:
        """See :class:`Ledger`."""
        with self._changed() as state:
            return state.spent

    @contextlib.contextmanager
    def _changed(self) -> Iterator[_State]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock"):
            state = _State(**json.loads(self._path.read_text("utf-8"))) if self._path.is_file() else _State()
            before = json.dumps(vars(state))
            for ticket in [t for t in state.aside if not _is_running(int(t.partition("-")[0]))]:
                state.spent += state.aside.pop(ticket)
            yield state
            if (after := json.dumps(vars(state))) == before:
                return  # it was only looked at
            temporary = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex[:8]}")
            temporary.write_text(after, "utf-8")
            temporary.replace(self._path)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # there, but somebody else's
        return True
    return True


class Budget:
    """What a session may spend.

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

    @property
    def spent(self) -> float:
        """US dollars spent so far, by all processes of the session."""
        return self._ledger.spent

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Watch over the LM calls made inside the block, in whatever thread DSPy makes them.

        Raises:
            BudgetError: If a call would pass the limit, or a model's price is not known.
        """
        watch = _Watch(self)
        callbacks = [c for c in dspy.settings.get("callbacks", []) if not isinstance(c, _Watch)]
        modules = [m for m in dspy.settings.caller_modules or [] if not isinstance(m, _Watch)]
        try:
            with dspy.context(callbacks=[*callbacks, watch], caller_modules=[*modules, watch], disable_history=False):
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

    def reserve_call(self, lm: Any, inputs: Mapping[str, Any]) -> str | None:
        """Set aside the most that a call may cost.

        Returns:
            A ticket for :meth:`release`; None for a model that costs nothing.

        Raises:
            BudgetStop: If nothing is left for it, or its price is not known.
        """
        price = self.prices.of(lm.model)
        if price is None:
            raise BudgetStop(
                f"--dspy-max-cost={self.limit:g}: the price of {lm.model} is not known, so nothing can hold the limit; "
                f"say it in the ini file: dspy_prices = {lm.model} = INPUT OUTPUT (US dollars for a million tokens)"
            )
        settings = {**getattr(lm, "kwargs", {}), **(inputs.get("kwargs") or {})}
        longest = settings.get("max_completion_tokens") or settings.get("max_tokens") or self._longest.get(lm.model)
        prompt = len(json.dumps(inputs.get("messages") or inputs.get("prompt"), default=str)) / CHARACTERS_PER_TOKEN
        replies = int(settings.get("n") or 1)
        amount = price.cost(int(prompt), int(longest or FIRST_REPLY_TOKENS) * replies)
        if not amount:
            return None
        return self._set_aside(amount, f"the next call of {lm.model}")

    def release(self, ticket: str) -> None:
        """A call is over: give back what was set aside for it."""
        self._ledger.release(ticket)

    def note(self, entry: Mapping[str, Any]) -> None:
        """Note what a completed call did cost.

        Args:
            entry: Its entry in DSPy's history.
        """
        usage = entry.get("usage") or {}
        if not usage or (entry.get("cost_details") or {}).get("replayed"):
            return  # an answer from a cache, or from a recording
        model = str(entry.get("model", ""))
        if cost := call_cost(entry, self.prices):
            self._ledger.add(cost)
        reply = int(usage.get("completion_tokens") or usage.get("output_tokens") or 0)
        self._longest[model] = max(self._longest.get(model, 0), int(REPLY_MARGIN * reply) + 1)

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
            f"${reservation.committed:.4f} spent; what was paid for is kept: run again with a higher limit to go on"
        )


class _Watch(BaseCallback):  # type: ignore[misc]
    """Sees every LM call begin and end; looks like a module to DSPy's history, which tells it each call's price."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._tickets: dict[str, str] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watch:
        return self

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Set aside what the call may cost."""
        ticket = self._budget.reserve_call(instance, inputs)
        if ticket is not None:
            self._tickets[call_id] = ticket

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """What the call did cost is noted by now; what was set aside for it is free again."""
        ticket = self._tickets.pop(call_id, None)
        if ticket is not None:
            self._budget.release(ticket)

    @property
    def history(self) -> _Notes:
        """What looks like a module's history."""
        return _Notes(self._budget)


class _Notes:
    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __len__(self) -> int:
        return 0

    def append(self, entry: dict[str, Any]) -> None:
        self._budget.note(entry)
