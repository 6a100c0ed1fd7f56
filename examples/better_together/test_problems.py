"""The gates of the ladder. Each set holds for the LMs it names."""

import pytest

# The docs' expectations, for the docs' model.


@pytest.mark.dspy_gate("baseline >= 42%", lm="openai/*")
def test_hosted_baseline(): ...


@pytest.mark.dspy_gate("prompt_optimized >= 58%", lm="openai/*")
def test_hosted_prompt_optimized(): ...


@pytest.mark.dspy_gate("finetuned >= 61%", lm="openai/*")
def test_hosted_finetuned(): ...


@pytest.mark.dspy_gate("better_together >= 71%", lm="openai/*")
@pytest.mark.dspy_gate("better_together >= max(prompt_optimized, finetuned) + 10%", lm="openai/*")
def test_hosted_better_together(): ...


# What the embedded LM was measured to reach with three seeds, with a margin: README.md has the figures.


@pytest.mark.dspy_gate("baseline <= 5%", on="test", lm="local:*")
def test_embedded_baseline(): ...


@pytest.mark.dspy_gate("prompt_optimized >= baseline + 10%", on="test", lm="local:*")
def test_embedded_prompt_optimized(): ...


@pytest.mark.dspy_gate("finetuned >= prompt_optimized + 10%", on="test", lm="local:*")
def test_embedded_finetuned(): ...


@pytest.mark.dspy_gate("better_together >= max(prompt_optimized, finetuned) - 5%", on="test", lm="local:*")
@pytest.mark.dspy_gate("better_together >= prompt_optimized + 15%", on="test", lm="local:*")
@pytest.mark.dspy_gate("unparsed(better_together) <= 5%", on="test", lm="local:*")
def test_embedded_better_together(): ...


# What holds for a small run too: `pytest examples --dspy-stage=all --dspy-limit=40 -m tour`.


@pytest.mark.tour
@pytest.mark.dspy_gate("errors(better_together) <= 0%", on="test", lm="local:*")
@pytest.mark.dspy_gate("unparsed(better_together) <= 25%", on="test", lm="local:*")
@pytest.mark.dspy_gate("unparsed(finetuned) <= 25%", on="test", lm="local:*")
def test_the_format_is_learned(): ...
