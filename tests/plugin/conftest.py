"""Fixtures of the plugin's tests: a project with a baseline, measured once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PARITY
from tests.plugin.projects import FILE, FULL, GATES, SAVE

CONFTEST = """
import pytest
from parity import make_experiment

@pytest.fixture(scope="session")
def dspy_experiment():
    return make_experiment()
"""


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole ladder was measured and saved, once for all tests."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "parity.py").write_text(PARITY)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(GATES)
    command = [sys.executable, "-m", "pytest", FULL, SAVE, "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert f"baseline saved to {folder / FILE}" in done.stdout
    return folder


@pytest.fixture
def saved(project: pytest.Pytester, measured: Path) -> pytest.Pytester:
    """A project whose baseline holds the whole ladder, measured and saved."""
    shutil.copytree(measured, project.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return project
