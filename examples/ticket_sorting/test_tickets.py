"""The gates of the ladder. Each set holds for the LMs it names."""

import pytest

# The docs' expectations, for the docs' model.


@pytest.mark.dspy_gate("baseline >= 65%", lm="openai/*")
def test_hosted_baseline(): ...


@pytest.mark.dspy_gate("prompt_optimized >= 80%", lm="openai/*")
@pytest.mark.dspy_gate("prompt_optimized >= baseline + 10%", lm="openai/*")
def test_hosted_prompt_optimized(): ...


@pytest.mark.dspy_gate("finetuned >= 88%", on="test", lm="openai/*")
@pytest.mark.dspy_gate("finetuned >= prompt_optimized", on="test", lm="openai/*", confidence=0.95)
def test_hosted_finetuned(): ...


# What the embedded LM was measured to reach with three seeds, with a margin: README.md has the figures.


@pytest.mark.dspy_gate("prompt_optimized >= baseline + 10%", on="test", lm="local:*")
def test_embedded_prompt_optimized(): ...


@pytest.mark.dspy_gate("finetuned >= baseline + 40%", on="test", lm="local:*")
@pytest.mark.dspy_gate("finetuned >= prompt_optimized + 15%", on="test", lm="local:*")
@pytest.mark.dspy_gate("unparsed(finetuned) <= 2%", on="test", lm="local:*")
def test_embedded_finetuned(): ...


# What a small run must show already: the whole path runs, and the format is learned.


@pytest.mark.tour
@pytest.mark.dspy_gate("unparsed(finetuned) <= unparsed(baseline)", lm="local:*")
@pytest.mark.dspy_gate("errors(baseline) + errors(prompt_optimized) + errors(finetuned) <= 0%")
def test_tour(): ...


def test_known_ticket(dspy_finetuned):
    assert dspy_finetuned(text="We were charged twice for our subscription this month.").category == "billing"
