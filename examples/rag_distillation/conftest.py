"""Example 2 of the docs: distil an expensive RAG program into a cheap one.

On hosted LMs (``--dspy-lm=openai/gpt-4o-mini --dspy-teacher-lm=openai/gpt-4o``) this is the docs' program with the
docs' settings. On the embedded LM teacher and student are the same small model: the teacher has the long prompt, with
demonstrations, the student the bare one. What is saved is tokens.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import dspy
import pytest
from rag import RAG, AnswerFromDocs, Passages, TerseChatAdapter, token_f1

from pytest_dspy_ft import Dataset, Experiment, Stage

SEED = int(os.environ.get("EXAMPLE_SEED", "0"))  # benchmarks/example_seeds.py measures with several
FOLDER = Path(__file__).parent
TUNING = {"epochs": 5, "learning_rate": 1e-3, "batch_size": 4, "validation_fraction": 0.0, "activation_gib": 0.5}
"""How the embedded LM is trained, in less than 3 GiB in all; also by benchmarks/accept_sweep.py."""


def hosted(retrieve: Passages, dataset: Dataset, teacher_lm: dspy.LM) -> dict[str, Any]:
    """The docs' program and settings."""
    return {
        "program": RAG(retrieve, dspy.ChainOfThought(AnswerFromDocs)),
        "stages": [
            Stage("teacher", lm=teacher_lm),
            Stage("teacher_optimized", dspy.MIPROv2(metric=token_f1, auto="medium"), start="teacher"),
            Stage(
                "student_finetuned", dspy.BootstrapFinetune(metric=token_f1), teacher="teacher_optimized", accept=0.5
            ),
        ],
    }


def embedded(retrieve: Passages, dataset: Dataset, teacher_lm: dspy.LM) -> dict[str, Any]:
    """The same task within the means of the embedded LM; README.md says what was measured for each choice."""
    mipro = dspy.MIPROv2(
        metric=token_f1,
        auto=None,
        num_candidates=3,
        max_bootstrapped_demos=0,
        max_labeled_demos=8,
        seed=9 + SEED,  # DSPy's own default, and what follows it
    )
    search = {
        "trainset": demonstrations(retrieve, dataset.train[600:]),
        "valset": dataset.train[500:524],
        "num_trials": 5,
        "minibatch": False,
        # A model of this size writes no instructions worth trying: do not show it the data and the program for that.
        "program_aware_proposer": False,
        "data_aware_proposer": False,
        "tip_aware_proposer": False,
        "fewshot_aware_proposer": False,
    }
    return {
        "program": RAG(retrieve, dspy.Predict(AnswerFromDocs)),
        "adapter": TerseChatAdapter(),
        "stages": [
            Stage("teacher", lm=teacher_lm),
            Stage("teacher_optimized", mipro, start="teacher", compile_args=search),
            Stage(
                "student_finetuned",
                dspy.BootstrapFinetune(metric=token_f1, train_kwargs=TUNING),
                teacher="teacher_optimized",
                accept=0.5,
                min_traces=3,  # about one trace in five is kept, and the tour has forty
                compile_args={"trainset": dataset.train[:200]},  # none of them a demonstration of the teacher's
            ),
        ],
    }


def demonstrations(retrieve: Passages, examples: list[dspy.Example]) -> list[dspy.Example]:
    """Examples with the passage that answers them: complete demonstrations of the task, and short ones.

    Without a passage they would show the model to answer from nothing, which is what it does anyway. Questions
    for which retrieval finds no answer are left out. The seed decides their order, and so which of them MIPROv2 tries.
    """
    complete = []
    for example in examples:
        holds = [text for text in retrieve(example.question) if example.answer.lower() in text.lower()]
        if holds:
            complete.append(example.copy(context=holds[0]).with_inputs("question"))
    return random.Random(SEED).sample(complete, len(complete))


@pytest.fixture(scope="session")
def dspy_experiment(dspy_lm: dspy.LM, dspy_teacher_lm: dspy.LM) -> Experiment:
    dataset = Dataset.from_file(FOLDER / "questions.json", inputs=["question"])  # in file order: 800/100/100
    retrieve = Passages.of(FOLDER / "passages.json")
    local = dspy_lm.model.startswith("local:")
    lm, teacher_lm = (
        lm.copy(max_tokens=32) if lm.model.startswith("local:") else lm for lm in (dspy_lm, dspy_teacher_lm)
    )
    return Experiment(
        "rag",
        dataset=dataset,
        metric=token_f1,
        lm=lm,
        seed=SEED,
        **(embedded if local else hosted)(retrieve, dataset, teacher_lm),
    )
