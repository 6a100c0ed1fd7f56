"""Example 4 of the docs: what to do when a model is too weak to bootstrap its own fine-tuning.

On a hosted LM (``--dspy-lm=openai/gpt-4o-mini --dspy-teacher-lm=openai/gpt-4o``) this is the docs' program with the
docs' settings. The embedded LM has 135 million parameters and no larger model beside it: there the strong teacher is
the same model with labelled examples in its prompt.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Stage

SEED = int(os.environ.get("EXAMPLE_SEED", "0"))

DEMOS = 8
"""Labelled examples in the prompt of the embedded LM's strong teacher."""
EXAMPLES = 72
"""Train examples that the embedded LM's stages learn from: what fits into five minutes."""


class ExtractEntities(dspy.Signature):
    """Extract all named entities from the text."""

    text: str = dspy.InputField()
    entities: list[str] = dspy.OutputField()


def strict_metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    """Exactly the entities of the label, in any order and case."""
    return {e.lower() for e in example.entities} == {e.lower() for e in prediction.entities}


def lenient_metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    """At least half of them: good enough to learn from, not to be measured by."""
    gold, found = ({e.lower() for e in entities} for entities in (example.entities, prediction.entities))
    return len(gold & found) / len(gold) >= 0.5 if gold else not found


class TerseChatAdapter(dspy.ChatAdapter):
    """DSPy's chat format without the reminder of the format after every input, and without a second try in JSON.

    The reminder is longer than the sentences, and every token costs time on a CPU.
    """

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def user_message_output_requirements(self, signature: type[dspy.Signature]) -> str | None:
        return None


def hosted(dataset: Dataset, teacher_lm: dspy.LM) -> dict[str, Any]:
    """The docs' program and settings."""
    return {
        "program": dspy.ChainOfThought(ExtractEntities),
        "stages": [
            Stage("strong", lm=teacher_lm),
            Stage("finetuned_self", dspy.BootstrapFinetune(metric=strict_metric)),
            Stage("finetuned_strong_teacher", dspy.BootstrapFinetune(metric=strict_metric), teacher="strong"),
            Stage("finetuned_lenient", dspy.BootstrapFinetune(metric=lenient_metric)),
            # Our labels hold no reasoning and cannot teach a ChainOfThought; the stage says so where it is asked for.
            Stage("finetuned_labels", LabeledFinetune(metric=strict_metric)),
        ],
    }


def embedded(dataset: Dataset, teacher_lm: dspy.LM) -> dict[str, Any]:
    """The same task within the means of the embedded LM; README.md says what was measured for each choice."""
    sample = random.Random(SEED).sample(dataset.train, DEMOS + EXAMPLES)
    demos, examples = sample[:DEMOS], sample[DEMOS:]  # the teacher has not seen what it is to answer
    tuning = {"epochs": 2, "learning_rate": 1.5e-3, "batch_size": 8, "validation_fraction": 0.0}
    on_examples = {"compile_args": {"trainset": examples}}
    return {
        "program": dspy.Predict(ExtractEntities),
        "adapter": TerseChatAdapter(),
        "stages": [
            Stage("strong", dspy.LabeledFewShot(k=DEMOS), compile_args={"trainset": demos, "sample": False}),
            # Refused, before anything is trained: two dozen tries show it.
            Stage(
                "finetuned_self",
                dspy.BootstrapFinetune(strict_metric, train_kwargs=tuning),
                compile_args={"trainset": examples[:24]},
            ),
            Stage(
                "finetuned_strong_teacher",
                dspy.BootstrapFinetune(strict_metric, train_kwargs=tuning),
                teacher="strong",
                **on_examples,
            ),
            # The bare model's replies cannot be read, which no metric mends: relaxing it needs a teacher too.
            Stage(
                "finetuned_lenient",
                dspy.BootstrapFinetune(lenient_metric, train_kwargs=tuning),
                teacher="strong",
                **on_examples,
            ),
            Stage("finetuned_labels", LabeledFinetune(strict_metric, train_kwargs=tuning), **on_examples),
        ],
    }


@pytest.fixture(scope="session")
def dspy_experiment(dspy_lm: dspy.LM, dspy_teacher_lm: dspy.LM) -> Experiment:
    dataset = Dataset.from_file(
        Path(__file__).with_name("sentences.json"), inputs=["text"]
    )  # in file order: 800/100/100
    local = dspy_lm.model.startswith("local:")
    return Experiment(
        "entities",
        dataset=dataset,
        metric=strict_metric,
        lm=dspy_lm.copy(max_tokens=48) if local else dspy_lm,
        seed=SEED,
        **(embedded if local else hosted)(dataset, dspy_teacher_lm),
    )
