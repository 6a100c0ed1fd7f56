"""Regression tests and quality gates for DSPy programs.

The public names are loaded when they are first used: a pytest session that does not use the plugin pays for none of
them. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_dspy_ft.dataset import Dataset
    from pytest_dspy_ft.errors import (
        DspyFtError,
        DspyFtWarning,
        LeakageWarning,
        MeasurementWarning,
        ResolutionWarning,
    )
    from pytest_dspy_ft.experiment import Experiment, Stage
    from pytest_dspy_ft.gates import Gate
    from pytest_dspy_ft.ladder import Ladder
    from pytest_dspy_ft.lms import resolve_lm
    from pytest_dspy_ft.optimizers import LabeledFinetune
    from pytest_dspy_ft.results import StageResult

__version__ = "0.1.0"

__all__ = [
    "Dataset",
    "DspyFtError",
    "DspyFtWarning",
    "Experiment",
    "Gate",
    "LabeledFinetune",
    "Ladder",
    "LeakageWarning",
    "MeasurementWarning",
    "ResolutionWarning",
    "Stage",
    "StageResult",
    "resolve_lm",
]

_HOMES = {
    "Dataset": "dataset",
    "DspyFtError": "errors",
    "DspyFtWarning": "errors",
    "Experiment": "experiment",
    "Gate": "gates",
    "LabeledFinetune": "optimizers",
    "Ladder": "ladder",
    "LeakageWarning": "errors",
    "MeasurementWarning": "errors",
    "ResolutionWarning": "errors",
    "Stage": "experiment",
    "StageResult": "results",
    "resolve_lm": "lms",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"pytest_dspy_ft.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
