"""Example 1 of the docs: sort support tickets with a small model as well as with an expensive one.

On a hosted LM (``--dspy-lm=openai/gpt-4o-mini``) this is the docs' program with the docs' settings. The embedded LM has
135 million parameters and runs on a laptop's CPU: it gets the same signature, data and metric, and settings that fit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Stage

SEED = int(os.environ.get("EXAMPLE_SEED", "0"))  # benchmarks/example_seeds.py measures with several


class ClassifyTicket(dspy.Signature):
    """Classify the support ticket into a category."""

    text: str = dspy.InputField()
    category: str = dspy.OutputField(desc="one of: billing, technical, account, feature_request, other")


def exact_category(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    return prediction.category.strip().lower() == example.category.strip().lower()


class TerseChatAdapter(dspy.ChatAdapter):
    """DSPy's chat format without the reminder of the format after every input, and without a second try in JSON.

    The reminder is longer than most tickets. It stands between the ticket and the answer, where it hides the ticket
    from a small model, and every token costs time on a CPU.
    """

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def user_message_output_requirements(self, signature: type[dspy.Signature]) -> str | None:
        return None


def hosted(dataset: Dataset) -> dict[str, Any]:
    """The docs' program and settings."""
    return {
        "program": dspy.ChainOfThought(ClassifyTicket),
        "stages": [
            Stage("prompt_optimized", dspy.MIPROv2(metric=exact_category, auto="medium")),
            Stage("finetuned", dspy.BootstrapFinetune(metric=exact_category), teacher="prompt_optimized"),
        ],
    }


def embedded(dataset: Dataset) -> dict[str, Any]:
    """The same task within the means of the embedded LM; README.md says what was measured for each choice."""
    mipro = dspy.MIPROv2(
        metric=exact_category,
        auto=None,
        num_candidates=3,
        max_bootstrapped_demos=0,
        max_labeled_demos=16,
        seed=9 + SEED,  # DSPy's own default, and what follows it
    )
    search = {
        "trainset": dataset.train[:200],
        "valset": dataset.train[200:232],
        "num_trials": 4,
        "minibatch": False,
        # A model of this size writes no instructions worth trying: do not show it the data and the program for that.
        "program_aware_proposer": False,
        "data_aware_proposer": False,
        "tip_aware_proposer": False,
        "fewshot_aware_proposer": False,
    }
    tuning = {
        "epochs": 1,
        "learning_rate": 1.5e-3,
        "batch_size": 8,
        "validation_fraction": 0.05,
        "activation_gib": 0.5,  # stay below 3 GiB in all
    }
    return {
        "program": dspy.Predict(ClassifyTicket),
        "adapter": TerseChatAdapter(),
        "stages": [
            Stage("prompt_optimized", mipro, compile_args=search),
            # The prompted model is not good enough to teach (see README.md), so the labels do.
            Stage("finetuned", LabeledFinetune(metric=exact_category, train_kwargs=tuning)),
        ],
    }


@pytest.fixture(scope="session")
def dspy_experiment(dspy_lm: dspy.LM) -> Experiment:
    dataset = Dataset.from_file(Path(__file__).with_name("tickets.json"), inputs=["text"])  # in file order: 800/100/100
    local = dspy_lm.model.startswith("local:")
    lm = dspy_lm.copy(max_tokens=32) if local else dspy_lm
    return Experiment(
        "tickets",
        dataset=dataset,
        metric=exact_category,
        lm=lm,
        seed=SEED,
        **(embedded if local else hosted)(dataset),
    )
