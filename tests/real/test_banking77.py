"""The ladder on real customer queries (five intents of Banking77), where that data is present."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "banking77" / "train.csv"

pytestmark = [pytest.mark.model, pytest.mark.skipif(not DATA.exists(), reason=f"no {DATA}")]

CONFTEST = """
import csv, random
import dspy, pytest
from pytest_dspy_ft import Dataset, Experiment, Stage

INTENTS = ("card_arrival", "exchange_rate", "pin_blocked", "request_refund", "top_up_failed")

class Terse(dspy.ChatAdapter):
    def user_message_output_requirements(self, signature):
        return None

class ClassifyQuery(dspy.Signature):
    '''Classify the customer query into an intent.'''
    text: str = dspy.InputField()
    intent: str = dspy.OutputField(desc="one of: " + ", ".join(INTENTS))

def exact_intent(example, prediction, trace=None):
    return prediction.intent.strip() == example.intent

@pytest.fixture(scope="session")
def dspy_experiment(dspy_lm):
    with open(DATA, encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["category"] in INTENTS]
    random.Random(0).shuffle(rows)
    examples = [dspy.Example(text=row["text"], intent=row["category"]).with_inputs("text") for row in rows[:220]]
    train = examples[:140]
    mipro = dspy.MIPROv2(
        metric=exact_intent, auto=None, num_candidates=3, max_bootstrapped_demos=1, max_labeled_demos=10
    )
    return Experiment(
        "banking77",
        program=dspy.Predict(ClassifyQuery),
        dataset=Dataset(train=train, dev=examples[140:160], test=examples[160:]),
        metric=exact_intent,
        lm=dspy_lm.copy(max_tokens=32),
        adapter=Terse(use_json_adapter_fallback=False),
        stages=[
            Stage(
                "prompt_optimized",
                mipro,
                compile_args={
                    "trainset": train[:60], "valset": train[60:90], "num_trials": 3, "minibatch": False,
                    "program_aware_proposer": False, "data_aware_proposer": False, "tip_aware_proposer": False,
                    "fewshot_aware_proposer": False,
                },
            ),
            Stage(
                "finetuned",
                dspy.BootstrapFinetune(metric=exact_intent, train_kwargs={"epochs": 2, "learning_rate": 1.5e-3}),
                teacher="prompt_optimized",
            ),
        ],
    )
"""

GATES = """
import pytest

@pytest.mark.dspy_gate("prompt_optimized >= baseline + 20%", on="test")
def test_prompt_optimized(): ...

@pytest.mark.dspy_gate("finetuned >= baseline + 40%", on="test")
@pytest.mark.dspy_gate("bootstrap_rate(finetuned) >= 20%", on="test")
def test_finetuned(): ...
"""


def test_traces_of_a_prompted_teacher_train_a_better_student(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(f"DATA = {str(DATA)!r}\n{CONFTEST}")
    pytester.makepyfile(GATES)
    result = pytester.runpytest_subprocess("--dspy-stage=finetune")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*dspy: banking77*", "finetuned*test*", "finetuned >= baseline + 40%*PASS"])
