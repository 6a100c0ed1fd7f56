"""Prompts that a predictor will be asked, as its experiment's adapter writes them; no LM is called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest_dspy_ft.evaluation.programs import adapter_of
from pytest_dspy_ft.experiment.experiment import Experiment


def sample_prompts(experiment: Experiment, predictor: Any, examples: Iterable[Any]) -> list[Any]:
    """A predictor's prompts for a few examples, what other predictors give it left out.

    Returns:
        None of them, where an adapter or a field of the user's own does not allow it.
    """
    adapter, signature = adapter_of(experiment), predictor.signature
    prompts = []
    for example in examples:
        inputs = {field: example.get(field, "") for field in signature.input_fields}
        try:
            prompts.append(adapter.format(signature, predictor.demos, inputs))
        except Exception:  # a guess is not worth a failure
            return []
    return prompts
