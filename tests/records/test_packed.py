"""Evaluations as the store gives them: packed, and yet the same in all that can be asked of them."""

from __future__ import annotations

import gc
import json

import pytest

from pytest_dspy_ft.records.base import AS_WRITTEN
from pytest_dspy_ft.records.evaluation import ExampleResult, MetricScore, StageResult
from pytest_dspy_ft.records.packed import PackedRows
from pytest_dspy_ft.records.usage import ModelUsage, Usage

FIGURES = [
    "n",
    "score",
    "scores",
    "ids",
    "outcomes",
    "binary",
    "repeats",
    "calls",
    "errors",
    "own_errors",
    "may_improve",
    "unparsed",
    "cut_off",
    "interval",
    "usage",
    "judge",
    "tokens",
    "cost",
    "latency",
    "at_list_prices",
]


def evaluation(n: int = 150) -> StageResult:
    """One with a bit of everything: failures, repeats, a judge, a further metric, letters of two alphabets."""
    paid = Usage(lm_calls=1, input_tokens=9, output_tokens=2, cost=0.5, models={"m": ModelUsage(listed=0.5)})
    plain = [ExampleResult(id=f"x{i}", score=i % 3 / 2, prediction={"label": "да\ud83d"}, usage=paid) for i in range(n)]
    calls = tuple(ExampleResult(id="r", score=i, usage=paid, repeat=i) for i in range(2))
    odd = [
        ExampleResult(id="e", score=0, outcome="error", error="no", fault="provider", usage=Usage(cost=None)),
        ExampleResult(id="u", score=0, outcome="unparsed", judge=paid, further={"f1": MetricScore(score=1.0)}),
        ExampleResult(id="r", score=0.5, usage=paid + paid, repeats=calls),
        ExampleResult(id="p", score=0, outcome="error", error="no", fault="program"),
    ]
    return StageResult(experiment="e", stage="s", on="dev", lm="m", key="k", examples=(*plain, *odd, plain[0]))


def stored(result: StageResult) -> StageResult:
    written = json.loads(result.model_dump_json())
    return StageResult.model_validate(written, context=AS_WRITTEN).packed(written["examples"])


def test_packed_is_the_same_in_all_that_can_be_asked() -> None:
    result = evaluation()
    packed = stored(result)
    assert isinstance(packed.examples, PackedRows)
    assert {name: getattr(packed, name) for name in FIGURES} == {name: getattr(result, name) for name in FIGURES}
    assert packed == result
    assert result == packed
    assert tuple(packed.examples) == result.examples == packed.examples[:]
    assert (packed.examples[-1], packed.examples[64]) == (result.examples[-1], result.examples[64])
    assert packed.examples[3:5] == result.examples[3:5]
    with pytest.raises(IndexError):
        packed.examples[len(result.examples)]
    assert packed.model_dump_json() == result.model_dump_json()
    assert StageResult.model_validate_json(packed.model_dump_json(), context=AS_WRITTEN) == result
    assert packed.part({"e", "u"}).ids == ("e", "u")
    assert packed.examples != result.examples[1:]


def test_packed_examples_are_few_objects() -> None:
    before = len(gc.get_objects())
    packed = stored(evaluation(5000))
    gc.collect()
    assert len(gc.get_objects()) - before < 500  # as records they are more than 20 000
    assert packed.n == 5005


def test_a_copy_with_other_examples_is_summed_up_anew() -> None:
    result = evaluation()
    seen = {name: getattr(result, name) for name in FIGURES}
    better = result.model_copy(update={"examples": (ExampleResult(id="a", score=1.0),)})
    assert (better.score, better.n, better.errors, better.ids, better.usage) == (1.0, 1, 0, ("a",), Usage())
    assert better.interval != result.interval
    assert {name: getattr(result.model_copy(update={"loaded": True}), name) for name in FIGURES} == seen


def test_another_price_is_in_no_list() -> None:
    result = evaluation()
    assert result.at_list_prices
    own = result.examples[0].usage.model_copy(update={"cost": 0.25})
    dearer = result.examples[0].model_copy(update={"usage": own})
    assert not result.model_copy(update={"examples": (dearer, *result.examples[1:])}).at_list_prices
