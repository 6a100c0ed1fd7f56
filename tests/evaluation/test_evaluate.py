"""A program on a split: one result for each example, in order, whatever happens."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from pytest_dspy_ft import Dataset, Ladder, Stage
from pytest_dspy_ft.evaluation.evaluate import Measurement, evaluate_examples
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.evaluation.score import prediction_json, to_score
from pytest_dspy_ft.experiment.example_id import example_id
from pytest_dspy_ft.progress import SilentProgress
from tests.scripted import CHAT, experiment, numbers, reply, scripted_lm


def rule(fields: Any, request: Any) -> str:
    n = int(fields["text"])
    if n == 3:
        return "unreadable"
    if n == 4:
        raise RuntimeError("the engine is down")
    return reply(label="even" if n % 2 == 0 else "odd")


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def measured(examples: Any, metric: Any = right, program: Any = None, threads: int = 4, **more: Any) -> Any:
    lm = scripted_lm(rule, num_retries=0)
    program = program or dspy.Predict("text -> label")
    for predictor in program.predictors():
        predictor.lm = lm
    runtime = Runtime(lm, CHAT, threads)
    return evaluate_examples(program, Measurement(examples, metric, runtime, SilentProgress(), "t", **more))


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (True, 1.0),
        (False, 0.0),
        (0, 0.0),
        (1, 1.0),
        (0.25, 0.25),
        (np.bool_(True), 1.0),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.int64(1), 1.0),
        (np.array(0.5), 0.5),
        (dspy.Prediction(score=0.5, feedback="fine"), 0.5),
        (dspy.Prediction(score=True), 1.0),
        (dspy.Prediction(score=np.float64(0.5)), 0.5),
        (dspy.Example(score=0), 0.0),
    ],
)
def test_what_counts_as_a_score(value: Any, score: float) -> None:
    assert to_score(value) == score
    assert type(to_score(value)) is float


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (float("nan"), ValueError, "nan"),
        (np.float64("nan"), ValueError, "nan"),
        (float("inf"), ValueError, "outside"),
        (1.5, ValueError, r"1\.5.*outside \[0, 1\]"),
        (1.00001, ValueError, "outside"),
        (-0.1, ValueError, "outside"),
        (88, ValueError, "outside"),
        (dspy.Prediction(score=1.5), ValueError, "outside"),
        (None, TypeError, "None"),
        ("1.0", TypeError, "'1.0'"),
        ([1.0], TypeError, r"\[1\.0\]"),
        (dspy.Prediction(feedback="no score"), TypeError, "without a field 'score'"),
        (dspy.Prediction(score=None), TypeError, "None"),
    ],
)
def test_what_is_no_score(value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        to_score(value)


def test_an_array_of_several_scores_is_no_score() -> None:
    with pytest.raises((ValueError, TypeError)):
        to_score(np.array([0.5, 0.6]))


def test_every_example_has_its_outcome() -> None:
    examples = numbers(8)

    def metric(example: Any, prediction: Any, trace: Any = None) -> Any:
        return {"5": float("nan"), "6": 2.0, "7": None}.get(example.text, right(example, prediction))

    results = measured(examples, metric)
    assert [r.id for r in results] == [example_id(e) for e in examples]
    assert [r.outcome for r in results] == ["scored"] * 3 + ["unparsed"] + ["error"] * 4
    assert [r.score for r in results] == [1.0] * 3 + [0.0] * 5
    assert "the engine is down" in results[4].error
    assert all(r.error.startswith("metric: ") and r.prediction for r in results[5:])
    assert [r.prediction for r in results[:3]] == [{"label": label} for label in ("even", "odd", "even")]
    assert results[3].usage.lm_calls == 1
    assert results[3].usage.input_tokens == 100


def test_a_metric_that_raises_is_an_error_of_its_example_alone() -> None:
    def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
        if example.text == "1":
            raise AttributeError("no field 'answer'")
        return True

    results = measured(numbers(3), metric)
    assert [r.outcome for r in results] == ["scored", "error", "scored"]
    assert results[1].error == "metric: AttributeError: no field 'answer'"


def test_order_does_not_depend_on_who_is_first() -> None:
    """The first example answers only after the last one did."""
    last = threading.Event()

    class Slow(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("text -> label")

        def forward(self, text: str) -> Any:
            if text == "0":
                assert last.wait(20)
            if text == "2":
                last.set()
            return dspy.Prediction(label=text)

    results = measured(numbers(3), lambda e, p, trace=None: p.label == e.text, Slow())
    assert [r.prediction["label"] for r in results] == ["0", "1", "2"]
    assert [r.score for r in results] == [1.0] * 3


def test_many_failures_do_not_end_an_evaluation() -> None:
    class Broken(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("text -> label")

        def forward(self, text: str) -> Any:
            raise ValueError(text)

    results = measured(numbers(50), program=Broken())
    assert [r.error for r in results] == [f"ValueError: {n}" for n in range(50)]


def test_what_is_done_is_not_done_again() -> None:
    examples = numbers(3)
    first = measured(examples)
    kept = {first[1].id: first[1].model_copy(update={"score": 0.5})}
    recorded: list[Any] = []
    results = measured(examples, done=kept, record=recorded.append)
    assert [r.score for r in results] == [1.0, 0.5, 1.0]
    assert sorted(r.id for r in recorded) == sorted([first[0].id, first[2].id])


def test_duplicates_each_count() -> None:
    again = [dspy.Example(text="0", label="even").with_inputs("text") for _ in range(2)]
    results = measured([*numbers(2), *again])
    assert len(results) == 4
    assert results[0].id == results[2].id == results[3].id
    assert [r.score for r in results] == [1.0] * 4


def test_duplicates_keep_their_own_results() -> None:
    """Two equal examples that were measured differently do not both get the later measurement."""
    lock, seen = threading.Lock(), []

    def moody(example: Any, prediction: Any, trace: Any = None) -> bool:
        with lock:
            seen.append(example.text)
            return len(seen) == 1

    examples = [dspy.Example(text="0", label="even").with_inputs("text") for _ in range(2)]
    results = measured(examples, moody, threads=1)
    assert sorted(r.score for r in results) == [0.0, 1.0]


def test_a_metric_that_alters_its_example_alters_no_id() -> None:
    def rude(example: Any, prediction: Any, trace: Any = None) -> bool:
        example.label = "altered"
        return True

    examples = numbers(3)
    ids = [example_id(e) for e in examples]
    assert [r.id for r in measured(examples, rude)] == ids


def test_a_metric_that_alters_its_example_leaves_the_next_stage_alone() -> None:
    def rude(example: Any, prediction: Any, trace: Any = None) -> bool:
        fine = bool(prediction.label == example.label)
        example.label = "altered"
        return fine

    lm = scripted_lm(lambda f, r: reply(label="even" if int(f["text"]) % 2 == 0 else "odd"))
    ladder = Ladder(experiment(dspy.Predict("text -> label"), lm, [Stage("same")], metric=rude), Path("store"))
    one, two = ladder.evaluate("baseline"), ladder.evaluate("same")
    assert [e.id for e in one.examples] == [e.id for e in two.examples], "or nothing can be compared by example"
    assert one.score == two.score == 1.0


def test_the_result_adds_up() -> None:
    rows = numbers(30)
    dataset = Dataset(train=rows[20:], dev=rows[:8], test=rows[8:20])
    lm = scripted_lm(rule, num_retries=0)
    ladder = Ladder(experiment(dspy.Predict("text -> label"), lm, dataset=dataset), Path("store"), num_threads=2)
    result = ladder.evaluate("baseline")
    assert (result.n, result.unparsed, result.errors) == (8, 1, 1)
    assert result.score == 6 / 8
    assert result.usage.lm_calls == 7, "the failed call was not answered"
    assert result.lm == "toy/scripted"
    assert json.loads(result.model_dump_json())["examples"][3]["outcome"] == "unparsed"


def test_predictions_become_json() -> None:
    import datetime
    import enum

    import pydantic

    class Model(pydantic.BaseModel):
        x: int

    class Color(enum.Enum):
        RED = 1

    prediction = dspy.Prediction(
        a=Model(x=1), b=[Model(x=2)], c={1: {2, 1}}, d=np.float64(0.5), e=float("nan"), f=datetime.date(2026, 1, 2),
        g=Color.RED, h=object, i=None, j=(True, "ü"),
    )  # fmt: skip
    value = prediction_json(prediction)
    text = json.dumps(value, allow_nan=False)
    assert json.loads(text) == value
    assert value["a"] == {"x": 1}
    assert value["b"] == [{"x": 2}]
    assert value["c"] == {"1": [1, 2]}
    assert value["d"] == 0.5
    assert value["f"] == "2026-01-02"
    assert value["j"] == [True, "ü"]


def test_a_prediction_with_an_array_does_not_spoil_its_example() -> None:
    """A field with several numbers is no reason to lose the whole evaluation."""
    assert json.dumps(prediction_json(dspy.Prediction(vector=np.array([0.5, 0.25])))) is not None
