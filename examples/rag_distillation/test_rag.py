"""The gates of the ladder. Each set holds for the LMs it names; `baseline` is the student before any training."""

import pytest

# The docs' expectations, for the docs' models.


@pytest.mark.dspy_gate("teacher_optimized >= 82%", lm="openai/*")
def test_hosted_teacher(): ...


@pytest.mark.dspy_gate("baseline >= 62%", lm="openai/*")
def test_hosted_student(): ...


@pytest.mark.dspy_gate("student_finetuned >= 76%", lm="openai/*")
@pytest.mark.dspy_gate("student_finetuned >= 93% * teacher_optimized", lm="openai/*")
def test_hosted_quality(): ...


# Not the docs' 15 or 33: README.md says why. A fine-tuned gpt-4o-mini costs 2.50 / 0.30 = 8.3 times less per token than
# gpt-4o, for input and output alike; the teacher's longer prompt comes on top.
@pytest.mark.dspy_gate("cost(student_finetuned) <= cost(teacher_optimized) / 8", lm="openai/*")
@pytest.mark.dspy_gate("tokens(student_finetuned) <= tokens(teacher_optimized)", lm="openai/*")
def test_hosted_cost(): ...


# What the embedded LM was measured to reach with three seeds, with a margin: README.md has the figures.


@pytest.mark.dspy_gate("student_finetuned >= 93% * teacher_optimized", on="test", lm="local:*")
@pytest.mark.dspy_gate("student_finetuned >= baseline + 15%", on="test", lm="local:*")
@pytest.mark.dspy_gate("unparsed(student_finetuned) <= 2%", on="test", lm="local:*")
def test_embedded_quality(): ...


@pytest.mark.dspy_gate("tokens(student_finetuned) <= tokens(teacher_optimized) / 2", on="test", lm="local:*")
def test_embedded_tokens(): ...


# What a small run must show already: the whole path runs, and the format is learned.


@pytest.mark.tour
@pytest.mark.dspy_gate("unparsed(student_finetuned) <= unparsed(baseline)", on="test", lm="local:*")
@pytest.mark.dspy_gate("tokens(student_finetuned) <= tokens(teacher_optimized)", on="test")
@pytest.mark.dspy_gate("errors(teacher_optimized) + errors(student_finetuned) <= 0%", on="test")
def test_tour(): ...
