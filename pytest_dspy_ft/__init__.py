"""Regression tests and quality gates for DSPy programs.

The public names are loaded when they are first used: a pytest session that does not use the plugin pays for none of
them. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_dspy_ft.errors import DspyFtError, DspyFtWarning, LeakageWarning, MeasurementWarning, ResolutionWarning
    from pytest_dspy_ft.experiment.dataset import Dataset
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.experiment.optimizers import LabeledFinetune
    from pytest_dspy_ft.experiment.stage import Stage
    from pytest_dspy_ft.gates.gate import Gate
    from pytest_dspy_ft.ladder.ladder import Ladder
    from pytest_dspy_ft.lms.resolve import resolve_lm
    from pytest_dspy_ft.records.evaluation import StageResult

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
    "Dataset": "experiment.dataset",
    "DspyFtError": "errors",
    "DspyFtWarning": "errors",
    "Experiment": "experiment.experiment",
    "Gate": "gates.gate",
    "LabeledFinetune": "experiment.optimizers",
    "Ladder": "ladder.ladder",
    "LeakageWarning": "errors",
    "MeasurementWarning": "errors",
    "ResolutionWarning": "errors",
    "Stage": "experiment.stage",
    "StageResult": "records.evaluation",
    "resolve_lm": "lms.resolve",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"pytest_dspy_ft.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
