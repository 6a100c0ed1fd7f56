"""Records: results are paired example by example, exact copies among them."""

from __future__ import annotations

from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.pairing import aligned, by_copy, flips, paired_scores


def result(stage: str, *examples: tuple[str, float]) -> StageResult:
    found = tuple(ExampleResult(id=identity, score=score) for identity, score in examples)
    return StageResult(experiment="e", stage=stage, on="dev", lm="l", key="k", examples=found)


def test_copies_of_one_example_are_paired_in_order() -> None:
    before = result("a", ("x", 0.0), ("x", 1.0), ("y", 0.5))
    after = result("b", ("x", 1.0), ("y", 0.25), ("x", 1.0))
    assert flips(before, after) == (["x"], ["y"])
    assert paired_scores(before, after) == ([0.0, 0.5, 1.0], [1.0, 0.25, 1.0], ["x", "y", "x"])


def test_examples_that_only_one_result_holds_are_left_out() -> None:
    before = result("a", ("x", 0.0), ("z", 1.0))
    after = result("b", ("x", 1.0), ("x", 1.0), ("y", 0.0))
    assert flips(before, after) == (["x"], [])
    assert paired_scores(before, after) == ([0.0], [1.0], ["x"])


def test_rows_of_several_results_stand_in_the_order_of_the_first() -> None:
    first = result("a", ("y", 0.0), ("x", 0.25), ("x", 0.5), ("z", 1.0)).examples
    second = result("b", ("x", 1.0), ("y", 0.75), ("x", 0.0)).examples
    assert [[row.score for row in rows] for rows in aligned([first, second])] == [[0.0, 0.75], [0.25, 1.0], [0.5, 0.0]]
    assert list(by_copy(second)) == [("x", 0), ("y", 0), ("x", 1)]
    assert aligned([]) == []
