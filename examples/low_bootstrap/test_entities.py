"""The gates of the ladder. Each set holds for the LMs it names."""

import pytest

from pytest_dspy_ft import DspyFtError

# The docs' expectations, for the docs' models.


@pytest.mark.dspy_gate("baseline >= 30%", lm="openai/*")
def test_hosted_baseline(): ...


@pytest.mark.dspy_gate("bootstrap_rate(finetuned_strong_teacher) >= 60%", lm="openai/*")
@pytest.mark.dspy_gate("finetuned_strong_teacher >= 55%", lm="openai/*")
@pytest.mark.dspy_gate("finetuned_strong_teacher >= baseline + 20%", lm="openai/*")
def test_hosted_strong_teacher(): ...


@pytest.mark.dspy_gate("bootstrap_rate(finetuned_lenient) >= bootstrap_rate(finetuned_self)", lm="openai/*")
@pytest.mark.dspy_gate("finetuned_lenient >= 48%", lm="openai/*")
@pytest.mark.dspy_gate("finetuned_lenient >= baseline + 15%", lm="openai/*")
def test_hosted_lenient(): ...


# What the embedded LM was measured to reach with three seeds, with a margin: README.md has the figures.


@pytest.mark.dspy_gate("unparsed(baseline) >= 90%", on="test", lm="local:*")
def test_embedded_baseline_cannot_be_read(): ...


@pytest.mark.dspy_stage("finetuned_self")
def test_embedded_model_cannot_teach_itself(dspy_ladder):
    """The problem that the example is about: the stage is refused before it trains, and says why and what helps."""
    if not dspy_ladder.experiment.lm.model.startswith("local:"):
        pytest.skip("a hosted model keeps the format, and may well teach itself")
    with pytest.raises(DspyFtError) as refused:
        dspy_ladder.build("finetuned_self")
    message = str(refused.value)
    assert "at least 10 are needed" in message
    assert "what helps:\n    1. a teacher that keeps the format of the reply" in message


@pytest.mark.dspy_gate("finetuned_strong_teacher >= baseline + 20%", on="test", lm="local:*")
@pytest.mark.dspy_gate("tokens(finetuned_strong_teacher) <= tokens(strong) / 2", on="test", lm="local:*")
def test_embedded_strong_teacher(): ...


@pytest.mark.dspy_gate(
    "bootstrap_rate(finetuned_lenient) >= bootstrap_rate(finetuned_strong_teacher) + 15%", lm="local:*"
)
@pytest.mark.dspy_gate("finetuned_lenient >= baseline + 15%", on="test", lm="local:*")
def test_embedded_lenient(): ...


@pytest.mark.dspy_gate("finetuned_labels >= finetuned_strong_teacher", on="test", lm="local:*")
@pytest.mark.dspy_gate("finetuned_labels >= baseline + 30%", on="test", lm="local:*")
def test_embedded_labels(): ...


# What holds for a small run too.


@pytest.mark.tour
@pytest.mark.dspy_gate("errors(finetuned_labels) <= 0%", on="test", lm="local:*")
@pytest.mark.dspy_gate("unparsed(finetuned_labels) <= 20%", on="test", lm="local:*")
def test_tour(): ...
