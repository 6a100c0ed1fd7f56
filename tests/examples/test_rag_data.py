"""The documentation of the rag_distillation example: reproducible, one passage to a question, no leakage."""

from __future__ import annotations

import importlib
import json
import re
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "rag_distillation"
MODULES = ("generate_docs", "rag", "check_docs")


@pytest.fixture(scope="module")
def example() -> SimpleNamespace:
    """The example's scripts as modules, imported as if run from their folder and forgotten again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        loaded = {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:
        del sys.modules[name]
    return SimpleNamespace(**loaded)


@pytest.fixture(scope="module")
def docs(example):
    return example.generate_docs.generate()


def names_in(text, names):
    """Which of the names a text holds, as words of their own."""
    return {name for name in names if re.search(rf"(?<![\w/-]){re.escape(name)}(?![\w/-])", text, re.IGNORECASE)}


def test_the_generator_writes_the_files_byte_for_byte(example, docs):
    module = example.generate_docs
    assert module.to_json(docs.passages).encode() == (EXAMPLE / "passages.json").read_bytes()
    assert module.to_json(module.question_rows(docs)).encode() == (EXAMPLE / "questions.json").read_bytes()


def test_another_seed_gives_other_questions(example, docs):
    other = example.generate_docs.generate(seed=1)
    assert [q.question for q in other.questions["test"]] != [q.question for q in docs.questions["test"]]


def test_a_thousand_questions_in_the_docs_splits(docs):
    assert {split: len(asked) for split, asked in docs.questions.items()} == {"train": 800, "dev": 100, "test": 100}
    rows = json.loads((EXAMPLE / "questions.json").read_text(encoding="utf-8"))
    assert len({row["question"] for row in rows}) == 1000
    assert all(list(row) == ["question", "answer"] for row in rows)


def test_passages_are_short_and_all_different(docs):
    assert len(set(docs.passages)) == len(docs.passages) == 216
    assert all(25 <= len(text.split()) <= 45 for text in docs.passages)


def test_answers_are_spans_of_their_passage(docs):
    for asked in docs.questions.values():
        for question in asked:
            assert question.answer.lower() in docs.passages[question.passage].lower(), question
            assert len(question.answer.split()) <= 10


def test_each_name_and_each_way_back_belongs_to_one_passage(example, docs):
    """So no second passage can answer: a question holds the name, or the one fact that leads back to it."""
    subjects = example.generate_docs.read_subjects()
    names = {subject.name for subject in subjects}
    assert len(names) == len(subjects)
    holders = [name for text in docs.passages for name in names_in(text, names)]
    assert sorted(holders) == sorted(names)
    for kind in {subject.kind for subject in subjects}:
        clues = [dict(subject.facts)["a"] for subject in subjects if subject.kind == kind]
        assert len(set(clues)) == len(clues), kind


def test_a_question_names_its_subject_or_asks_for_it(example, docs):
    names = {subject.name for subject in example.generate_docs.read_subjects()}
    for asked in docs.questions.values():
        for question in asked:
            [subject] = names_in(docs.passages[question.passage], names)
            assert names_in(question.question, names) <= {subject}, question
            assert (question.answer == subject) == (question.about == "i"), question
            assert (subject in question.question) == (question.about != "i"), question


def test_splits_share_no_passage(docs):
    used = [{q.passage for q in asked} for asked in docs.questions.values()]
    assert [len(passages) for passages in used] == [160, 20, 20]
    for one, other in combinations(used, 2):
        assert not one & other


def test_every_kind_of_subject_is_in_every_split(example, docs):
    kinds = {subject.name: subject.kind for subject in example.generate_docs.read_subjects()}
    for asked in docs.questions.values():
        found = {kinds[q.answer] for q in asked if q.about == "i"}
        assert found == set(kinds.values())


def test_no_near_copies_across_splits(example, docs):
    questions = {split: [q.question for q in asked] for split, asked in docs.questions.items()}
    score, *pair = example.check_docs.nearest_across(questions, top=1)[0]
    assert score < example.check_docs.THRESHOLD, pair


def test_nearest_across_finds_a_near_copy(example, docs):
    questions = {split: [q.question for q in asked] for split, asked in docs.questions.items()}
    text = max(questions["train"], key=len)
    questions["test"][0] = f"Now {text}"
    score, *pair = example.check_docs.nearest_across(questions, top=1)[0]
    assert score > example.check_docs.THRESHOLD
    assert pair == [text, f"Now {text}"]


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_retrieval_finds_the_passage_that_answers_nearly_always(example, docs, split):
    found = example.check_docs.found(docs, split, example.rag.Passages(docs.passages))
    assert 0.88 <= sum(found) / len(found) < 1.0


@pytest.mark.parametrize(
    ("gold", "answered", "score"),
    [
        ("14 months", "14 Months", 1.0),
        ("14 months", "14", 2 / 3),
        ("14 months", "about 14 months long", 2 / 3),
        ("14 months", "never", 0.0),
        ("14 months", "", 0.0),
    ],
)
def test_token_f1(example, gold, answered, score):
    import dspy

    assert example.rag.token_f1(dspy.Example(answer=gold), dspy.Prediction(answer=answered)) == pytest.approx(score)
