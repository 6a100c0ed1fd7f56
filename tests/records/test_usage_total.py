"""Usage of many calls at once: the same as one added to the other."""

from __future__ import annotations

import itertools
from functools import reduce

from pytest_dspy_ft.records.usage import ModelUsage, Usage


def usages() -> list[Usage]:
    made = []
    for number, (cost, limit, listed) in enumerate(itertools.product([0.1, 0.7], [None, 16, 256], [0.3, 0.2])):
        models = {f"m{number % 3}": ModelUsage(input_tokens=number, output_tokens=1, listed=listed)}
        made.append(Usage(lm_calls=1, cut_off_at=limit, input_tokens=number, cost=cost, seconds=0.1, models=models))
    return made


def test_a_total_is_the_sum_to_the_last_digit() -> None:
    assert Usage.total(usages()) == reduce(Usage.__add__, usages(), Usage())
    assert Usage.total([]) == Usage()


def test_a_total_leaves_no_count_out() -> None:
    counts = {name: 3 for name, field in Usage.model_fields.items() if field.annotation is int}
    share = ModelUsage(**{name: 2 for name, field in ModelUsage.model_fields.items() if field.annotation is int})
    each = Usage(**counts, seconds=1.5, cost=0.25, models={"m": share})
    assert Usage.total([each, each]) == each + each
    assert "fallback_calls" in counts
    assert all(getattr(Usage.total([each]), name) == 3 for name in counts)


def test_what_one_call_does_not_tell_the_total_does_not_know() -> None:
    unknown = Usage(cost=None, models={"m1": ModelUsage(listed=None)})
    total = Usage.total([*usages(), unknown, *usages()])
    assert total == reduce(Usage.__add__, [*usages(), unknown, *usages()], Usage())
    assert total.cost is None
    assert total.models["m1"].listed is None
