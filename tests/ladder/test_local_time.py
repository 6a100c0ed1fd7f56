"""The time of local steps in a plan: from what this machine noted, and None where nothing can be known at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Ladder, Stage, resolve_lm
from pytest_dspy_ft.ladder.plan import plan
from pytest_dspy_ft.lms.serving import Serving
from pytest_dspy_ft.local import pace
from pytest_dspy_ft.records.plan import Plan
from tests.scripted import CHAT, numbers

MODEL = "nobody/nothing"


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pace.PaceNotes:
    monkeypatch.setenv("DSPY_FT_CACHE", str(tmp_path / "cache"))
    notes = pace.PaceNotes()
    monkeypatch.setattr("pytest_dspy_ft.ladder.local_time.NOTES", notes)
    return notes


def planned(*stages: Stage, rows: int = 40, program: Any = None, **settings: Any) -> Plan:
    examples = numbers(rows + 20)
    experiment = Experiment(
        "numbers",
        program=program or dspy.Predict("text -> label"),
        dataset=Dataset(train=examples[:rows], dev=examples[rows : rows + 10], test=examples[rows + 10 :]),
        metric=lambda example, prediction, trace=None: prediction.label == example.label,
        lm=resolve_lm(f"local:{MODEL}", runnable=False, max_tokens=32),
        adapter=CHAT,
        stages=stages,
    )
    names = [stage.name for stage in stages]
    ladder = Ladder(experiment, store="store", **settings)
    return plan(ladder, names, [("baseline", "dev"), *((name, "test") for name in names)])


def seconds(found: Plan, stage: str, action: str) -> float | None:
    (step,) = [step for step in found.steps if (step.stage, step.action) == (stage, action)]
    return step.seconds


TUNED = Stage("finetuned", LabeledFinetune(metric=None))


def test_nothing_is_guessed_where_nothing_was_noted() -> None:
    found = planned(TUNED)
    assert (seconds(found, "baseline", "measure"), seconds(found, "finetuned", "build")) == (None, None)
    assert "time of training not known yet" in found.steps[2].basis


def test_time_follows_from_the_pace(notes: pace.PaceNotes) -> None:
    notes.note(MODEL, "answering", 1000, 1.0)
    notes.note(MODEL, "training", 1000, 10.0)
    once = planned(TUNED)
    measured, trained = seconds(once, "baseline", "measure"), seconds(once, "finetuned", "build")
    assert measured
    assert trained
    assert "this machine's pace of 20" in once.steps[1].basis
    assert once.total("seconds")[1], "every step knows its time"
    notes.note(MODEL, "answering", 1000, 3.0)
    twice = planned(TUNED)
    assert seconds(twice, "baseline", "measure") == pytest.approx(2 * measured)
    assert seconds(twice, "finetuned", "build") == pytest.approx(trained)
    assert seconds(planned(TUNED, rows=80), "finetuned", "build") == pytest.approx(2 * trained, rel=0.1)


def test_time_follows_from_the_settings_of_the_training(notes: pace.PaceNotes) -> None:
    notes.note(MODEL, "training", 1000, 10.0)
    notes.note(MODEL, "answering", 1000, 1.0)

    def trained(**settings: Any) -> float | None:
        return seconds(
            planned(Stage("finetuned", LabeledFinetune(metric=None, train_kwargs=settings))), "finetuned", "build"
        )

    two = trained()
    assert two
    assert trained(epochs=6) == pytest.approx(3 * two)
    small = trained(batch_size=1)
    assert small
    assert small > two, "a prefix that a batch shares is computed once a batch"
    assert trained(no_such_setting=1) is None


def test_traces_take_their_calls_beside_the_training(notes: pace.PaceNotes) -> None:
    notes.note(MODEL, "training", 1000, 10.0)
    notes.note(MODEL, "answering", 1000, 1.0)
    labels = seconds(planned(TUNED), "finetuned", "build")
    traces = seconds(planned(Stage("finetuned", dspy.BootstrapFinetune(metric=None))), "finetuned", "build")
    each = seconds(planned(TUNED), "baseline", "measure")
    assert labels
    assert each
    assert traces == pytest.approx(labels + 4 * each, rel=0.01)


def test_loading_counts_once(notes: pace.PaceNotes) -> None:
    notes.note(MODEL, "training", 1000, 10.0)
    notes.note(MODEL, "answering", 1000, 1.0)
    before = planned(TUNED).total("seconds")[0]
    notes.note(MODEL, "loading", 1, 100.0)
    assert planned(TUNED).total("seconds")[0] == pytest.approx(before + 100.0)


def test_work_of_others_is_not_timed_by_this_machine(notes: pace.PaceNotes) -> None:
    notes.note(MODEL, "training", 1000, 10.0)
    notes.note(MODEL, "answering", 1000, 1.0)
    served = planned(TUNED, serving=Serving("http://localhost:1"))
    assert seconds(served, "baseline", "measure") is None
    assert seconds(served, "finetuned", "build")


@pytest.mark.model
def test_a_trial_tells_where_nothing_was_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_dspy_ft.local.engine import LocalEngine
    from pytest_dspy_ft.local.pace_trial import try_out
    from pytest_dspy_ft.local.weights import BUNDLED_NAME

    engine = LocalEngine(BUNDLED_NAME)
    try:
        found = try_out(engine)
    finally:
        engine.shutdown()
    assert found.answering
    assert found.training
    assert found.training > found.answering, "a step of a training computes three times as much for a token"
