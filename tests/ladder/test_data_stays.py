"""Data that measuring and building must not change, whatever programs, metrics and optimizers do to it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Ladder, Stage
from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.evaluation.repeats import samples
from tests.ladder.helpers import STORE, parity_rule
from tests.scripted import answer, experiment, jobs_of, last_user, numbers, reply, scripted_lm


def nested(count: int = 40) -> list[Any]:
    """Examples with what can be changed from inside: a list, a dict with a list, a set."""
    return [
        example.copy(notes=[{"role": "user", "words": [example.text]}], tags={"a", "b"}, extra={"x": [1]}).with_inputs(
            "text", "notes"
        )
        for example in numbers(count)
    ]


class Greedy(dspy.Module):
    """Works on its inputs in place, before and after it asks."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("text, notes: list -> label")

    def forward(self, text: str, notes: list[Any]) -> Any:
        assert notes == [{"role": "user", "words": [text]}], f"somebody was here before: {notes}"
        notes[0]["words"].append("seen")
        answered = self.predict(text=text, notes=notes)
        notes[0]["words"].clear()
        notes.append("done")
        return answered


def spoiling(example: Any, prediction: Any, trace: Any = None) -> bool:
    """Judges, then changes all that it was given."""
    assert example.extra == {"x": [1]}, "somebody was here before"
    right = bool(prediction.label == example.label)
    example.extra["x"].append(2)
    example.tags.clear()
    example.notes[0]["words"] = "spoilt"
    example.label = "spoilt"
    prediction.label = "spoilt"
    for _, inputs, output in trace or ():
        inputs.clear()
        output.label = "spoilt"
    return right


def greedy_ladder(stages: Any = (), *, dataset: Any = None, lm: Any = None, **options: Any) -> Ladder:
    lm = lm or scripted_lm(parity_rule)
    made = experiment(Greedy(), lm, stages, metric=spoiling, dataset=dataset or Dataset.from_examples(nested()))
    return Ladder(made, STORE, **options)


def content(dataset: Any) -> list[Any]:
    return [[e.toDict() for e in dataset.split(split)] for split in ("train", "dev", "test")]


@pytest.mark.parametrize("repeats", [1, 3])
def test_an_evaluation_changes_nothing(repeats: int) -> None:
    mine = nested()
    dataset = Dataset.from_examples(mine)
    before = content(dataset)
    lm = scripted_lm(parity_rule, temperature=1.0)
    ladder = greedy_ladder([Stage("again", lambda p, *, trainset, teacher: p)], dataset=dataset, lm=lm, repeats=repeats)
    assert samples(ladder.build("baseline").program)
    for name in ("baseline", "again"):
        for on in ("dev", "train", "test"):
            result = ladder.evaluate(name, on)  # type: ignore[arg-type]
            assert (result.score, result.errors) == (1.0, 0)
            assert [e.id for e in result.examples] == dataset.ids(on)
    assert content(dataset) == before
    assert [e.toDict() for e in mine] == [e.toDict() for e in nested()], "nor what it was made of"
    assert {str(e.prediction) for e in result.examples} == {"{'label': 'even'}", "{'label': 'odd'}"}


def test_a_call_that_is_made_again_gets_its_example_as_it_was() -> None:
    from dspy.utils.exceptions import LMServerError

    from pytest_dspy_ft.lms.patience import Patience

    asked: list[str] = []

    def once_down(fields: Any, request: Any) -> str:
        asked.append(fields["text"])
        if asked.count(fields["text"]) == 1:
            raise LMServerError("overloaded", status=503)
        return parity_rule(fields, request)

    lm = scripted_lm(once_down, num_retries=0)
    result = greedy_ladder(lm=lm, patience=Patience(sleep=lambda seconds: None)).evaluate("baseline")
    assert (result.score, result.errors) == (1.0, 0)


def test_an_answer_that_a_program_gives_twice_is_judged_as_it_was() -> None:
    class Constant(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("text -> label")
            self.known = {label: dspy.Prediction(label=label) for label in ("even", "odd")}

        def forward(self, text: str, notes: Any) -> Any:
            return self.known["odd" if int(text) % 2 else "even"]

    made = experiment(Constant(), scripted_lm(parity_rule), metric=spoiling, dataset=Dataset.from_examples(nested(100)))
    assert Ladder(made, STORE).evaluate("baseline").score == 1.0


@pytest.mark.parametrize("teacher", [None, "baseline"])
def test_training_rows_are_what_was_asked_and_answered(teacher: str | None) -> None:
    lm = scripted_lm(parity_rule)
    ladder = greedy_ladder([Stage("tuned", dspy.BootstrapFinetune(metric=spoiling), teacher=teacher)], lm=lm)
    ladder.build("tuned")
    [(_, rows, _)] = jobs_of(lm)
    assert len(rows) == 32
    for row in rows:
        text = last_user(row)["text"]
        assert f'"words": ["{text}", "seen"]' in last_user(row)["notes"], "as it was when it was asked"
        assert answer(row)["label"] == ("odd" if int(text) % 2 else "even")
    assert content(ladder.experiment.dataset) == content(Dataset.from_examples(nested()))


def test_labels_that_a_metric_changes_teach_what_they_were() -> None:
    from pytest_dspy_ft import LabeledFinetune

    def gold(example: Any, prediction: Any, trace: Any = None) -> bool:
        prediction.classes.append("spoilt")
        example.classes.clear()
        return True

    rows = [e.copy(classes=[e.label]).with_inputs("text") for e in numbers(40)]
    lm = scripted_lm(parity_rule)
    made = experiment(
        dspy.Predict("text -> classes: list[str]"),
        lm,
        [Stage("tuned", LabeledFinetune(metric=gold))],
        dataset=Dataset.from_examples(rows),
    )
    Ladder(made, STORE).build("tuned")
    [(_, trained, _)] = jobs_of(lm)
    assert {answer(row)["classes"] for row in trained} == {'["even"]', '["odd"]'}


def ruin(examples: Any) -> None:
    for example in examples:
        example.extra["x"].clear()
        example.notes.clear()
        example.label = "ruined"


@pytest.mark.parametrize("shared", [True, False])
def test_what_an_optimizer_does_to_its_data_stays_with_it(shared: bool) -> None:
    dataset = Dataset.from_examples(nested())
    before, dev = content(dataset), dataset.dev

    class Ruins(dspy.teleprompt.Teleprompter):  # type: ignore[misc]
        def __init__(self, examples: Any) -> None:
            self.examples = examples

        def compile(self, student: Any, *, trainset: Any, valset: Any, more: Any = None) -> Any:
            for examples in (trainset, valset, self.examples, (more or {}).get("devset", [])):
                with Path("seen.jsonl").open("a") as log:  # no list: the class refers to it, so it would change the key
                    log.write(json.dumps([dict(e.toDict(), tags=sorted(e.tags)) for e in examples]) + "\n")
                ruin(examples)
            return student

    optimizer = Ruins(dataset.test)
    arguments: dict[str, Any] = {"valset": dev, "more": {"devset": dataset.test}}
    stages = [
        Stage("one", optimizer, compile_args=arguments),
        Stage("two", optimizer if shared else Ruins(dataset.test), start="one", compile_args=arguments),
    ]
    ladder = greedy_ladder(stages, dataset=dataset)
    keys = [ladder.recipe(name).key for name in ("one", "two")]
    for name in ("one", "two"):
        assert ladder.evaluate(name).score == 1.0
    seen = [json.loads(line) for line in Path("seen.jsonl").read_text().splitlines()]
    given = [[dict(row, tags=sorted(row["tags"])) for row in before[split]] for split in (0, 1, 2, 2)]
    assert seen == [*given, *given]
    assert content(dataset) == before
    assert [ladder.recipe(name).key for name in ("one", "two")] == keys
    assert [e.toDict() for e in dev] == before[1]


def test_a_callable_optimizer_gets_examples_of_its_own_each_time() -> None:
    def rude(program: Any, *, trainset: Any, teacher: Any) -> Any:
        assert all(e.label != "ruined" for e in trainset)
        ruin(trainset)
        return program

    ladder = greedy_ladder([Stage("one", rude), Stage("two", rude, start="one")])
    assert ladder.evaluate("two").score == 1.0
    assert content(ladder.experiment.dataset) == content(Dataset.from_examples(nested()))


@pytest.mark.parametrize("optimizer", [dspy.BootstrapFewShot, dspy.BootstrapFewShotWithRandomSearch])
def test_demos_are_what_was_answered_and_not_what_the_metric_made_of_it(optimizer: Any) -> None:
    def better_with_demos(fields: Any, request: Any) -> str:
        right = len(request.messages) > 1 or int(fields["text"]) % 4
        return parity_rule(fields, request) if right else reply(label="neither")

    stage = Stage("shown", optimizer(metric=spoiling, max_bootstrapped_demos=3, max_labeled_demos=0))
    program = greedy_ladder([stage], lm=scripted_lm(better_with_demos), num_threads=1).build("shown").program
    assert {demo["label"] for predictor in program.predictors() for demo in predictor.demos} <= {"even", "odd"}
    assert program.predictors()[0].demos


def test_steps_of_a_combined_optimizer_get_the_train_set_each_as_it_was() -> None:
    def spoils(example: Any, prediction: Any, trace: Any = None) -> bool:
        right = bool(prediction.label == example.label)
        example.label = "spoilt"
        return right

    steps = {
        "p": dspy.BootstrapFewShot(metric=spoils, max_labeled_demos=0, max_bootstrapped_demos=2),
        "w": dspy.BootstrapFinetune(metric=spoils),
    }
    lm = scripted_lm(parity_rule)
    made = experiment(
        dspy.Predict("text -> label"),
        lm,
        [Stage("both", dspy.BetterTogether(metric=spoils, **steps), compile_args={"strategy": "p -> w"})],
        metric=spoils,
    )
    Ladder(made, STORE).build("both")
    [(_, rows, _)] = jobs_of(lm)
    assert len(rows) >= 28, "the metric still finds the labels"


def test_what_a_dataset_hands_out_is_the_takers_own() -> None:
    dataset = Dataset.from_examples(nested())
    before = content(dataset)
    for examples in (dataset.train, dataset.dev, dataset.split("test"), dataset.limited(2).train):
        ruin(examples)
        examples.clear()
    assert content(dataset) == before


def test_parts_that_an_example_shares_are_shared_in_its_copy_too() -> None:
    part = ["x"]
    [example, _] = Dataset(train=[dspy.Example(a=part, b={"a": part}, label="l").with_inputs("a")] * 2).train
    assert example.a is example.b["a"]
    assert example.a is not part
    assert example.inputs().keys() == ["a"]


def test_an_example_that_cannot_be_copied_is_refused_by_its_place_and_field() -> None:
    good, bad = (dspy.Example(text=t, label="l", table=x).with_inputs("text") for t, x in [("1", {}), ("2", {})])
    bad.table = MappingProxyType({"x": 1})
    with pytest.raises(DatasetError, match=r"dev\[1\]: field 'table' cannot be copied .*give data that copy\.deepcopy"):
        Dataset(dev=[good, bad])


def test_an_answer_that_cannot_be_copied_is_judged_all_the_same() -> None:
    class Locked(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("text -> label")

        def forward(self, text: str) -> Any:
            return dspy.Prediction(label=self.predict(text=text).label, lock=threading.Lock(), words=[text])

    def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
        prediction.words.clear()
        return prediction.label == example.label and prediction.lock is not None

    result = Ladder(experiment(Locked(), scripted_lm(parity_rule), metric=metric), STORE).evaluate("baseline")
    assert result.score == 1.0
    assert all(e.prediction is not None and len(e.prediction["words"]) == 1 for e in result.examples)  # type: ignore[arg-type]


def test_nested_examples_and_predictions_in_an_answer_are_copied() -> None:
    from pytest_dspy_ft.experiment.copies import copy_arguments, copy_value

    prediction = dspy.Prediction.from_completions({"label": ["a", "b"]}, signature=dspy.Signature("text -> label"))
    copied = copy_value(prediction)
    copied.label = "c"
    copied.completions.label.append("d")
    assert (prediction.label, prediction.completions.label) == ("a", ["a", "b"])
    predictor = dspy.Predict("text -> label")
    [(same, inputs, output)] = copy_arguments([(predictor, {"texts": (texts := ["x"])}, prediction)])
    assert same is predictor
    assert inputs["texts"] == texts
    assert inputs["texts"] is not texts
    assert output is not prediction
