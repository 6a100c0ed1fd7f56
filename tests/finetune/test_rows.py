"""Training rows: which predictor, whose prompt, and with which settings they are trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from tests.finetune.programs import (
    TRAIN,
    Copies,
    Loop,
    TwoSteps,
    build,
    one_step_rule,
    parity,
    refuse,
    tune,
    two_step_rule,
)
from tests.scripted import answer, experiment, jobs_of, last_user, scripted_lm, system

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
