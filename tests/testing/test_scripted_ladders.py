"""``ScriptedLM`` in ladders: as student and teacher, fine-tuned, failing, priced, and measured anew when it changes."""

from __future__ import annotations

import pytest

from tests.plugin.projects import run

CONFTEST = """
import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Stage
from pytest_dspy_ft.testing import ScriptedLM, ScriptedReply

ROWS = [dspy.Example(text=f"message {n}.", topic="ab"[n % 2]).with_inputs("text") for n in range(40)]
RIGHT = {example.text: {"topic": example.topic} for example in ROWS}
ANSWERS = {**RIGHT, **{f"message {n}.": {"topic": "?"} for n in range(0, 40, 4)}}

def same(example, prediction, trace=None):
    return prediction.topic == example.topic

@pytest.fixture(scope="session")
def dspy_experiment():
    lm = ScriptedLM(ANSWERS, finetuned=RIGHT, price=(1.0, 2.0))
    return Experiment(
        "scripted",
        program=dspy.PROGRAM("text -> topic"),
        dataset=Dataset.from_examples(ROWS, split=(0.5, 0.25, 0.25)),
        metric=same,
        lm=lm,
        stages=[STAGES],
    )
"""
LABELS = 'Stage("finetuned", LabeledFinetune(metric=same))'
TAUGHT = """
    Stage("strong", lm=ScriptedLM(RIGHT, name="strong", price=(100.0, 200.0))),
    Stage("finetuned", dspy.BootstrapFinetune(metric=same), teacher="strong"),
"""


def make(project: pytest.Pytester, stages: str = LABELS, program: str = "Predict", **changes: str) -> None:
    text = CONFTEST.replace("STAGES", stages).replace("PROGRAM", program)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    project.makeconftest(text)


GATES = """
import pytest

@pytest.mark.dspy_gate("baseline >= 70%")
@pytest.mark.dspy_gate("finetuned >= baseline + 20%")
def test_it(dspy_finetuned):
    assert dspy_finetuned(text="message 0.").topic == "a"
"""


@pytest.mark.parametrize(("stages", "program"), [(LABELS, "Predict"), (TAUGHT, "Predict"), (TAUGHT, "ChainOfThought")])
def test_a_ladder_to_the_fine_tuned_script(project: pytest.Pytester, stages: str, program: str) -> None:
    make(project, stages, program)
    project.makepyfile(test_it=GATES)
    result = run(project, "--dspy-stage=finetune")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*finetuned *dev *100.0%*"])
    again = run(project, "--dspy-stage=finetune")
    again.assert_outcomes(passed=1)
    again.stdout.fnmatch_lines(["* 0 built, * loaded · 0 LM calls *"])


def test_another_answer_is_measured_anew(project: pytest.Pytester) -> None:
    make(project)
    project.makepyfile(test_it=GATES)
    run(project, "--dspy-stage=finetune").assert_outcomes(passed=1)
    (project.path / "conftest.py").write_text(
        (project.path / "conftest.py").read_text("utf-8").replace('{"topic": "?"}', '{"topic": "c"}'), "utf-8"
    )
    plan = run(project, "--dspy-stage=finetune", "--dspy-plan")
    plan.stdout.fnmatch_lines(["*measure baseline on dev*"])
    assert "load" not in plan.stdout.str().split("dspy plan")[-1].split("estimated from")[-1]


def test_failures_are_told_apart(project: pytest.Pytester) -> None:
    answers = """{
        **RIGHT,
        "message 20.": "no.",
        "message 21.": ScriptedReply(outputs={"topic": "b"}, cut_off=True),
        "message 22.": ValueError("out of paper"),
    }"""
    make(project, "", **{"ScriptedLM(ANSWERS": f"ScriptedLM({answers}"})
    project.makepyfile(
        test_it="""
        def test_it(dspy_evaluate):
            result = dspy_evaluate("baseline", on="dev")
            assert (result.n, result.unparsed, result.errors) == (10, 2, 1)
            assert sum(example.cut_off for example in result.examples) >= 1
            assert [e.error for e in result.examples if e.outcome == "error"][0].endswith("out of paper")
        """
    )
    result = run(project)
    result.assert_outcomes(passed=1)


def test_costs_and_latencies_are_those_given(project: pytest.Pytester) -> None:
    answers = 'lambda inputs: ScriptedReply(outputs=RIGHT[inputs["text"]], input_tokens=1000, output_tokens=500)'
    make(project, "", **{"ScriptedLM(ANSWERS": f"ScriptedLM({answers}, seconds=0.05"})
    project.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.dspy_gate("cost(baseline) <= 0.002")
        @pytest.mark.dspy_gate("cost(baseline) >= 0.002")
        @pytest.mark.dspy_gate("tokens(baseline) >= 1500")
        @pytest.mark.dspy_gate("latency(baseline) >= 0.05")
        def test_it(): ...
        """
    )
    run(project).assert_outcomes(passed=1)
