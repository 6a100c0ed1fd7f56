"""What LM calls cost, counted where they are made.

DSPy's own tracking loses the usage of failed calls and of threads, and knows no price for custom engines. A
:func:`measure` block sees every call made inside it, in whatever thread DSPy runs it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import dspy

from pytest_dspy_ft.results import Usage


class Meter:
    """Counts the LM calls of one piece of work. Thread-safe; copies of it are itself."""

    def __init__(self, parent: Any = None) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self._calls = self._cached = self._input = self._output = 0
        self._started = time.perf_counter()
        self._cost: float | None = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        return self  # DSPy copies a usage tracker for each thread; all threads count here

    @property
    def usage(self) -> Usage:
        """What was counted so far; the clock runs since the block began."""
        with self._lock:
            return Usage(
                lm_calls=self._calls,
                cached_calls=self._cached,
                input_tokens=self._input,
                output_tokens=self._output,
                cost=self._cost,
                seconds=time.perf_counter() - self._started,
            )

    @property
    def calls(self) -> int:
        """LM calls answered so far."""
        return self._calls

    # DSPy's usage tracker interface: tokens, also those of calls that failed after they were billed.

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Add the tokens of one call, here and in the tracker that was active outside the block."""
        if self._parent is not None:
            self._parent.add_usage(lm, usage_entry)
        with self._lock:
            self._input += int(usage_entry.get("prompt_tokens") or usage_entry.get("input_tokens") or 0)
            self._output += int(usage_entry.get("completion_tokens") or usage_entry.get("output_tokens") or 0)

    def get_total_tokens(self) -> dict[str, Any]:
        """Part of the tracker's interface; the totals are in :attr:`usage`."""
        return {}

    @property
    def usage_data(self) -> dict[str, list[Any]]:
        """Part of the tracker's interface: a nested tracker adds its entries here when it ends."""
        return _Entries(self)

    # DSPy's history interface: one entry for each completed call, with its price.

    @property
    def history(self) -> _History:
        """What looks like a module's history, and adds up the prices of what is appended."""
        return _History(self)

    def add_cost(self, entry: dict[str, Any]) -> None:
        """Count one completed call and add its price."""
        with self._lock:
            self._calls += 1
            if not entry.get("usage"):
                self._cached += 1  # only answers from a cache come without usage
            elif (cost := entry.get("cost")) is not None:
                self._cost = None if self._cost is None else self._cost + float(cost)
            elif not str(entry.get("model", "")).startswith("local:"):
                self._cost = None  # a price nobody knows is not zero


class _Entries(dict[str, list[Any]]):
    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def __missing__(self, lm: str) -> Any:
        meter = self._meter

        class Adder(list[Any]):
            def extend(self, entries: Any) -> None:
                for entry in entries:
                    meter.add_usage(lm, entry)

            def append(self, entry: Any) -> None:
                meter.add_usage(lm, entry)

        return Adder()


class _History:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __len__(self) -> int:
        return 0

    def append(self, entry: dict[str, Any]) -> None:
        self._meter.add_cost(entry)


@contextlib.contextmanager
def measure(**settings: Any) -> Iterator[Meter]:
    """Count the LM calls made inside the block. Blocks may be nested; an inner block's calls count in the outer too."""
    meter = Meter(parent=dspy.settings.usage_tracker)
    # Not through DSPy's callbacks: while there is one, every module and adapter pays for it at every call.
    with dspy.context(
        usage_tracker=meter,
        caller_modules=[*(dspy.settings.caller_modules or []), meter],
        disable_history=False,
        max_history_size=dspy.settings.max_history_size or 1,
        **settings,
    ):
        yield meter
