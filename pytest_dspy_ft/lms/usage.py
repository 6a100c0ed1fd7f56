"""Calls, tokens and cost, counted call by call.

DSPy's own tracking loses the usage of threads, and knows no price for custom engines. A :func:`measure` block sees
every call made inside it, in whatever thread DSPy runs it. :mod:`prices` says whose word on
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

from pytest_dspy_ft.lms.calls import current_path, passing
from pytest_dspy_ft.lms.compat import CallResult
from pytest_dspy_ft.lms.prices import Price, Prices, price_of
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.usage import ModelUsage, Usage

R = TypeVar("R", StageResult, BuildRecord)

SETTING = "dspy_ft_prices"


class Meter:
    """Counts the LM calls of one piece of work, in whatever threads they are made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = self._cached = self._replayed = 0
        self._replayed_seconds = 0.0
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._listed: dict[str, float | None] = {}
        self._started = time.perf_counter()
        self._prices: Prices = dspy.settings.get(SETTING) or Prices()

    @property
    def usage(self) -> Usage:
        """Calls, tokens and cost so far; the clock runs since the block began."""
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

    def count(self, model: str, result: CallResult) -> None:
        """Count one answered call: its tokens, and its list price."""
        with self._lock:
            self._calls += 1
            if result.cost_details.get("replayed"):
                self._replayed += 1
                self._replayed_seconds += result.cost_details.get("seconds", 0.0)
            if not result.usage:
                self._cached += 1  # only answers from a cache come without usage
                return
            listed, cost = self._listed.get(model, 0.0), _list_price(model, result)
            self._listed[model] = None if listed is None or cost is None else listed + cost
        self.count_tokens(model, result.usage)

    def count_tokens(self, model: str, usage: Mapping[str, Any]) -> None:
        """Count the tokens of one call, answered or not."""
        with self._lock:
            for kind, count in _tokens(usage).items():
                self._tokens[model, kind] += count


def _tokens(usage: Mapping[str, Any]) -> dict[str, int]:
    """The tokens of one call's usage, as DSPy or a provider writes it."""
    details = usage.get("prompt_tokens_details") or {}
    return {
        "input": int(usage.get("prompt_tokens") or usage.get("input_tokens") or 0),
        "output": reply_tokens(usage),
        "cached": int(details.get("cached_tokens") or 0),
    }


def reply_tokens(usage: Mapping[str, Any]) -> int:
    """The output tokens of one call's usage, as DSPy or a provider writes it."""
    return int(usage.get("completion_tokens") or usage.get("output_tokens") or 0)


def _at(price: Price, usage: Mapping[str, Any]) -> float:
    tokens = _tokens(usage)
    return price.cost(tokens["input"], tokens["output"], tokens["cached"])


def _list_price(model: str, result: CallResult) -> float | None:
    """The list price of one call: DSPy's figure, where it put one on the call."""
    if result.cost is not None:
        return float(result.cost)
    price = price_of(model)
    return None if price is None else _at(price, result.usage)


def call_cost(model: str, result: CallResult, prices: Prices) -> float | None:
    """US dollars for one answered call: at the user's price, else at list price; None where nobody knows one.

    Args:
        model: The LM's name.
        result: Its answer.
        prices: The session's.
    """
    if not result.usage:
        return 0.0
    own = prices.own(model)
    return _list_price(model, result) if own is None else _at(own, result.usage)


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
        return record.model_copy(update={"usage": priced(record.usage, prices), "judge": priced(record.judge, prices)})
    examples = tuple(_repriced(example, prices) for example in record.examples)
    fields = {name: getattr(record, name) for name in type(record).model_fields}  # without what was summed up before
    return StageResult(**{**fields, "examples": examples})


def _repriced(example: ExampleResult, prices: Prices) -> ExampleResult:
    update: dict[str, Any] = {"usage": priced(example.usage, prices)}
    if example.judge is not None:
        update["judge"] = priced(example.judge, prices)
    if example.repeats:
        update["repeats"] = tuple(_repriced(repeat, prices) for repeat in example.repeats)
    return example.model_copy(update=update)


@contextlib.contextmanager
def measure(**settings: Any) -> Iterator[Meter]:
    """Count the LM calls made inside the block. Blocks may be nested; an inner block's calls count in the outer too.

    Args:
        **settings: DSPy's, for the block.
    """
    meter = Meter()
    with passing(settings, meters=(*current_path().meters, meter)):
        yield meter
