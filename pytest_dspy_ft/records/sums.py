"""What the examples of an evaluation come to together: counts, and what their calls used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pytest_dspy_ft.records.usage import Usage


class Sums(NamedTuple):
    """What the examples of an evaluation come to together."""

    calls: int
    repeats: int
    errors: int
    own_errors: int
    unparsed: int
    cut_off: int
    provider_failed: bool
    usage: Usage
    judge: Usage
    at_list_prices: bool
    """No user's own price is in any cost."""

    @classmethod
    def of(cls, examples: Iterable[Any], provider_failed: Callable[[Any], bool]) -> Sums:
        """The sums of these examples, gone through once.

        Args:
            examples: Each an ``ExampleResult``.
            provider_failed: Tells of a call of the program whether a provider failed something of it.
        """
        calls = repeats = errors = own_errors = unparsed = cut_off = 0
        failed, listed, used, judged = False, True, list[Usage](), list[Usage]()
        for example in examples:
            used.append(example.usage)
            listed = (
                listed and example.usage.at_list_prices and all(one.usage.at_list_prices for one in example.repeats)
            )
            cut_off += example.usage.cut_off
            for usage in (example.judge, *(said.judge for said in example.further.values())):
                if usage is not None:
                    judged.append(usage)
            each = example.each
            calls += len(each)
            repeats = max(repeats, len(each))
            for call in each:
                errors += call.outcome == "error"
                unparsed += call.outcome == "unparsed"
                own_errors += call.fault in ("program", "metric")
                failed = failed or provider_failed(call)
        listed = listed and all(usage.at_list_prices for usage in judged)
        usage, judge = Usage.total(used), Usage.total(judged)
        return cls(calls, repeats, errors, own_errors, unparsed, cut_off, failed, usage, judge, listed)
