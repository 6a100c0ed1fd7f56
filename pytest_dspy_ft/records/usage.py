"""What some work cost at the LM."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest_dspy_ft.records.base import Record


def lowest(one: int | None, other: int | None) -> int | None:
    """The lower of two limits, either of which may not be known."""
    return min((limit for limit in (one, other) if limit is not None), default=None)


class ModelUsage(Record):
    """One model's share of some work."""

    input_tokens: int = 0
    """All of them, those that the provider still had included."""
    cached_tokens: int = 0
    """Input tokens that the provider still had, and charges less for."""
    output_tokens: int = 0
    unmetered_calls: int = 0
    """Calls whose reply did not say how many tokens they took: the tokens above are those of the others."""
    listed: float | None = 0.0
    """US dollars at list prices; None where there is none, or where the tokens of a call are not known."""

    def __add__(self, other: ModelUsage) -> ModelUsage:
        listed = None if self.listed is None or other.listed is None else self.listed + other.listed
        return ModelUsage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            unmetered_calls=self.unmetered_calls + other.unmetered_calls,
            listed=listed,
        )


class Usage(Record):
    """LM calls, tokens and costs of some work, counted where the calls are made."""

    lm_calls: int = 0
    """Calls that the LM answered, readable or not; answers from a response cache included."""
    cached_calls: int = 0
    """Those of ``lm_calls`` that a response cache answered: they used no tokens."""
    replayed_calls: int = 0
    """Those of ``lm_calls`` that a recording answered: their tokens, cost and seconds are those of the recording."""
    unmetered_calls: int = 0
    """Those of ``lm_calls`` whose reply did not say how many tokens they took: the tokens below are those of the rest,
    and a cost is not known unless the model is free."""
    cut_off: int = 0
    """Answers that a limit on their tokens cut off."""
    cut_off_at: int | None = None
    """The lowest limit that cut one off, in tokens; None where the call set none, so that it is the provider's own."""
    fallback_calls: int = 0
    """Those of ``lm_calls`` that the JSON adapter made since the adapter could not read the reply before."""
    constrained_calls: int = 0
    """Those of ``lm_calls`` whose reply was to be in a given format (``response_format``): by the embedded LM it is."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0
    """US dollars; None where a price is not known, or what a call used."""
    seconds: float = 0.0
    """How long the calls took, summed: for an example, the call of the program (concurrent calls overlap)."""
    models: dict[str, ModelUsage] = {}
    """By model, as DSPy names it: what a cost is made of, so that other prices can be put on it later."""

    @classmethod
    def total(cls, usages: Iterable[Usage]) -> Usage:
        """The sum of many; at once, as one after the other would make a record for each."""
        counts, models, limits = dict.fromkeys(_COUNTED, 0), dict[str, dict[str, Any]](), set[int]()
        cost: float | None = 0.0
        seconds = 0.0
        for usage in usages:
            state = usage.__dict__
            for name in _COUNTED:
                counts[name] += state[name]
            cost = None if cost is None or usage.cost is None else cost + usage.cost
            seconds += usage.seconds
            if usage.cut_off_at is not None:
                limits.add(usage.cut_off_at)
            for model, share in usage.models.items():
                known = models.setdefault(model, dict(_NOTHING))
                for name in _COUNTED_BY_MODEL:
                    known[name] += getattr(share, name)
                unknown = known["listed"] is None or share.listed is None
                known["listed"] = None if unknown else known["listed"] + share.listed
        by_model = {name: ModelUsage(**share) for name, share in models.items()}
        return Usage(**counts, cut_off_at=min(limits, default=None), cost=cost, seconds=seconds, models=by_model)

    @property
    def at_list_prices(self) -> bool:
        """True where its cost is that of its models at list prices, so that no user's own price is in it."""
        total: float | None = 0.0
        for model in self.models.values():
            total = None if total is None or model.listed is None else total + model.listed
        return not self.models or total == self.cost

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        return Usage(
            lm_calls=self.lm_calls + other.lm_calls,
            cached_calls=self.cached_calls + other.cached_calls,
            replayed_calls=self.replayed_calls + other.replayed_calls,
            unmetered_calls=self.unmetered_calls + other.unmetered_calls,
            cut_off=self.cut_off + other.cut_off,
            cut_off_at=lowest(self.cut_off_at, other.cut_off_at),
            fallback_calls=self.fallback_calls + other.fallback_calls,
            constrained_calls=self.constrained_calls + other.constrained_calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=cost,
            seconds=self.seconds + other.seconds,
            models={
                name: self.models.get(name, ModelUsage()) + other.models.get(name, ModelUsage())
                for name in self.models | other.models
            },
        )


_NOTHING = ModelUsage().model_dump()
_COUNTED = tuple(name for name, field in Usage.model_fields.items() if field.annotation is int)
_COUNTED_BY_MODEL = tuple(name for name, field in ModelUsage.model_fields.items() if field.annotation is int)
