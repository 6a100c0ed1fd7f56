"""Keys are made of what was declared when the ladder was made: what running leaves on objects changes none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy

from pytest_dspy_ft import Dataset, Experiment, Ladder, Stage
from tests.scripted import reply, scripted_lm


class Counting:
    """A metric that remembers what it saw, as an object and as a class."""

    seen = 0

    def __init__(self) -> None:
        self.calls = 0
        self.answers: dict[str, str] = {}

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> bool:
        self.calls += 1
        Counting.seen += 1
        self.answers[example.text] = prediction.label
        return bool(prediction.label == example.label)


class Remembering(dspy.Module):  # type: ignore[misc]
    """A program with a counter and a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("text -> label")
        self.calls, self.cache = 0, {}

    def forward(self, text: str) -> Any:
        self.calls += 1
        return self.cache.setdefault(text, self.ask(text=text))


def experiment() -> Experiment:
    rows = [dspy.Example(text=str(i), label="x").with_inputs("text") for i in range(6)]
    metric = Counting()
    return Experiment(
        "counting",
        program=Remembering(),
        dataset=Dataset(train=rows[:3], dev=rows[3:]),
        metric=metric,
        lm=scripted_lm(lambda f, r: reply(label="x")),
        stages=[Stage("few", dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=1))],
    )


def test_a_second_session_finds_everything(tmp_path: Path) -> None:
    ladder = Ladder(experiment(), tmp_path)
    before = {name: ladder.recipe(name).key for name in ("baseline", "few")}
    keys = {name: ladder.evaluate(name).key for name in ("baseline", "few")}
    assert {name: ladder.recipe(name).key for name in before} == before
    Counting.seen = 0  # as in another process
    again = Ladder(experiment(), tmp_path, frozen=True)
    assert {name: again.evaluate(name).key for name in keys} == keys


def test_a_declaration_that_was_changed_is_described_anew(tmp_path: Path) -> None:
    declared = experiment()
    before = Ladder(declared, tmp_path).recipe("baseline").key
    declared.program.limit = 3
    assert Ladder(declared, tmp_path).recipe("baseline").key != before
