"""Traces: how good they must be, what happens when things fail, and labels as the teacher."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, LabeledFinetune, Stage
from pytest_dspy_ft.experiment.stage import DEFAULT_MIN_TRACES
from tests.finetune.programs import (
    TRAIN,
    TwoSteps,
    build,
    one_step_rule,
    parity,
    refuse,
    right,
    tune,
    two_step_rule,
)
from tests.scripted import answer, last_user, numbers, reply, scripted_lm

# --- how good -------------------------------------------------------------------------------------------------------


def graded(example: Any, prediction: Any, trace: Any = None) -> float:
    """0.05 for multiples of three, 0 for other odd numbers, else 0.5 or 1."""
    n = int(example.text)
    return 0.05 if n % 3 == 0 else 0.0 if n % 2 else 0.5 if n % 4 else 1.0


def kept_numbers(accept: float | None) -> set[int]:
    scores = {n: graded(dspy.Example(text=str(n)), None) for n in range(TRAIN)}
    return {n for n, score in scores.items() if (score > 0 if accept is None else score >= accept)}


@pytest.mark.parametrize("accept", [None, 0.05, 0.5])
def test_accept_is_what_a_trace_must_reach(accept: float | None) -> None:
    record, [(_, rows, _)] = build(
        dspy.Predict("text -> label"), scripted_lm(one_step_rule), Stage("tuned", tune(graded), accept=accept)
    )
    wanted = kept_numbers(accept)
    assert {int(last_user(row)["text"]) for row in rows} == wanted
    assert (record.kept, record.rejected) == (len(wanted), TRAIN - len(wanted))
    assert record.rate == len(wanted) / TRAIN
    assert record.accept == accept


def test_accept_separates_these_cases() -> None:
    assert {3, 9} <= kept_numbers(None) - kept_numbers(0.5), "0.05 passes only without accept"


def test_a_prediction_with_score_0_is_not_kept() -> None:
    def judged(example: Any, prediction: Any, trace: Any = None) -> Any:
        return dspy.Prediction(score=float(int(example.text) >= 16), feedback="well")

    record, [(_, rows, _)] = build(
        dspy.Predict("text -> label"), scripted_lm(one_step_rule), Stage("tuned", tune(judged))
    )
    assert {int(last_user(row)["text"]) for row in rows} == set(range(16, TRAIN))
    assert (record.kept, record.rejected) == (16, 16)


def test_without_a_metric_every_answer_is_kept() -> None:
    record, _ = build(dspy.Predict("text -> label"), scripted_lm(one_step_rule), Stage("tuned", tune(None)))
    assert record.kept == TRAIN


def test_the_optimizers_metric_sees_the_trace() -> None:
    seen: list[int] = []

    def by_trace(example: Any, prediction: Any, trace: Any = None) -> bool:
        seen.append(len(trace))
        return trace is not None and trace[0][2].word == f"w{example.text}"

    record, _ = build(TwoSteps(), scripted_lm(two_step_rule), Stage("tuned", tune(by_trace)))
    assert record.kept == TRAIN
    assert set(seen) == {2}


# --- what fails -----------------------------------------------------------------------------------------------------


def failing_rule(fields: Any, request: Any) -> str:
    n = int(fields["text"])
    if n in (1, 2, 3):
        return "I have no idea"
    if n in (4, 5):
        raise RuntimeError("the engine is down")
    if n in (6, 7, 8, 9):
        return reply(label="wrong")
    return one_step_rule(fields, request)


def fussy(example: Any, prediction: Any, trace: Any = None) -> float:
    if example.text == "10":
        raise ZeroDivisionError("metric broke")
    if example.text == "11":
        return float("nan")
    return right(example, prediction)


def test_failures_are_counted_and_do_not_end_the_collection() -> None:
    record, [(_, rows, _)] = build(
        dspy.Predict("text -> label"), scripted_lm(failing_rule), Stage("tuned", tune(fussy))
    )
    assert record.unparsed == 3
    assert record.raised == 2 + 2, "engine and metric"
    assert record.rejected == 4
    assert record.kept == TRAIN - 11
    assert record.attempted == TRAIN
    assert {int(last_user(row)["text"]) for row in rows} == {0, *range(12, TRAIN)}
    assert any("the engine is down" in failure for failure in record.failures)
    assert any("metric broke" in failure for failure in record.failures)


def test_an_exception_in_the_program_is_counted() -> None:
    class Picky(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("text -> label")

        def forward(self, text: str) -> Any:
            prediction = self.predict(text=text)
            if text == "7":
                raise KeyError("seven")
            return prediction

    record, [(_, rows, _)] = build(Picky(), scripted_lm(one_step_rule), Stage("tuned", tune()))
    assert (record.raised, record.unparsed, record.kept) == (1, 0, TRAIN - 1)
    assert "7" not in {last_user(row)["text"] for row in rows}


@pytest.mark.parametrize(
    ("rule", "metric", "words"),
    [
        (lambda f, r: "no idea", right, ["32 could not be read", "keeps the format"]),
        (lambda f, r: reply(label="wrong"), right, ["32 answered below the bar", "a stronger teacher"]),
        (lambda f, r: 1 / 0, right, ["32 raised", "mend what raised", "division by zero"]),
        (one_step_rule, lambda e, p, t=None: int(e.text) < DEFAULT_MIN_TRACES - 1, ["9 of 32", "at least 10"]),
    ],
)
def test_too_few_traces_are_not_trained_on(rule: Any, metric: Any, words: list[str]) -> None:
    message = refuse(dspy.Predict("text -> label"), scripted_lm(rule), Stage("tuned", tune(metric)))
    assert "stage 'tuned'" in message
    assert "nothing was trained" in message
    for word in words:
        assert word in message


def test_exactly_the_minimum_is_trained_on() -> None:
    record, [(_, rows, _)] = build(
        dspy.Predict("text -> label"),
        scripted_lm(one_step_rule),
        Stage("tuned", tune(lambda e, p, t=None: int(e.text) < DEFAULT_MIN_TRACES)),
    )
    assert record.kept == len(rows) == DEFAULT_MIN_TRACES


def test_too_few_train_examples_says_so() -> None:
    message = refuse(
        dspy.Predict("text -> label"), scripted_lm(lambda f, r: reply(label="x")), Stage("tuned", tune()), count=20
    )
    assert "more train examples. There are only 16" in message


# --- labels as the teacher ------------------------------------------------------------------------------------------


def test_labels_teach_without_a_call() -> None:
    lm = scripted_lm(lambda f, r: reply(label="always wrong"))
    record, [(_, rows, _)] = build(dspy.Predict("text -> label"), lm, Stage("tuned", LabeledFinetune(metric=right)))
    assert lm.engine.requests == []
    assert record.teacher == "labels"
    assert {last_user(row)["text"]: answer(row)["label"] for row in rows} == {
        str(n): parity(str(n)) for n in range(TRAIN)
    }


def test_labels_of_several_predictors() -> None:
    dataset = Dataset.from_examples(numbers(40, word=lambda n: f"w{n}"))
    lm = scripted_lm(two_step_rule)
    record, [(_, rows, _)] = build(TwoSteps(), lm, Stage("tuned", LabeledFinetune(metric=right)), dataset=dataset)
    assert record.rows == {"spell": TRAIN, "judge": TRAIN}
    assert all(answer(row).keys() <= {"word", "label", "completed"} for row in rows)


def test_a_field_that_no_example_has_is_named() -> None:
    message = refuse(
        dspy.ChainOfThought("text -> label"), scripted_lm(one_step_rule), Stage("tuned", LabeledFinetune(metric=right))
    )
    assert "reasoning" in message
    assert "no train example" in message


def test_a_stage_with_its_own_examples_is_checked_on_those() -> None:
    program, lm = dspy.ChainOfThought("text -> label"), scripted_lm(one_step_rule)
    own = [example.copy(reasoning="so") for example in numbers(12)]
    tuned = Stage("tuned", LabeledFinetune(metric=right), compile_args={"trainset": own})
    record, [(_, rows, _)] = build(program, lm, tuned)
    assert record.kept == len(rows) == len(own)
    assert {answer(row)["reasoning"] for row in rows} == {"so"}

    rows = [example.copy(reasoning="so") for example in numbers(40)]
    bare = Stage("tuned", LabeledFinetune(metric=right), compile_args={"trainset": numbers(12)})
    message = refuse(program, scripted_lm(one_step_rule), bare, dataset=Dataset.from_examples(rows))
    assert "no train example has reasoning" in message


def test_a_single_example_without_the_field_is_a_failure_of_its_own() -> None:
    rows = numbers(40)
    rows[5] = dspy.Example(text="5").with_inputs("text")
    record, _ = build(
        dspy.Predict("text -> label"),
        scripted_lm(one_step_rule),
        Stage("tuned", LabeledFinetune(metric=None)),
        dataset=Dataset.from_examples(rows),
    )
    assert (record.kept, record.raised) == (TRAIN - 1, 1)
    assert any("label" in failure for failure in record.failures)


def test_labeled_finetune_does_not_run_outside_a_stage() -> None:
    with pytest.raises(TypeError, match="Stage"):
        LabeledFinetune(metric=right).compile(dspy.Predict("text -> label"), trainset=numbers(3))
