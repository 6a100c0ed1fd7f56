"""Compiling a stage: what an optimizer is given, and what it says when that is not possible."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import dspy
import pytest
from dspy.teleprompt.teleprompt import Teleprompter

from pytest_dspy_ft import Dataset, Ladder, Stage
from pytest_dspy_ft.errors import BuildError
from tests.ladder.helpers import STORE, instructions, predict, right, scripted, writes
from tests.parity import make_experiment
from tests.scripted import experiment, numbers


def test_a_callable_is_an_optimizer() -> None:
    seen: list[Any] = []
    stages = [Stage("taught", writes("TAUGHT")), Stage("made", writes("MADE", seen=seen), teacher="taught")]
    ladder = Ladder(experiment(predict(), scripted(), stages), STORE)
    assert instructions(ladder.build("made").program) == "MADE"
    [(student, trainset, teacher)] = seen
    assert student.lm is None, "dspy.settings.lm is the stage's, as where DSPy is configured with it"
    assert [e.text for e in trainset] == [str(n) for n in range(32)]
    assert instructions(teacher) == "TAUGHT"


def test_without_a_teacher_a_callable_gets_none() -> None:
    seen: list[Any] = []
    Ladder(experiment(predict(), scripted(), [Stage("made", writes("MADE", seen=seen))]), STORE).build("made")
    assert seen[0][2] is None


def test_an_exception_in_a_teleprompter_names_stage_and_optimizer() -> None:
    class Broken(Teleprompter):
        def compile(self, student: Any, *, trainset: Any, teacher: Any = None) -> Any:
            raise RuntimeError("broke down")

    ladder = Ladder(experiment(predict(), scripted(), [Stage("broken", Broken())]), STORE)
    with pytest.raises(BuildError, match=r"stage 'broken': Broken failed at .*: RuntimeError: broke down"):
        ladder.build("broken")


def test_arguments_that_an_optimizer_does_not_take() -> None:
    class Plain(Teleprompter):
        def compile(self, student: Any, *, trainset: Any) -> Any:
            return student

    stages = [Stage("taught", Plain(), teacher="baseline"), Stage("argued", Plain(), compile_args={"valset": []})]
    ladder = Ladder(experiment(predict(), scripted(), stages), STORE)
    with pytest.raises(BuildError, match="takes no teacher"):
        ladder.build("taught")
    with pytest.raises(BuildError, match=r"takes no 'valset'.*; it takes trainset"):
        ladder.build("argued")


def test_an_lm_that_cannot_be_trained_is_found_before_any_call() -> None:
    lm = scripted()
    lm.provider.finetunable = False
    ladder = Ladder(experiment(predict(), lm, [Stage("tuned", dspy.BootstrapFinetune(metric=right))]), STORE)
    with pytest.raises(BuildError, match=r"'toy/scripted' cannot be fine-tuned"):
        ladder.build("tuned")
    assert lm.engine.requests == []


def test_a_failed_training_names_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_TRAINING", "fails")
    with pytest.raises(BuildError, match=r"stage 'finetuned': training failed.*out of luck"):
        Ladder(make_experiment(), STORE).build("finetuned")


class Money(Decimal):
    """A number of the user's own class, which is made of more than its attributes."""


def test_examples_that_no_demo_could_keep_are_found_before_any_call() -> None:
    lm = scripted()
    rows = [dspy.Example(text="1", label="odd", price=Money("1.10")).with_inputs("text")]
    stages = [Stage("few", dspy.BootstrapFewShot(metric=right))]
    ladder = Ladder(experiment(predict(), lm, stages, dataset=Dataset(train=rows, dev=numbers(1))), STORE)
    with pytest.raises(BuildError, match=r"stage 'few': field 'price' of train example 0 could not be kept in a demo"):
        ladder.build("few")
    assert lm.engine.requests == []
