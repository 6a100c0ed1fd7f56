"""A project in a folder of its own, with a store that one session has filled."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.provenance.sessions import forget, session, write
from tests.provenance.shop import FILES


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a store in it."""
    folder = tmp_path_factory.mktemp("measured")
    write(folder, FILES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setattr(sys, "dont_write_bytecode", True)
        assert not session().loaded
        forget("shop", "declare")
    return folder


@pytest.fixture
def shop(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, in another place, to be changed; the working directory."""
    folder = tmp_path / "checkout"
    shutil.copytree(measured, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    forget("shop", "declare")
