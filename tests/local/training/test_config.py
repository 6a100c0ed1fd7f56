"""Settings of a training."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.local.training.config import LoraTrainingConfig


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr": 1}, "unknown training setting 'lr'; here that is 'learning_rate'; choose from r, alpha"),
        ({"epochs": 0}, "epochs=0: must be a whole number at least 1"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: must be a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"learning_rate": "1e-3"}, "learning_rate='1e-3'"),
        ({"validation_fraction": 0.9}, "from 0 to 0.5"),
        ({"shared_prefix": "no"}, "must be True or False"),
    ],
)
def test_a_bad_setting_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        LoraTrainingConfig.from_kwargs(kwargs)
