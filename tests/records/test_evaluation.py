"""Records: results are paired example by example, exact copies among them."""

from __future__ import annotations

from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult, flips, paired_scores


def result(stage: str, *examples: tuple[str, float]) -> StageResult:
    found = tuple(ExampleResult(id=identity, score=score) for identity, score in examples)
    return StageResult(experiment="e", stage=stage, on="dev", lm="l", key="k", examples=found)


def test_copies_of_one_example_are_paired_in_order() -> None:
    before = result("a", ("x", 0.0), ("x", 1.0), ("y", 0.5))
    after = result("b", ("x", 1.0), ("y", 0.25), ("x", 1.0))
    assert flips(before, after) == (["x"], ["y"])
    assert paired_scores(before, after) == ([0.0, 0.5, 1.0], [1.0, 0.25, 1.0])


def test_examples_that_only_one_result_holds_are_left_out() -> None:
    before = result("a", ("x", 0.0), ("z", 1.0))
    after = result("b", ("x", 1.0), ("x", 1.0), ("y", 0.0))
    assert flips(before, after) == (["x"], [])
    assert paired_scores(before, after) == ([0.0], [1.0])
