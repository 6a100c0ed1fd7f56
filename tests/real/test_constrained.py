"""The embedded LM kept to a format: what it has not learned to write by itself can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Ladder, Stage, resolve_lm

pytestmark = pytest.mark.model

ITEMS = ("apple", "truck", "violin")
KINDS = {"apple": "food", "truck": "vehicle", "violin": "instrument"}


class Kind(dspy.Signature):
    """Say what kind of thing the item is."""

    text: str = dspy.InputField()
    kind: Literal["food", "vehicle", "instrument"] = dspy.OutputField()
    alive: bool = dspy.OutputField()


def right(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return bool(example.kind == prediction.kind and example.alive == prediction.alive)


def experiment(constrained: bool) -> Experiment:
    rows = [
        dspy.Example(text=f"item {n}: {item}", kind=KINDS[item], alive=False).with_inputs("text")
        for n in range(24)
        for item in [ITEMS[n % 3]]
    ]
    return Experiment(
        "kinds",
        program=dspy.Predict(Kind),
        dataset=Dataset.from_examples(rows, split=(0.75, 0.25, 0.0)),
        metric=right,
        lm=resolve_lm("local", constrained=constrained),
        adapter=dspy.ChatAdapter(use_json_adapter_fallback=False),
        stages=[Stage("tuned", LabeledFinetune(metric=right, train_kwargs={"epochs": 2, "learning_rate": 1e-3}))],
    )


def test_a_constrained_ladder(tmp_path: Path) -> None:
    free = Ladder(experiment(False), tmp_path / "store").evaluate("baseline")
    ladder = Ladder(experiment(True), tmp_path / "store")
    kept, tuned = ladder.evaluate("baseline"), ladder.evaluate("tuned")
    assert free.unparsed == free.n == kept.n
    assert free.usage.constrained_calls == 0
    assert (kept.unparsed, kept.errors) == (0, 0)
    assert (tuned.unparsed, tuned.errors) == (0, 0)
    assert kept.usage.constrained_calls == kept.usage.lm_calls == kept.n
    assert tuned.usage.constrained_calls == tuned.n
