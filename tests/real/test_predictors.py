"""Programs of several predictors and with a loop, fine-tuned with the real model: each predictor on its own rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Ladder, Stage, resolve_lm

pytestmark = pytest.mark.model


class Shout(dspy.Signature):
    """Repeat the word in capital letters."""

    word: str = dspy.InputField()
    loud: str = dspy.OutputField()


class Greet(dspy.Signature):
    """Greet by the name."""

    loud: str = dspy.InputField()
    greeting: str = dspy.OutputField()


class ShoutTwice(dspy.Module):
    """Calls ``shout`` in a loop, then ``greet`` once, in an order that is not that of the names."""

    def __init__(self) -> None:
        super().__init__()
        self.greet = dspy.Predict(Greet)
        self.shout = dspy.Predict(Shout)

    def forward(self, word: str) -> Any:
        for _ in range(2):
            loud = self.shout(word=word).loud
        return self.greet(loud=loud)


class Terse(dspy.ChatAdapter):
    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def user_message_output_requirements(self, signature: Any) -> None:
        return None


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "traces.jsonl").read_text("utf-8").splitlines()]


def test_each_predictor_learns_its_own_rows(tmp_path: Path) -> None:
    words = ["fox", "owl", "cat", "dog", "hen", "bee", "ant", "cow", "pig", "ram", "yak", "elk", "eel", "bat"]
    words += ["jay", "cod", "emu", "gnu", "rat", "ape", "kid", "doe", "sow", "hog"]
    rows = [dspy.Example(word=w, loud=w.upper(), greeting=f"Hello {w.upper()}").with_inputs("word") for w in words]
    train = rows[:20]

    def greets(example: Any, prediction: Any, trace: Any = None) -> bool:
        return bool(prediction.greeting.startswith("Hello"))

    settings = {"epochs": 3, "learning_rate": 2e-3, "batch_size": 4, "validation_fraction": 0.0}
    ladder = Ladder(
        Experiment(
            "predictors",
            program=ShoutTwice(),
            dataset=Dataset(train=train, dev=rows[20:]),
            metric=greets,
            lm=resolve_lm("local").copy(max_tokens=24),
            adapter=Terse(),
            stages=[
                Stage("labels", LabeledFinetune(greets, multitask=False, train_kwargs=settings)),
                Stage(
                    "own",
                    dspy.BootstrapFinetune(greets, multitask=False, train_kwargs={**settings, "epochs": 1}),
                    start="labels",
                    min_traces=4,
                    compile_args={"trainset": train[:8]},
                ),
            ],
        ),
        tmp_path / "store",
    )
    labels = ladder.build("labels")
    assert [(job.predictors, job.rows) for job in labels.record.training] == [(("greet",), 20), (("shout",), 20)]
    models = {name: p.lm.model for name, p in labels.program.named_predictors()}
    assert len({*models.values(), ladder.experiment.lm.model}) == 3, "a model each, and neither is the base"

    # Had one been trained on the other's rows, it would write the other's field, and nothing could be read.
    result = ladder.evaluate("labels")
    assert (result.unparsed, result.errors) == (0, 0)
    assert result.score >= 0.5

    # The tuned program teaches itself: two calls of shout and one of greet in every trace.
    own = ladder.build("own")
    assert own.record.bootstrap is not None
    kept = own.record.bootstrap.kept
    assert kept >= 4
    assert own.record.bootstrap.rows == {"shout": 2 * kept, "greet": kept}
    assert [(job.predictors, job.rows) for job in own.record.training] == [(("greet",), kept), (("shout",), 2 * kept)]
    traces = [trace for trace in read(own.build.folder) if trace["outcome"] == "kept"]
    assert all([s["predictor"] for s in t["steps"]] == ["shout", "shout", "greet"] for t in traces)
    assert {name for name, _ in own.program.named_predictors()} == models.keys()
    assert not {p.lm.model for _, p in own.program.named_predictors()} & set(models.values())
