"""The filled store that tests copy and damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.store.store import Store
from tests.store.helpers import ladder, numbers_of


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A store with all that sessions leave there, also of an evaluation that was interrupted; and what it says."""
    root = tmp_path_factory.mktemp("filled") / "store"
    made = ladder(root)
    expected = numbers_of(made)
    result = made.evaluate("few", "dev")
    place = ("scripted", "few", "dev", result.key)
    [file] = (root / "evaluations" / "scripted" / "few").glob("dev-*.json")
    file.unlink()
    with Store(root).journal(*place) as journal:  # type: ignore[arg-type]
        for example in result.examples[:3]:
            journal.add(example)
    return root, expected
