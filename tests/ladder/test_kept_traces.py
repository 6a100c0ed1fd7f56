"""Traces outlive a build: other training settings need no other traces, and all else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import StoreWarning, TooFewTracesError
from pytest_dspy_ft.ladder.plan import plan
from tests.scripted import experiment, jobs_of, reply, scripted_lm

TRAIN = 32  # of 40 examples


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parity(fields: Any, request: Any) -> str:
    n = int(fields["text"])
    return reply(label="even" if (n % 2 == 0) != (n % 10 == 3) else "odd")


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def lenient(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label)


def tune(metric: Any = right, **train_kwargs: Any) -> Any:
    return dspy.BootstrapFinetune(metric=metric, train_kwargs=train_kwargs)


def session(stage: Stage, *, program: Any = None, **settings: Any) -> tuple[Ladder, Any]:
    lm = scripted_lm(parity)
    declared = experiment(program or dspy.Predict("text -> label"), lm, [stage])
    return Ladder(declared, "store", **settings), lm


def asked(stage: Stage, **settings: Any) -> tuple[int, Any]:
    """LM calls that building the stage took, and the training job."""
    ladder, lm = session(stage, **settings)
    ladder.build("tuned")
    [job] = jobs_of(lm)
    return len(lm.engine.requests), job


def test_another_training_setting_trains_on_the_same_traces() -> None:
    first, job = asked(Stage("tuned", tune(n_epochs=1)))
    assert first == TRAIN
    again, another = asked(Stage("tuned", tune(n_epochs=3, r=8)))
    assert again == 0
    assert another[1] == job[1], "the rows"
    assert (another[2]["n_epochs"], job[2]["n_epochs"]) == (3, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": Stage("tuned", tune(lenient, n_epochs=3))},
        {"stage": Stage("tuned", tune(n_epochs=3), accept=0.5)},
        {"stage": Stage("tuned", tune(n_epochs=3)), "program": dspy.ChainOfThought("text -> label")},
        {"stage": Stage("tuned", tune(n_epochs=3)), "limit": 30},
        {"stage": Stage("tuned", tune(n_epochs=3)), "rebuild": ["tuned"]},
    ],
    ids=["metric", "accept", "program", "examples", "rebuild"],
)
def test_all_else_collects_anew(changes: dict[str, Any]) -> None:
    asked(Stage("tuned", tune(n_epochs=1)))
    ladder, lm = session(**changes)
    if "program" in changes:
        lm.engine.rule = lambda fields, request: reply(reasoning="so", label="even")
    ladder.build("tuned")
    assert len(lm.engine.requests) >= 30


def test_what_a_rebuild_collected_counts_from_then_on() -> None:
    asked(Stage("tuned", tune(n_epochs=1)))
    calls, _ = asked(Stage("tuned", tune(n_epochs=1)), rebuild=["tuned"])
    assert calls == TRAIN
    assert asked(Stage("tuned", tune(n_epochs=2)))[0] == 0


def test_the_plan_and_the_table_say_so() -> None:
    asked(Stage("tuned", tune(n_epochs=1)))
    ladder, lm = session(Stage("tuned", tune(n_epochs=2)))
    steps = plan(ladder, ["tuned"], [("tuned", "dev")]).steps
    [step] = [step for step in steps if step.action == "build" and step.stage == "tuned"]
    assert step.lm_calls == 0
    assert "traces kept from 20" in step.basis
    ladder.build("tuned")
    assert lm.engine.requests == []
    assert any("tuned: traces kept from 20" in one for one in ladder.record().cautions)
    kept = ladder.build("tuned").record.bootstrap
    assert kept is not None
    assert kept.kept == 29


def test_too_few_are_too_few_whatever_the_settings() -> None:
    few = lambda example, prediction, trace=None: example.text in ("0", "1", "2")  # noqa: E731
    for epochs, calls in ((1, TRAIN), (2, 0)):
        ladder, lm = session(Stage("tuned", tune(few, n_epochs=epochs)))
        with pytest.raises(TooFewTracesError, match="3 of 32") as refused:
            ladder.build("tuned")
        assert len(lm.engine.requests) == calls
        path = Path(str(refused.value).split("with all replies: ")[1].splitlines()[0])
        assert len(path.read_text().splitlines()) == TRAIN


def test_a_damaged_collection_is_said_and_collected_anew() -> None:
    asked(Stage("tuned", tune(n_epochs=1)))
    [path] = Path("store/collections").rglob("collection.json")
    path.write_text(path.read_text().replace("even", "odd", 1))
    with pytest.warns(StoreWarning, match="traces are collected anew"):
        assert asked(Stage("tuned", tune(n_epochs=2)))[0] == TRAIN
