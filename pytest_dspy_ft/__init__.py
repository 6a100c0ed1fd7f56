"""Regression tests and quality gates for DSPy programs.

The public names are loaded when they are first used: a pytest session that does not use the plugin pays for none of
them. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.moved import MovedModules
from pytest_dspy_ft.version import __version__ as __version__

if TYPE_CHECKING:
    from pytest_dspy_ft.errors import (
        DatasetWarning,
        DspyFtError,
        DspyFtWarning,
        ExportError,
        ExportWarning,
        LeakageWarning,
        MeasurementWarning,
        ResolutionWarning,
        SplitWarning,
    )
    from pytest_dspy_ft.experiment.dataset import Dataset
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.experiment.optimizers import LabeledFinetune
    from pytest_dspy_ft.experiment.stage import Stage
    from pytest_dspy_ft.finetune.launched.choice import launcher_for
    from pytest_dspy_ft.gates.gate import Gate
    from pytest_dspy_ft.gates.regression import compare
    from pytest_dspy_ft.ladder.ladder import Ladder
    from pytest_dspy_ft.lms.resolve import resolve_lm
    from pytest_dspy_ft.lms.serving import Serving
    from pytest_dspy_ft.records.baseline import read_baseline
    from pytest_dspy_ft.records.evaluation import StageResult
    from pytest_dspy_ft.records.run_file import read_record
    from pytest_dspy_ft.shipping.loading import load

__all__ = [
    "Dataset",
    "DatasetWarning",
    "DspyFtError",
    "DspyFtWarning",
    "Experiment",
    "ExportError",
    "ExportWarning",
    "Gate",
    "LabeledFinetune",
    "Ladder",
    "LeakageWarning",
    "MeasurementWarning",
    "ResolutionWarning",
    "Serving",
    "SplitWarning",
    "Stage",
    "StageResult",
    "compare",
    "launcher_for",
    "load",
    "read_baseline",
    "read_record",
    "resolve_lm",
]

_HOMES = {
    "Dataset": "experiment.dataset",
    "DatasetWarning": "errors",
    "DspyFtError": "errors",
    "DspyFtWarning": "errors",
    "Experiment": "experiment.experiment",
    "ExportError": "errors",
    "ExportWarning": "errors",
    "Gate": "gates.gate",
    "LabeledFinetune": "experiment.optimizers",
    "Ladder": "ladder.ladder",
    "LeakageWarning": "errors",
    "MeasurementWarning": "errors",
    "ResolutionWarning": "errors",
    "Serving": "lms.serving",
    "SplitWarning": "errors",
    "Stage": "experiment.stage",
    "StageResult": "records.evaluation",
    "compare": "gates.regression",
    "launcher_for": "finetune.launched.choice",
    "load": "shipping.loading",
    "read_baseline": "records.baseline",
    "read_record": "records.run_file",
    "resolve_lm": "lms.resolve",
}


if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
    sys.meta_path.append(MovedModules())


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        if _HOMES[name].partition(".")[0] not in ("errors", "records"):
            importlib.import_module("pytest_dspy_ft.insides.needs").check()
        return getattr(importlib.import_module(f"pytest_dspy_ft.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
