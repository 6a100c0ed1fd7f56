"""Example 3 of the docs: prompts and weights optimized in turns, on word problems solved step by step.

On a hosted LM (``--dspy-lm=openai/gpt-4o-mini``) this is the docs' program with the docs' settings on all problems. The
embedded LM has 135 million parameters: it gets the same signature and metric, the problems of one step, and settings
that fit a laptop's CPU.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Stage

SEED = int(os.environ.get("EXAMPLE_SEED", "0"))
PROBLEMS = Path(__file__).with_name("problems.json")


class SolveWord(dspy.Signature):
    """Solve the math word problem step by step."""

    problem: str = dspy.InputField()
    answer: float = dspy.OutputField()


def right_answer(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    try:
        return abs(float(prediction.answer) - float(example.answer)) < 0.01
    except (ValueError, TypeError):
        return False


class TerseChatAdapter(dspy.ChatAdapter):
    """DSPy's chat format without the reminder of the format after every input, and without a second try in JSON."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def user_message_output_requirements(self, signature: type[dspy.Signature]) -> str | None:
        return None


def hosted() -> dict[str, Any]:
    """The docs' program and settings; README.md says what had to be corrected."""
    dataset = Dataset.from_file(PROBLEMS, inputs=["problem"])  # in file order: 800/100/100
    train, validation = dataset.train[:700], dataset.train[700:]
    together = dspy.BetterTogether(
        metric=right_answer,
        p=dspy.MIPROv2(metric=right_answer, auto="medium", seed=9 + SEED),
        w=dspy.BootstrapFinetune(metric=right_answer),
    )
    return {
        "dataset": dataset,
        "stages": [
            Stage("prompt_optimized", dspy.MIPROv2(metric=right_answer, auto="medium", seed=9 + SEED)),
            Stage("finetuned", dspy.BootstrapFinetune(metric=right_answer)),
            Stage(
                "better_together",
                together,
                compile_args={"strategy": "p -> w -> p", "trainset": train, "valset": validation, "seed": SEED},
            ),
        ],
    }


def embedded() -> dict[str, Any]:
    """The same ladder within the means of the embedded LM; README.md says what was measured for each choice."""
    rows = [row for row in json.loads(PROBLEMS.read_text(encoding="utf-8")) if row["steps"] == 1]
    fields = ("problem", "reasoning", "answer")
    examples = [dspy.Example({name: row[name] for name in fields}).with_inputs("problem") for row in rows]
    dataset = Dataset.from_examples(examples, split=(0.6, 0.2, 0.2))  # in file order: 300/100/100
    shuffled = random.Random(SEED).sample(dataset.train, len(dataset.train))
    train, validation = shuffled[:160], shuffled[160:184]
    search = {
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
        "activation_gib": 0.4,  # rows with six demos are long: stay below 3 GiB in all
    }

    def prompting() -> dspy.MIPROv2:
        return dspy.MIPROv2(
            metric=right_answer,
            auto=None,
            num_candidates=3,
            max_bootstrapped_demos=0,
            max_labeled_demos=6,
            seed=9 + SEED,
        )

    def weights() -> LabeledFinetune:
        return LabeledFinetune(metric=right_answer, train_kwargs=tuning)  # on the worked reasoning, see README.md

    sets = {"trainset": train, "valset": validation}
    together = dspy.BetterTogether(metric=right_answer, p=prompting(), w=weights())
    return {
        "dataset": dataset,
        "adapter": TerseChatAdapter(),
        "stages": [
            Stage("prompt_optimized", prompting(), compile_args={**sets, **search}),
            Stage("finetuned", weights(), compile_args={"trainset": train}),
            Stage(
                "better_together",
                together,
                compile_args={
                    **sets,
                    "strategy": "p -> w -> p",
                    "optimizer_compile_args": {"p": search},
                    "seed": SEED,
                },
            ),
        ],
    }


@pytest.fixture(scope="session")
def dspy_experiment(dspy_lm: dspy.LM) -> Experiment:
    local = dspy_lm.model.startswith("local:")
    lm = dspy_lm.copy(max_tokens=64) if local else dspy_lm
    return Experiment(
        "problems",
        program=dspy.ChainOfThought(SolveWord),
        metric=right_answer,
        lm=lm,
        seed=SEED,
        **(embedded() if local else hosted()),
    )
