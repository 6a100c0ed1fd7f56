from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dspy_ft.finetune.launched import local_processes
from tests.finetune.launched.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.allow(1000)
    local_processes.end(made.folder)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of services in the path; gives the service's folder."""
    programs, home = tmp_path / "bin", tmp_path / "service"
    programs.mkdir()
    home.mkdir()
    text = Path(__file__).with_name("programs.py").read_text("utf-8")
    for name in ("hf", "sky", "aws", "sbatch", "sacct", "scancel", "python"):
        (programs / name).write_text(f"#!{sys.executable}\n{text}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SERVICE", str(home))
    return home
