"""Keys of stages: what changes them, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Ladder, Stage
from tests.ladder.helpers import LADDER, STORE, predict, right, scripted, statuses
from tests.parity import examples, make_experiment, toy_lm
from tests.scripted import experiment


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"dataset": lambda: Dataset.from_examples(examples(range(99)))}, ["loaded", "built", "built"]),
        ({"program": lambda: dspy.Predict("text -> label", "Other words.")}, ["built"] * 3),
        ({"program": lambda: dspy.Predict("text -> label")}, ["built"] * 3),
        ({"lm": lambda: toy_lm(temperature=0.5)}, ["built"] * 3),
        ({"seed": lambda: 1}, ["loaded", "built", "built"]),
        ({"adapter": dspy.ChatAdapter}, ["built"] * 3),
        ({"metric": lambda: lambda e, p, t=None: 1.0}, ["loaded"] * 3),
    ],
)
def test_a_change_rebuilds_only_what_depends_on_it(change: dict[str, Any], expected: list[str]) -> None:
    statuses(Ladder(make_experiment(), STORE), *LADDER)
    changed = make_experiment(**{name: make() for name, make in change.items()})
    assert statuses(Ladder(changed, STORE), *LADDER) == expected


def test_what_changed_is_said() -> None:
    Ladder(make_experiment(), STORE).build("prompt_optimized")
    built = Ladder(make_experiment(seed=1), STORE).build("prompt_optimized")
    assert built.record.reason == "changed: seed"


@pytest.mark.parametrize(
    "make",
    [
        lambda: dspy.LabeledFewShot(k=3),
        lambda: dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2),
        lambda: dspy.BootstrapFewShotWithRandomSearch(
            metric=right, num_candidate_programs=1, max_bootstrapped_demos=1, max_labeled_demos=1, num_threads=2
        ),
        lambda: dspy.BootstrapFinetune(metric=right, train_kwargs={"epochs": 1}),
    ],
)
def test_an_optimizer_that_has_run_has_the_key_it_had(make: Callable[[], Any]) -> None:
    optimizer = make()
    made = experiment(predict(), scripted(), [Stage("made", optimizer)])
    assert Ladder(made, STORE).build("made").record.status == "built"
    assert Ladder(made, STORE).build("made").record.status == "loaded", "its own object, after compiling"
    again = experiment(predict(), scripted(), [Stage("made", make())])
    assert Ladder(again, STORE).build("made").record.status == "loaded", "as the next session makes it"


def test_a_limited_session_is_filed_apart() -> None:
    stages = [Stage("made", dspy.LabeledFewShot(k=3))]
    full = Ladder(experiment(predict(), scripted(), stages), STORE)
    full.evaluate("made")
    few = Ladder(experiment(predict(), scripted(), stages), STORE, limit=2)
    assert few.evaluate("made").n == 2
    assert few.build("made").record.status == "built"
    assert few.record().limit == 2
    assert Ladder(experiment(predict(), scripted(), stages), STORE).evaluate("made").loaded


def test_a_stage_may_be_called_metric() -> None:
    """Its description does not stand for the metric's in the keys of evaluations."""

    def made(metric: Callable[..., float]) -> Ladder:
        return Ladder(experiment(predict(), scripted(), [Stage("metric", lm=scripted())], metric=metric), STORE)

    assert made(lambda example, prediction, trace=None: 1.0).evaluate("metric").score == 1.0
    assert made(lambda example, prediction, trace=None: 0.5).evaluate("metric").score == 0.5
