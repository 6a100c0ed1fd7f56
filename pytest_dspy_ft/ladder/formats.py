"""Whether replies can be kept to an adapter's format, found out before anything is asked."""

from __future__ import annotations

from typing import Any

from pytest_dspy_ft.constants import IN_ADAPTERS_FORMAT
from pytest_dspy_ft.errors import ExperimentError, LMError
from pytest_dspy_ft.evaluation.binding import predictor_lms
from pytest_dspy_ft.evaluation.programs import adapter_of
from pytest_dspy_ft.experiment.experiment import Experiment


def check_formats(experiment: Experiment, stage: str, program: Any, lm: Any) -> None:
    """Refuse a program whose replies are to be kept to a format that its adapter does not have.

    Args:
        experiment: The experiment.
        stage: What is measured or built, for the message.
        program: Its program.
        lm: The LM that predictors without one of their own ask.

    Raises:
        ExperimentError: With the adapter, the field, and what would be right.
    """
    lms = predictor_lms(program, lm)
    if not any(map(is_constrained, lms.values())):
        return
    from pytest_dspy_ft.local.inference.reply_grammar import format_grammar

    for name, predictor in program.named_predictors():
        if is_constrained(lms[name]):
            try:
                format_grammar(adapter_of(experiment), predictor.signature)
            except LMError as error:
                raise ExperimentError(
                    f"stage {stage!r}, predictor {name!r}: {error}; or leave out --dspy-constrain"
                ) from None


def is_constrained(lm: Any) -> bool:
    """True for an LM whose replies keep to the format of the adapter that asks."""
    return bool(getattr(lm, "kwargs", {}).get("response_format") == IN_ADAPTERS_FORMAT)
