"""A program with a retriever in it: known by its texts, kept with the program, the same when it comes back."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, Ladder, Stage
from pytest_dspy_ft.build import copy_program
from pytest_dspy_ft.fingerprint import fingerprint
from tests.core.scripted import CHAT, reply, scripted_lm

EXAMPLE = Path(__file__).parents[2] / "examples" / "rag_distillation"
TEXTS = (
    "The Wren measures soil moisture.",
    "The Thrush measures air.",
    "Error F-03: no water.",
    "Part FW-10 is brass.",
)


@pytest.fixture(scope="module")
def rag():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        module = importlib.import_module("rag")
    del sys.modules["rag"]
    return module


def make(rag, texts=TEXTS, k=2):
    return rag.RAG(rag.Passages(texts, k), dspy.Predict(rag.AnswerFromDocs))


def first_passage(fields, request):
    """An LM that answers with the first passage it is shown."""
    return reply(answer=fields["context"].split("\n\n")[0])


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
        lm = scripted_lm(first_passage)
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
