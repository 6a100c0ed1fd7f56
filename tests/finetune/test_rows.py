"""Training rows: whose answers, whose prompt, which predictor, how good, and what happens when things fail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import LabeledFinetune, Ladder, Stage
from pytest_dspy_ft.errors import BuildError
from pytest_dspy_ft.experiment.stage import DEFAULT_MIN_TRACES
from tests.scripted import answer, experiment, jobs_of, last_user, numbers, reply, scripted_lm, system

TRAIN = 32  # of 40 examples


class Spell(dspy.Signature):
    """SPELL the number."""

    text: str = dspy.InputField()
    word: str = dspy.OutputField()


class Judge(dspy.Signature):
    """JUDGE the word."""

    word: str = dspy.InputField()
    label: str = dspy.OutputField()


class TwoSteps(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spell = dspy.Predict(Spell)
        self.judge = dspy.Predict(Judge)

    def forward(self, text: str) -> Any:
        return self.judge(word=self.spell(text=text).word)


class Loop(dspy.Module):
    """Calls ``spell`` as often as the number has bits, ``judge`` once, in an order that is not that of the names."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = dspy.Predict(Judge)
        self.spell = dspy.Predict(Spell)

    def forward(self, text: str) -> Any:
        for bit in f"{int(text):b}":
            word = self.spell(text=f"{text}/{bit}").word
        return self.judge(word=word)


class Copies(dspy.Module):
    """Runs copies of its predictor, as dspy.BestOfN and dspy.Refine do."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("text -> label")

    def forward(self, text: str) -> Any:
        return self.predict.deepcopy()(text=text)


def parity(text: str) -> str:
    return "even" if int(text) % 2 == 0 else "odd"


def two_step_rule(fields: Any, request: Any) -> str:
    if "text" in fields:
        return reply(word=f"w{fields['text']}")
    return reply(label=parity(fields["word"].removeprefix("w").split("/")[0]))


def one_step_rule(fields: Any, request: Any) -> str:
    return reply(label=parity(fields["text"]))


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def tune(metric: Any = right, **settings: Any) -> Any:
    return dspy.BootstrapFinetune(metric=metric, **settings)


def build(program: Any, lm: Any, *stages: Stage, **changes: Any) -> tuple[Any, list[Any]]:
    """Build the last stage; its bootstrap record and the jobs of the provider."""
    ladder = Ladder(experiment(program, lm, stages, **changes), Path("store"), num_threads=4)
    built = ladder.build(stages[-1].name)
    return built.record.bootstrap, jobs_of(lm)


def refuse(program: Any, lm: Any, *stages: Stage, **changes: Any) -> str:
    """The message with which the last stage is not built, and nothing trained."""
    with pytest.raises(BuildError) as caught:
        build(program, lm, *stages, **changes)
    assert jobs_of(lm) == []
    return str(caught.value)


# --- which predictor ------------------------------------------------------------------------------------------------


def test_rows_of_all_predictors_train_one_model() -> None:
    lm = scripted_lm(two_step_rule)
    record, jobs = build(TwoSteps(), lm, Stage("tuned", tune()))
    assert record.rows == {"spell": TRAIN, "judge": TRAIN}
    [(model, rows, _)] = jobs
    assert model == "toy/scripted"
    assert len(rows) == 2 * TRAIN
    for row in rows:
        given, taught = last_user(row), answer(row)
        if "text" in given:
            assert taught["word"] == f"w{given['text']}"
            assert "SPELL" in system(row)
        else:
            assert taught["label"] == parity(given["word"][1:])
            assert "JUDGE" in system(row)


def test_a_looping_program_gives_a_row_for_each_call() -> None:
    lm = scripted_lm(two_step_rule)
    record, [(_, rows, _)] = build(Loop(), lm, Stage("tuned", tune()))
    bits = sum(len(f"{n:b}") for n in range(TRAIN))
    assert record.rows == {"spell": bits, "judge": TRAIN}
    asked = Counter(last_user(row).get("text", "").partition("/")[0] for row in rows)
    assert all(asked[str(n)] == len(f"{n:b}") for n in range(TRAIN))


@pytest.mark.parametrize("program", [TwoSteps, Loop])
def test_without_multitask_each_predictor_is_trained_on_its_own_rows(program: Any) -> None:
    lm = scripted_lm(two_step_rule)
    record, jobs = build(program(), lm, Stage("tuned", tune(multitask=False)))
    assert len(jobs) == 2
    by_task = {next(iter(answer(rows[0]))): rows for _, rows, _ in jobs}
    assert by_task.keys() == {"word", "label"}
    assert all("word" in answer(row) and "SPELL" in system(row) for row in by_task["word"])
    assert all("label" in answer(row) and "JUDGE" in system(row) for row in by_task["label"])
    assert {"spell": len(by_task["word"]), "judge": len(by_task["label"])} == record.rows


def test_without_multitask_each_predictor_gets_its_own_model() -> None:
    lm = scripted_lm(two_step_rule)
    stages = [Stage("tuned", tune(multitask=False))]
    built = Ladder(experiment(TwoSteps(), lm, stages), Path("store")).build("tuned")
    taught = {f"toy/tuned-{i}": next(iter(answer(rows[0]))) for i, (_, rows, _) in enumerate(jobs_of(lm), 1)}
    models = {name: p.lm.model for name, p in built.program.named_predictors()}
    assert {taught[models["spell"]], taught[models["judge"]]} == {"word", "label"}
    assert taught[models["spell"]] == "word"


def test_a_predictor_that_never_ran_cannot_be_trained_alone() -> None:
    class Shy(TwoSteps):
        def forward(self, text: str) -> Any:
            return dspy.Prediction(label=parity(self.spell(text=text).word[1:]))

    message = refuse(Shy(), scripted_lm(two_step_rule), Stage("tuned", tune(multitask=False)))
    assert "judge" in message
    assert "multitask=True" in message


def test_a_program_that_runs_copies_of_its_predictor_gives_rows() -> None:
    record, [(_, rows, _)] = build(Copies(), scripted_lm(one_step_rule), Stage("tuned", tune()))
    assert record.rows == {"predict": TRAIN}
    assert len(rows) == TRAIN


def test_best_of_n_gives_rows() -> None:
    class Best(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.best = dspy.BestOfN(
                dspy.Predict("text -> label"), N=2, reward_fn=lambda args, pred: 1.0, threshold=1.0
            )

        def forward(self, text: str) -> Any:
            return self.best(text=text)

    record, [(_, rows, _)] = build(Best(), scripted_lm(one_step_rule), Stage("tuned", tune()))
    assert sum(record.rows.values()) == len(rows) == TRAIN


# --- whose prompt ---------------------------------------------------------------------------------------------------


def with_prompt(instructions: str, demos: list[Any]) -> Any:
    """An optimizer that writes instructions and demos."""

    def write(program: Any, *, trainset: Any, teacher: Any) -> Any:
        for predictor in program.predictors():
            predictor.signature = predictor.signature.with_instructions(instructions)
            predictor.demos = [dict(demo) for demo in demos]
        return program

    return write


TEACHING = [dspy.Example(text="900", label="even"), dspy.Example(text="901", label="odd")]
STUDYING = [dspy.Example(text="800", label="even")]


def test_rows_carry_the_students_prompt_not_the_teachers() -> None:
    lm = scripted_lm(one_step_rule)
    stages = (
        Stage("taught", with_prompt("TEACHER SAYS", TEACHING)),
        Stage("student", with_prompt("STUDENT SAYS", STUDYING)),
        Stage("tuned", tune(), start="student", teacher="taught"),
    )
    record, [(_, rows, _)] = build(dspy.Predict("text -> label"), lm, *stages)
    assert record.teacher == "taught"
    assert any("TEACHER SAYS" in str(r.system) for r in lm.engine.requests), "the teacher ran with its own prompt"
    for row in rows:
        assert "STUDENT SAYS" in system(row)
        text = str(row)
        assert "TEACHER SAYS" not in text
        assert "800" in text
        assert "900" not in text


def test_exclude_demos_leaves_them_out_of_rows_and_of_the_tuned_program() -> None:
    lm = scripted_lm(one_step_rule)
    stages = (
        Stage("student", with_prompt("STUDENT SAYS", STUDYING)),
        Stage("tuned", tune(exclude_demos=True), start="student"),
    )
    ladder = Ladder(experiment(dspy.Predict("text -> label"), lm, stages), Path("store"))
    assert ladder.build("tuned").program.demos == []
    assert len(ladder.build("student").program.demos) == 1, "its start keeps its own"
    [(_, rows, _)] = jobs_of(lm)
    assert len(rows) == TRAIN
    assert all(len(row["messages"]) == 3 and "800" not in str(row) for row in rows)


def test_the_tuned_program_runs_with_the_prompt_it_was_trained_on() -> None:
    lm = scripted_lm(one_step_rule)
    stages = (Stage("student", with_prompt("STUDENT SAYS", STUDYING)), Stage("tuned", tune(), start="student"))
    ladder = Ladder(experiment(dspy.Predict("text -> label"), lm, stages), Path("store"))
    ladder.build("tuned")
    [(_, rows, _)] = jobs_of(lm)
    before = len(lm.engine.requests)
    ladder.program("tuned")(text="0")
    [request] = lm.engine.requests[before:]
    [row] = [row for row in rows if last_user(row)["text"] == "0"]
    run = [part.text for message in request.messages for part in message.parts]
    assert run == [message["content"] for message in row["messages"][1:-1]]
    assert request.model == "toy/tuned-1"


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
    from pytest_dspy_ft import Dataset

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


def test_a_single_example_without_the_field_is_a_failure_of_its_own() -> None:
    from pytest_dspy_ft import Dataset

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


# --- settings -------------------------------------------------------------------------------------------------------


def test_train_kwargs_reach_the_provider_and_are_not_changed() -> None:
    settings = {"epochs": 2}
    optimizer = tune(train_kwargs=settings)
    lm = scripted_lm(one_step_rule)
    _, [(_, _, given)] = build(dspy.Predict("text -> label"), lm, Stage("tuned", optimizer))
    assert given["epochs"] == 2
    assert settings == {"epochs": 2}
    assert len(optimizer.train_kwargs) == 0, "asking DSPy's defaultdict for an LM would add it"


def test_train_kwargs_by_lm() -> None:
    lm = scripted_lm(one_step_rule)
    optimizer = tune(train_kwargs={lm: {"epochs": 3}})
    _, [(_, _, given)] = build(dspy.Predict("text -> label"), lm, Stage("tuned", optimizer))
    assert given["epochs"] == 3
    assert optimizer.train_kwargs == {lm: {"epochs": 3}}


def test_tuning_a_tuned_program_again_still_trains_one_model() -> None:
    lm = scripted_lm(two_step_rule)
    build(TwoSteps(), lm, Stage("tuned", tune()), Stage("again", tune(), start="tuned"))
    assert [len(rows) for _, rows, _ in jobs_of(lm)] == [2 * TRAIN, 2 * TRAIN]
