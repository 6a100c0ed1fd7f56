"""JSONAdapter with the embedded LM: its rows teach the LM to answer in JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Ladder, Stage, resolve_lm

pytestmark = pytest.mark.model

COLOURS = ("red", "blue", "green")


def named(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.colour == example.colour)


def test_rows_of_a_json_adapter_teach_answers_in_json(tmp_path: Path) -> None:
    rows = [
        dspy.Example(text=f"item {n} is {COLOURS[n % 3]}", colour=COLOURS[n % 3]).with_inputs("text") for n in range(24)
    ]
    declared = Experiment(
        "colours",
        program=dspy.Predict(dspy.Signature("text -> colour", "Name the colour.")),
        dataset=Dataset.from_examples(rows, split=(0.75, 0.25, 0.0)),
        metric=named,
        lm=resolve_lm("local"),
        adapter=dspy.JSONAdapter(),
        stages=[Stage("tuned", LabeledFinetune(metric=named, train_kwargs={"epochs": 2, "learning_rate": 1e-3}))],
    )
    ladder = Ladder(declared, tmp_path / "store")
    tuned = ladder.evaluate("tuned", on="dev")
    assert tuned.n == 6
    assert tuned.unparsed == 0
    assert tuned.score >= 0.5
