"""The bundled model, loaded once."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_dspy_ft.local import weights


@pytest.fixture(scope="package")
def smollm2() -> Any:
    return weights.load(weights.resolve_source(weights.BUNDLED_NAME), device="cpu", dtype="float32")


@pytest.fixture(scope="package")
def smollm2_bfloat16() -> Any:
    return weights.load(weights.resolve_source(weights.BUNDLED_NAME), device="cpu", dtype="bfloat16")
