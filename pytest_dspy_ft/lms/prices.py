"""Prices of tokens, in US dollars for a million tokens.

Who wins, first to last:

1. a line of the ini file's ``dspy_prices``;
2. for a call that was made, the figure DSPy put on it, from litellm's price map: it knows cached tokens, service
   tiers and long contexts of the provider's own bill;
3. the price map inside the installed litellm: thousands of models, kept up with every release. It is read as a file,
   offline, without importing litellm;
4. the table below, for what that map does not hold: training prices, fine-tuned models by the name they really have
   (``ft:BASE:ORGANIZATION:NAME:ID``), dated names that are newer than it, and a DSPy without litellm.

A scripted LM says itself what it costs.

A model on this machine costs 0 unless a line of ``dspy_prices`` says what its machine does. A price nobody knows is
None, never 0. List prices change: the table is a default with a date (:data:`AS_OF`), there to be overridden.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pytest_dspy_ft.constants import MODEL_PREFIX
from pytest_dspy_ft.errors import PriceError

AS_OF = "2026-11-24"
"""When the table below was written, from litellm 1.106.2. A default to override, not a promise."""

MILLION = 1_000_000
FORM = "MODEL = INPUT OUTPUT [cached=PRICE] [training=PRICE], in US dollars for a million tokens"


@dataclass(frozen=True)
class Price:
    """Prices of one model, in US dollars for a million tokens."""

    input: float
    output: float
    cached: float | None = None
    """Input tokens that the provider still had; None: as other input."""
    training: float | None = None
    """Tokens of a fine-tuning, times epochs; None where it is not known or not on offer."""
    source: str = ""
    """Who says so, and when."""

    def cost(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float:
        """US dollars for so many tokens.

        Args:
            input_tokens: All input tokens, the cached ones included.
            output_tokens: Output tokens.
            cached_tokens: How many of the input tokens are charged as cached.
        """
        cached = self.input if self.cached is None else self.cached
        fresh = (input_tokens - cached_tokens) * self.input
        return (fresh + cached_tokens * cached + output_tokens * self.output) / MILLION

    @property
    def free(self) -> bool:
        """True where a call costs nothing, however long it is."""
        return not self.input and not self.output and not self.cached

    def training_cost(self, tokens: int) -> float | None:
        """US dollars for training on so many tokens, each epoch counted; None where that price is not known."""
        return None if self.training is None else tokens * self.training / MILLION


# Input, output, cached input, training. By the name without its provider; a date at its end is looked up as written
# first, then without it. Training prices are in no price map: those here are OpenAI's published ones; other models'
# are None rather than guessed.
_TABLE: dict[str, tuple[float, float, float | None, float | None]] = {
    "gpt-4o": (2.50, 10.00, 1.25, 25.00),
    "gpt-4o-2024-05-13": (5.00, 15.00, None, None),
    "gpt-4o-mini": (0.15, 0.60, 0.075, 3.00),
    "gpt-4.1": (2.00, 8.00, 0.50, None),
    "gpt-4.1-mini": (0.40, 1.60, 0.10, None),
    "gpt-4.1-nano": (0.10, 0.40, 0.025, None),
    "gpt-5": (1.25, 10.00, 0.125, None),
    "gpt-5-mini": (0.25, 2.00, 0.025, None),
    "gpt-5-nano": (0.05, 0.40, 0.005, None),
    "gpt-5.1": (1.25, 10.00, 0.125, None),
    "gpt-5.4": (2.50, 15.00, 0.25, None),
    "gpt-5.4-mini": (0.75, 4.50, 0.075, None),
    "o4-mini": (1.10, 4.40, 0.275, None),
    "ft:gpt-4o": (3.75, 15.00, 1.875, 25.00),
    "ft:gpt-4o-mini": (0.30, 1.20, 0.15, 3.00),
    "ft:gpt-4.1": (3.00, 12.00, 0.75, None),
    "ft:gpt-4.1-mini": (0.80, 3.20, 0.20, None),
    "ft:gpt-4.1-nano": (0.20, 0.80, 0.05, None),
    "ft:o4-mini": (4.00, 16.00, 1.00, None),
    "claude-haiku-4-5": (1.00, 5.00, 0.10, None),
    "claude-sonnet-4-5": (3.00, 15.00, 0.30, None),
    "claude-opus-4-5": (5.00, 25.00, 0.50, None),
    "gemini-2.5-flash-lite": (0.10, 0.40, 0.01, None),
    "gemini-2.5-flash": (0.30, 2.50, 0.03, None),
    "gemini-2.5-pro": (1.25, 10.00, 0.125, None),
}
_PROVIDERS = {"gpt": "openai", "o4": "openai", "ft:gpt": "openai", "ft:o4": "openai", "claude": "anthropic"}
_FREE = Price(0.0, 0.0, source="runs on this machine")


_declared: dict[str, Price] = {}


def declare_price(model: str, price: Price) -> None:
    """Say what a model costs that is in no list: one that this process made up. The last word on a name counts.

    Args:
        model: Its whole name.
        price: What it costs.
    """
    _declared[model] = price


def price_of(model: str) -> Price | None:
    """The list price of a model, without any ini file's say.

    Args:
        model: As DSPy writes it, ``openai/gpt-4o-mini``; a name without provider, a date at the end and a fine-tuned
            model's ``ft:BASE:ORGANIZATION:NAME:ID`` are understood.

    Returns:
        Its price; zero for a model on this machine; None where nobody knows.
    """
    if model.startswith(MODEL_PREFIX):
        return _FREE
    if model in _declared:
        return _declared[model]
    provider, name = _parts(model)
    listed, own = _from_litellm(provider, name), _from_table(provider, name)
    if listed is None:
        return own
    if own is None or own.training is None:
        return listed
    return Price(listed.input, listed.output, listed.cached, own.training, listed.source)


class Prices:
    """The prices of a session: the user's own where there are any, list prices elsewhere.

    Args:
        own: (pattern, price) in the order of their lines; the first pattern that fits a model's name counts.
    """

    def __init__(self, own: Iterable[tuple[str, Price]] = ()) -> None:
        self._own = tuple(own)

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> Prices:
        """Read the lines of ``dspy_prices``: ``openai/gpt-4o = 2.50 10.00``, ``local:* = 0.02 0.02``.

        Raises:
            PriceError: If a line makes no sense; it holds the line and what would be right.
        """
        own: dict[str, Price] = {}
        for line in lines:
            text = line.split("#")[0].strip()
            if not text:
                continue
            pattern, price = _read(text)
            if pattern in own:
                raise PriceError(f"{text!r}: there is a line for {pattern!r} already; leave one")
            own[pattern] = price
        return cls(own.items())

    def own(self, model: str) -> Price | None:
        """The user's own price for a model; None where they give none."""
        return next((price for pattern, price in self._own if fnmatchcase(model, pattern)), None)

    def of(self, model: str) -> Price | None:
        """The price of a model: the user's own, else :func:`price_of`."""
        return self.own(model) or price_of(model)


def _read(text: str) -> tuple[str, Price]:
    pattern, equals, rest = (part.strip() for part in text.partition("="))
    numbers: list[float] = []
    named: dict[str, float] = {}
    for word in rest.split():
        name, given, value = word.partition("=")
        if given and (name not in ("cached", "training") or name in named):
            raise PriceError(f"{text!r}: {word!r} is not understood; write {FORM}")
        try:
            number = float(value if given else word)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise PriceError(f"{text!r}: {word!r} is not a price; write {FORM}")
        if given:
            named[name] = number
        else:
            numbers.append(number)
    if not pattern or not equals or len(numbers) != 2:
        raise PriceError(f"{text!r} is not a price; write {FORM}")
    return pattern, Price(numbers[0], numbers[1], **named, source="dspy_prices")


def _parts(model: str) -> tuple[str, str]:
    """Provider (or "") and name; of a fine-tuned model, the base's name behind ``ft:``."""
    provider, slash, name = model.partition("/")
    if not slash:
        provider, name = "", model
    if name.startswith("ft:"):
        name = ":".join(name.split(":")[:2])
    return provider, name


def _from_table(provider: str, name: str) -> Price | None:
    undated = re.sub(r"-(\d{4}-\d{2}-\d{2}|\d{8})$", "", name)
    found = next((key for key in (name, undated) if key in _TABLE), None)
    if found is None:
        return None
    maker = next((maker for start, maker in _PROVIDERS.items() if found.startswith(start)), "gemini")
    if provider not in ("", maker):
        return None  # another provider's price for the same model is another price
    input_price, output, cached, training = _TABLE[found]
    return Price(input_price, output, cached, training, f"pytest-dspy-ft's table of {AS_OF}")


def _from_litellm(provider: str, name: str) -> Price | None:
    listed, source = _litellm_map()
    entry = listed.get(f"{provider}/{name}") if provider else listed.get(name)
    if entry is None and provider and (bare := listed.get(name)) and bare.get("litellm_provider") == provider:
        entry = bare
    if entry is None:
        return None
    input_price, output = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if input_price is None or output is None:
        return None
    cached = entry.get("cache_read_input_token_cost")
    return Price(
        _per_million(input_price),
        _per_million(output),
        None if cached is None else _per_million(cached),
        source=source,
    )


def _per_million(price: float) -> float:
    return round(price * MILLION, 9)


@functools.cache
def _litellm_map() -> tuple[dict[str, Any], str]:
    """Litellm's price map and what to call it; an empty one where litellm is not installed."""
    spec = importlib.util.find_spec("litellm")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / "model_prices_and_context_window_backup.json"
        if path.is_file():
            listed = json.loads(path.read_text(encoding="utf-8"))
            return {k: v for k, v in listed.items() if isinstance(v, dict)}, f"litellm {version('litellm')}"
    return {}, ""
