"""Rows and examples for the tests of datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.experiment.dataset import Dataset

WHOLE = (1, 0, 0)


def rows(n: int) -> list[dict[str, str]]:
    return [{"text": f"ticket {i}", "category": "billing" if i % 2 else "other"} for i in range(n)]


def example(inputs: tuple[str, ...] = ("text",), **fields: Any) -> dspy.Example:
    return dspy.Example(**fields).with_inputs(*inputs)


def examples(n: int) -> list[dspy.Example]:
    return [example(**row) for row in rows(n)]


def refusal(path: Path | str, **arguments: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        Dataset.from_file(path, **{"inputs": ["text"], "split": WHOLE, **arguments})
    return str(caught.value)
