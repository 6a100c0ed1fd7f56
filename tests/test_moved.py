"""Modules under the names they had in the documentation."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import pytest_dspy_ft
from pytest_dspy_ft.moved import NEW_HOMES, NEW_PLACES


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NEW_PLACES:
        monkeypatch.delitem(sys.modules, f"pytest_dspy_ft.{name}", raising=False)


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("lms", "resolve_lm", "lms.resolve"),
        ("gates", "Gate", "gates.gate"),
        ("experiment", "Stage", "experiment.stage"),
        ("store", "Store", "store.store"),
        ("ladder", "Ladder", "ladder.ladder"),
        ("budget", "Budget", "lms.budget"),
        ("execution", "Patience", "lms.patience"),
        ("hosted.provider", "HostedProvider", "finetune.hosted.provider"),
        ("near_duplicates", "near_duplicates", "experiment.near_duplicates"),
        ("results", "StageResult", "records.evaluation"),
        ("results", "RunRecord", "records.run"),
        ("saved", "read_record", "records.run_file"),
        ("baselines", "read_baseline", "records.baseline"),
        ("comparing", "compare", "gates.regression"),
        ("serving", "Serving", "lms.serving"),
        ("recording.recorder", "recording", "lms.calls"),
        ("prices", "Prices", "lms.prices"),
    ],
)
def test_what_the_documentation_named_is_found_with_a_warning(old: str, name: str, new: str) -> None:
    with pytest.deprecated_call(match="has moved to pytest_dspy_ft"):
        found = getattr(importlib.import_module(f"pytest_dspy_ft.{old}"), name)
    assert found is getattr(importlib.import_module(f"pytest_dspy_ft.{new}"), name)


def test_the_warning_names_the_line_that_imports_and_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(
        DeprecationWarning, match=r"pytest_dspy_ft\.saved has moved to pytest_dspy_ft\.records\.run_file"
    ) as told:
        from pytest_dspy_ft.saved import read_record
    assert [warning.filename for warning in told] == [__file__]
    from pytest_dspy_ft.saved import read_record as again

    assert read_record is again is pytest_dspy_ft.read_record


@pytest.mark.parametrize("old", NEW_PLACES)
def test_every_old_module_leads_somewhere(old: str) -> None:
    with pytest.deprecated_call(match="has moved to"):
        importlib.import_module(f"pytest_dspy_ft.{old}")
    for place in NEW_PLACES[old]:
        assert importlib.import_module(f"pytest_dspy_ft.{place}")


@pytest.mark.parametrize(("room", "name"), [(room, name) for room, names in NEW_HOMES.items() for name in names])
def test_every_name_that_a_room_gave_is_found(room: str, name: str) -> None:
    with pytest.deprecated_call(match="has moved to"):
        assert getattr(importlib.import_module(f"pytest_dspy_ft.{room}"), name) is not None


def test_unknown_names_are_not_found_as_always() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'pytest_dspy_ft\.nothing'"):
        importlib.import_module("pytest_dspy_ft.nothing")
    with pytest.deprecated_call(), pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from pytest_dspy_ft.prices import nothing  # noqa: F401


def test_every_public_name_is_found() -> None:
    assert all(getattr(pytest_dspy_ft, name) for name in pytest_dspy_ft.__all__)


def test_the_package_itself_imports_nothing_else() -> None:
    code = "import sys, pytest_dspy_ft; print(sorted(m for m in sys.modules if m.startswith('pytest_dspy_ft')))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "['pytest_dspy_ft', 'pytest_dspy_ft.moved', 'pytest_dspy_ft.version']"
