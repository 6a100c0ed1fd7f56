"""What LM calls cost, counted where they are made.

DSPy's own tracking loses the usage of failed calls and of threads, and knows no price for custom engines. A
:func:`measure` block sees every call made inside it, in whatever thread DSPy runs it. :mod:`prices` says whose word on
a price counts; the tokens are kept by model, so that a cost read from the store is one at today's ``dspy_prices``.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import dspy

from pytest_dspy_ft.lms.prices import Prices, price_of
from pytest_dspy_ft.lms.resolve import LOCAL_PREFIX
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.usage import ModelUsage, Usage

R = TypeVar("R", StageResult, BuildRecord)

SETTING = "dspy_ft_prices"


class Meter:
    """Counts the LM calls of one piece of work. Thread-safe; copies of it are itself."""

    def __init__(self, parent: Any = None) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self._calls = self._cached = self._replayed = 0
        self._replayed_seconds = 0.0
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._listed: dict[str, float | None] = {}
        self._started = time.perf_counter()
        self._prices: Prices = dspy.settings.get(SETTING) or Prices()

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        return self  # DSPy copies a usage tracker for each thread; all threads count here

    @property
    def usage(self) -> Usage:
        """What was counted so far; the clock runs since the block began."""
        with self._lock:
            tokens = self._tokens
            models = {
                model: ModelUsage(
                    input_tokens=tokens[model, "input"],
                    cached_tokens=tokens[model, "cached"],
                    output_tokens=tokens[model, "output"],
                    listed=self._listed.get(model, 0.0),
                )
                for model in sorted({*(model for model, _ in tokens), *self._listed})
            }
            usage = Usage(
                lm_calls=self._calls,
                cached_calls=self._cached,
                replayed_calls=self._replayed,
                input_tokens=sum(m.input_tokens for m in models.values()),
                output_tokens=sum(m.output_tokens for m in models.values()),
                seconds=time.perf_counter() - self._started + self._replayed_seconds,
                models=models,
            )
        return priced(usage, self._prices)

    @property
    def calls(self) -> int:
        """LM calls answered so far."""
        return self._calls

    # DSPy's usage tracker interface: tokens, also those of calls that failed after they were billed.

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Add the tokens of one call, here and in the tracker that was active outside the block."""
        if self._parent is not None:
            self._parent.add_usage(lm, usage_entry)
        counted = _counted(usage_entry)
        with self._lock:
            for kind, count in counted.items():
                self._tokens[lm, kind] += count

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
        """Count one completed call and add its list price."""
        usage, model = entry.get("usage"), str(entry.get("model", ""))
        with self._lock:
            self._calls += 1
            if (details := entry.get("cost_details") or {}).get("replayed"):
                self._replayed += 1
                self._replayed_seconds += details.get("seconds", 0.0)
            if not usage:
                self._cached += 1  # only answers from a cache come without usage
                return
            listed = self._listed.get(model, 0.0)
            cost = _list_price(model, entry.get("cost"), _counted(usage))
            self._listed[model] = None if listed is None or cost is None else listed + cost


def _counted(usage: Any) -> dict[str, int]:
    """The tokens of one call's usage, as DSPy or a provider writes it."""
    details = usage.get("prompt_tokens_details") or {}
    return {
        "input": int(usage.get("prompt_tokens") or usage.get("input_tokens") or 0),
        "output": int(usage.get("completion_tokens") or usage.get("output_tokens") or 0),
        "cached": int(details.get("cached_tokens") or 0),
    }


def _list_price(model: str, cost: Any, tokens: dict[str, int]) -> float | None:
    """What one call costs without the user's own prices: by DSPy's figure where there is one."""
    if cost is not None:
        return float(cost)
    if model.startswith(LOCAL_PREFIX):
        return 0.0
    price = price_of(model)
    return None if price is None else price.cost(tokens["input"], tokens["output"], tokens["cached"])


def call_cost(entry: Mapping[str, Any], prices: Prices) -> float | None:
    """What one completed call cost: at the user's price, else at list price; None where nobody knows one.

    Args:
        entry: Its entry in DSPy's history.
        prices: The session's.
    """
    usage, model = entry.get("usage"), str(entry.get("model", ""))
    if not usage:
        return 0.0
    tokens, own = _counted(usage), prices.own(model)
    if own is not None:
        return own.cost(tokens["input"], tokens["output"], tokens["cached"])
    return _list_price(model, entry.get("cost"), tokens)


def priced(usage: Usage, prices: Prices) -> Usage:
    """Some usage at the user's prices, at list prices where they have none, at None where nobody knows one."""
    total: float | None = 0.0
    for name, model in usage.models.items():
        own = prices.own(name)
        cost = model.listed
        if own is not None:
            cost = own.cost(model.input_tokens, model.output_tokens, model.cached_tokens)
        total = None if total is None or cost is None else total + cost
    return usage.model_copy(update={"cost": total}) if usage.models else usage


def repriced(record: R, prices: Prices) -> R:
    """A record from the store at the prices of now: what was paid for once is not measured again for that."""
    if isinstance(record, BuildRecord):
        return record.model_copy(update={"usage": priced(record.usage, prices)})
    examples = tuple(_repriced(example, prices) for example in record.examples)
    fields = {name: getattr(record, name) for name in type(record).model_fields}  # without what was summed up before
    return StageResult(**{**fields, "examples": examples})


def _repriced(example: ExampleResult, prices: Prices) -> ExampleResult:
    update: dict[str, Any] = {"usage": priced(example.usage, prices)}
    if example.repeats:
        update["repeats"] = tuple(_repriced(repeat, prices) for repeat in example.repeats)
    return example.model_copy(update=update)


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
