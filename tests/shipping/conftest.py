"""A store whose ladder was measured and gated, once for all tests, and what exports and loads from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PARITY
from tests.plugin.projects import FULL
from tests.shipping.exports import CONFTEST, GATES


@pytest.fixture(scope="session")
def _gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated")
    for name, text in (("parity.py", PARITY), ("conftest.py", CONFTEST), ("test_it.py", GATES)):
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", FULL, "--dspy-report=run.json", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    return folder


@pytest.fixture
def gated(project: pytest.Pytester, _gated: Path) -> pytest.Pytester:
    """A project whose whole ladder was gated, with its store and its record ``run.json``."""
    shutil.copytree(_gated, project.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return project
