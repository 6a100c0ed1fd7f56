"""Calls, tokens and cost, counted call by call.

DSPy's own tracking loses the usage of threads, and knows no price for custom engines. A :func:`measure` block sees
every call made inside it, in whatever thread DSPy runs it. :mod:`prices` says whose word on
a price counts; the tokens are kept by model, so that a cost read from the store is one at today's ``dspy_prices``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import operator
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import dspy

from pytest_dspy_ft.insides.adapters import is_json_fallback
from pytest_dspy_ft.insides.lm_calls import Asked, CallResult
from pytest_dspy_ft.lms.calls import current_path, passing
from pytest_dspy_ft.lms.failures import failure_status, judge_failure
from pytest_dspy_ft.lms.prices import Price, Prices, price_of
from pytest_dspy_ft.lms.replies import replies_of
from pytest_dspy_ft.lms.withheld import count_cut_off
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.records.evaluation import ExampleResult, MetricScore, StageResult
from pytest_dspy_ft.records.output import Reply
from pytest_dspy_ft.records.usage import ModelUsage, Usage, lowest

R = TypeVar("R", StageResult, BuildRecord)

SETTING = "dspy_ft_prices"

CHARACTERS_PER_TOKEN = 3.0
"""For a bound from above: English text has about four."""


class Meter:
    """Counts the LM calls of one piece of work, in whatever threads they are made.

    Args:
        keeps: Have it keep the answers too, as they came.

    Attributes:
        replies: The answers that it kept, in the order in which they came.
    """

    def __init__(self, *, keeps: bool = False) -> None:
        self._keeps = keeps
        self.replies: list[Reply] = []
        self._fallback = self._constrained = 0
        self._lock = threading.Lock()
        self._calls = self._cached = self._replayed = 0
        self._replayed_seconds = 0.0
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._listed: dict[str, float | None] = {}
        self._cut_off = 0
        self._cut_off_at: int | None = None
        self._failures: dict[tuple[str, str], Exception] = {}
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
                    unmetered_calls=tokens[model, "unmetered"],
                    listed=self._listed.get(model, 0.0),
                )
                for model in sorted({*(model for model, _ in tokens), *self._listed})
            }
            return Usage(
                lm_calls=self._calls,
                cached_calls=self._cached,
                replayed_calls=self._replayed,
                unmetered_calls=sum(m.unmetered_calls for m in models.values()),
                cut_off=self._cut_off,
                cut_off_at=self._cut_off_at,
                fallback_calls=self._fallback,
                constrained_calls=self._constrained,
                input_tokens=sum(m.input_tokens for m in models.values()),
                output_tokens=sum(m.output_tokens for m in models.values()),
                seconds=time.perf_counter() - self._started + self._replayed_seconds,
                models=models,
                cost=_cost(models, self._prices),
            )

    @property
    def calls(self) -> int:
        """LM calls answered so far."""
        return self._calls

    @property
    def failure(self) -> Exception | None:
        """A call that failed and that nothing made good, whatever the code that made it did about it; the first.

        What was asked again of the same model and answered is no failure, whoever asked again. An input that was
        refused for what it is (a content filter) may be answered by another model: that is the program's design.
        """
        with self._lock:
            return next(iter(self._failures.values()), None)

    def note_failure(self, model: str, error: Exception, asked: Asked) -> None:
        """Note a failed call, by what it asked."""
        with self._lock:
            self._failures.setdefault((model, asked.text), error)

    def _forget_failure(self, model: str, asked: Asked) -> None:
        text = asked.text
        for key in [key for key in self._failures if key[1] == text]:
            error = self._failures[key]
            # No such model, HTTP 404, is no matter of what was asked.
            if key[0] == model or (judge_failure(error) == "refused" and failure_status(error) != 404):
                del self._failures[key]

    def count(self, model: str, result: CallResult, asked: Asked) -> None:
        """Count one answered call: its tokens, and its list price."""
        cut_off = count_cut_off(result)
        fallback = self._keeps and is_json_fallback()
        replies = replies_of(model, result, asked, fallback=fallback) if self._keeps else ()
        with self._lock:
            self.replies += replies
            self._fallback += fallback
            self._constrained += asked.in_format
            if self._failures:
                self._forget_failure(model, asked)
            self._calls += 1
            if cut_off:
                self._cut_off += cut_off
                self._cut_off_at = lowest(self._cut_off_at, asked.token_limit)
            if result.cost_details.get("replayed"):
                self._replayed += 1
                self._replayed_seconds += result.cost_details.get("seconds", 0.0)
            if result.cache_hit:
                self._cached += 1
                return
            self._charge(model, result)
            if not result.usage:
                self._tokens[model, "unmetered"] += 1

    def count_tokens(self, model: str, usage: Mapping[str, Any]) -> None:
        """Count the tokens of one call that was billed and not answered."""
        if usage:
            with self._lock:
                self._charge(model, CallResult(usage=dict(usage)))

    def _charge(self, model: str, result: CallResult) -> None:
        listed, cost = self._listed.get(model, 0.0), _list_price(model, result)
        self._listed[model] = None if listed is None or cost is None else listed + cost
        for kind, count in _tokens(result.usage).items():
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
    if not result.usage:
        return 0.0 if price is not None and price.free else None
    return None if price is None else _at(price, result.usage)


def call_cost(model: str, result: CallResult, prices: Prices) -> float | None:
    """US dollars for one answered call: at the user's price, else at list price; None where nobody knows one.

    Args:
        model: The LM's name.
        result: Its answer.
        prices: The session's.
    """
    if result.cache_hit:
        return 0.0
    own = prices.own(model)
    return _list_price(model, result) if own is None else _at(own, result.usage)


def estimated(result: CallResult, asked: Asked) -> CallResult:
    """An answer that came without its usage, with tokens counted from its characters: more than they will have been."""
    usage = {
        "prompt_tokens": int(len(asked.text) / CHARACTERS_PER_TOKEN) + 1,
        "completion_tokens": int(len(json.dumps(result.outputs, default=str)) / CHARACTERS_PER_TOKEN) + 1,
    }
    return dataclasses.replace(result, usage=usage, cost=None)


def priced(usage: Usage, prices: Prices) -> Usage:
    """Some usage at the user's prices, at list prices where they have none, at None where nobody knows one."""
    cost = _cost(usage.models, prices) if usage.models else usage.cost
    return usage if cost == usage.cost else usage.model_copy(update={"cost": cost})


def _cost(models: Mapping[str, ModelUsage], prices: Prices) -> float | None:
    total: float | None = 0.0
    for name, model in models.items():
        own = prices.own(name)
        cost = model.listed
        if own is not None:
            unknown = model.unmetered_calls and not own.free
            spent = own.cost(model.input_tokens, model.output_tokens, model.cached_tokens)
            cost = None if unknown else spent
        total = None if total is None or cost is None else total + cost
    return total


def repriced(record: R, prices: Prices) -> R:
    """A record from the store at the prices of now: what was paid for once is not measured again for that."""
    if isinstance(record, BuildRecord):
        return record.model_copy(update={"usage": priced(record.usage, prices), "judge": priced(record.judge, prices)})
    if record.at_list_prices and all(
        prices.own(model) is None for model in {**record.usage.models, **record.judge.models}
    ):
        return record
    given = tuple(record.examples)
    examples = tuple(_repriced(example, prices) for example in given)
    return record if all(map(operator.is_, examples, given)) else record.model_copy(update={"examples": examples})


def _repriced(example: ExampleResult, prices: Prices) -> ExampleResult:
    now: dict[str, Any] = {"usage": priced(example.usage, prices)}
    if example.judge is not None:
        now["judge"] = priced(example.judge, prices)
    if any(said.judge is not None for said in example.further.values()):
        now["further"] = {name: _repriced_score(said, prices) for name, said in example.further.items()}
    if example.repeats:
        repeats = tuple(_repriced(repeat, prices) for repeat in example.repeats)
        now["repeats"] = example.repeats if all(map(operator.is_, repeats, example.repeats)) else repeats
    changed = {name: value for name, value in now.items() if value is not getattr(example, name)}
    return example.model_copy(update=changed) if changed else example


def _repriced_score(said: MetricScore, prices: Prices) -> MetricScore:
    return said if said.judge is None else said.model_copy(update={"judge": priced(said.judge, prices)})


@contextlib.contextmanager
def measure(*, keeps: bool = False, **settings: Any) -> Iterator[Meter]:
    """Count the LM calls made inside the block. Blocks may be nested; an inner block's calls count in the outer too.

    Args:
        keeps: Keep the answers too.
        **settings: DSPy's, for the block.
    """
    meter = Meter(keeps=keeps)
    with passing(settings, meters=(*current_path().meters, meter)):
        yield meter
