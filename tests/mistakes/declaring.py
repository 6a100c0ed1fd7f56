"""Mistakes in declaring an experiment, its program, metric and stages, and in fixtures."""

from __future__ import annotations

from tests.mistakes.mistake import Mistake

_MODULE = """
class Sorter(dspy.Module):
    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict(Labels)

    def forward(self, text):
        return self.sort(text=text)
"""
_METRIC_CLASS = """
class Exact:
    def __call__(self, example, prediction, trace=None):
        return example.label == prediction.label
"""
_ONE_ARGUMENT = """
def exact(prediction):
    return True
"""
_OTHER_INPUTS = """
class Question(dspy.Signature):
    question: str = dspy.InputField()
    label: str = dspy.OutputField()
"""
_LM_FIXTURE = """
@pytest.fixture(scope="session")
def dspy_lm():
    toy_lm()
"""

DECLARING = (
    Mistake(
        "the fixture returns nothing",
        ("dspy_experiment gave None",),
        ("conftest.py:11",),
        ("return Experiment(",),
        declared={"returned": ""},
    ),
    Mistake(
        "the fixture gives a stage",
        ("dspy_experiment gave a Stage",),
        ("conftest.py:9",),
        ("Experiment(",),
        files={
            "conftest.py": "import pytest\nfrom pytest_dspy_ft import Stage\n\n\n\n\n\n\n@pytest.fixture\n"
            "def dspy_experiment():\n    return Stage('a')\n"
        },
    ),
    Mistake(
        "there is no fixture",
        ("no experiment",),
        ("test_it.py:4", "test_it"),
        ("fixture dspy_experiment", "conftest.py"),
        files={"conftest.py": ""},
    ),
    Mistake(
        "the LM's fixture returns nothing",
        ("lm", "None"),
        ("conftest.py:17", "tickets"),
        ("dspy_lm", "return"),
        declared={"above": _LM_FIXTURE, "requested": "dspy_lm", "lm": "dspy_lm"},
    ),
    Mistake(
        "a class for a program",
        ("program is the class Sorter",),
        ("conftest.py:21", "tickets"),
        ("Sorter()",),
        declared={"above": _MODULE, "program": "Sorter"},
    ),
    Mistake(
        "a signature for a program",
        ("program is the signature Labels",),
        ("conftest.py:", "tickets"),
        ("dspy.Predict(Labels)",),
        declared={"program": "Labels"},
    ),
    Mistake(
        "a class for a metric",
        ("metric is the class Exact",),
        ("conftest.py:", "tickets"),
        ("Exact()",),
        declared={"above": _METRIC_CLASS, "metric": "Exact"},
    ),
    Mistake(
        "a metric of one argument",
        ("metric", "cannot be called"),
        ("conftest.py:", "tickets"),
        ("let exact take (example, prediction",),
        declared={"above": _ONE_ARGUMENT, "metric": "exact"},
    ),
    Mistake(
        "the metric's result for a metric",
        ("metric", "callable", "bool"),
        ("conftest.py:", "tickets"),
        ("function",),
        declared={"metric": "True"},
    ),
    Mistake(
        "a class for an LM",
        ("lm is the class LM",),
        ("conftest.py:", "tickets"),
        ("dspy.LM('openai/gpt-4o-mini')",),
        declared={"lm": "dspy.LM"},
    ),
    Mistake(
        "a name for an LM",
        ("lm must be a dspy.LM",),
        ("conftest.py:", "tickets"),
        ("dspy.LM('openai/gpt-4o-mini')",),
        declared={"lm": "'openai/gpt-4o-mini'"},
    ),
    Mistake(
        "a class for an adapter",
        ("adapter is the class JSONAdapter",),
        ("parity.py:114", "tickets"),
        ("JSONAdapter()",),
        files={
            "conftest.py": "import dspy, pytest\nfrom parity import make_experiment\n\n@pytest.fixture\n"
            "def dspy_experiment():\n    return make_experiment('tickets', adapter=dspy.JSONAdapter)\n"
        },
    ),
    Mistake(
        "a list for a dataset",
        ("dataset must be a Dataset, not list",),
        ("conftest.py:", "tickets"),
        ("Dataset.from_examples([...])",),
        declared={"dataset": "examples()"},
    ),
    Mistake(
        "a class for a dataset",
        ("dataset is the class Dataset",),
        ("conftest.py:", "tickets"),
        ("Dataset.from_examples([...])",),
        declared={"dataset": "Dataset"},
    ),
    Mistake(
        "a misspelt argument of Experiment",
        ("takes no 'metrik'",),
        ("Experiment()", "conftest.py:13"),
        ("'metric'",),
        declared={"further": "metrik=right_label,"},
    ),
    Mistake(
        "a misspelt argument of Stage",
        ("takes no 'teachr'",),
        ("Stage()", "conftest.py:19"),
        ("'teacher'",),
        declared={"stages": "Stage('taught', dspy.LabeledFewShot(k=3), teachr='baseline')"},
    ),
    Mistake(
        "an optimizer's class",
        ("optimizer is the class MIPROv2",),
        ("conftest.py:19", "'taught'"),
        ("MIPROv2(metric=...)",),
        declared={"stages": "Stage('taught', dspy.MIPROv2)"},
    ),
    Mistake(
        "an optimizer's class inside BetterTogether",
        ("Optimizer 'w'", "got type"),
        ("conftest.py:19",),
        ("must be a Teleprompter",),
        declared={"stages": "Stage('both', dspy.BetterTogether(metric=right_label, w=dspy.BootstrapFinetune))"},
    ),
    Mistake(
        "a stage that is named twice",
        ("two stages are named 'a'",),
        ("conftest.py:13", "tickets"),
        ("rename",),
        declared={"stages": "Stage('a'), Stage('a')"},
    ),
    Mistake(
        "a teacher that is no stage",
        ("teacher='basline'", "no stage"),
        ("conftest.py:13", "'taught'"),
        ("'baseline'",),
        declared={"stages": "Stage('taught', dspy.BootstrapFewShot(metric=right_label), teacher='basline')"},
    ),
    Mistake(
        "stages in a circle",
        ("circle: a -> b -> a",),
        ("conftest.py:13", "tickets"),
        ("start=",),
        declared={"stages": "Stage('a', start='b'), Stage('b', start='a')"},
    ),
    Mistake(
        "a stage's name with a hyphen",
        ("'fine-tuned' cannot be used in a gate",),
        ("conftest.py:19",),
        ("'fine_tuned'",),
        declared={"stages": "Stage('fine-tuned')"},
    ),
    Mistake(
        "one stage for a list of stages",
        ("stages must be a list", "Stage"),
        ("parity.py:114", "tickets"),
        ("stages=[Stage(",),
        files={
            "conftest.py": "import dspy, pytest\nfrom parity import make_experiment\n"
            "from pytest_dspy_ft import Stage\n\n@pytest.fixture\n"
            "def dspy_experiment():\n    return make_experiment('tickets', stages=Stage('a'))\n"
        },
    ),
    Mistake(
        "a stage declared where conftest.py is loaded",
        ("'not a name' cannot be used",),
        ("conftest.py:10",),
        ("'not_a_name'",),
        declared={"above": "\nBAD = Stage('not a name')\n"},
    ),
    Mistake(
        "inputs that no example has",
        ("'question' is an input of no example",),
        ("conftest.py:", "tickets"),
        ("(text)", "inputs=[...]"),
        declared={"above": _OTHER_INPUTS, "program": "dspy.Predict(Question)"},
    ),
    Mistake(
        "two experiments of one name",
        ("two experiments are named 'parity'",),
        ("one/conftest.py:4", "two/conftest.py:4"),
        ("rename",),
        files={
            "conftest.py": "",
            "test_it.py": "",
            **{
                f"{folder}/conftest.py": "import pytest\nfrom parity import make_experiment\n\n@pytest.fixture\n"
                "def dspy_experiment():\n    return make_experiment()\n"
                for folder in ("one", "two")
            },
            **{
                f"{folder}/test_{folder}.py": "import pytest\n\n@pytest.mark.dspy_gate('baseline >= 40%')\n"
                "def test_it(): ...\n"
                for folder in ("one", "two")
            },
        },
    ),
)
