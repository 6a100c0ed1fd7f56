"""Predictions: where they keep their fields, their completions and what those took."""

from __future__ import annotations

from typing import Any, Final

import dspy

from pytest_dspy_ft.insides.needs import needed, there

with needed("to give stored predictions again"):
    from dspy.primitives.prediction import Completions

    there(Completions({"text": ["one"]})._completions, dspy.Prediction()._store)

FIELDS: Final = "_store"
COMPLETIONS: Final = "_completions"
USAGE: Final = "_lm_usage"
OWN: Final = (FIELDS, COMPLETIONS, USAGE)
"""Attributes that every prediction has."""


def columns_of(completions: Completions) -> Any:
    """The values of each field of several completions, by the field's name."""
    return completions._completions


__all__ = ["COMPLETIONS", "FIELDS", "OWN", "USAGE", "Completions", "columns_of"]
