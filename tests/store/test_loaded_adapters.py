"""Adapters that are loaded on servers, written down: what a killed session left is found, what a living one has not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pytest_dspy_ft.store.loaded_adapters import LoadedAdapters
from pytest_dspy_ft.store.store import Store
from tests.conftest import REPOSITORY

SESSION = """
import sys
from pytest_dspy_ft.store.loaded_adapters import LoadedAdapters
from pytest_dspy_ft.store.store import Store

notes = LoadedAdapters(Store(sys.argv[1]))
notes.note("http://gpu/v1", "one")
notes.note("http://gpu/v1", "two")
notes.forget("http://gpu/v1", "one")
print("noted", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_had_loaded_is_unloaded_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SESSION, str(tmp_path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=REPOSITORY) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == "noted\n"
        unloaded: list[str] = []
        notes = LoadedAdapters(Store(tmp_path))
        assert notes.clear_left_behind("http://gpu/v1", lambda name: not unloaded.append(name)) == []
        session.kill()
        session.wait()
        assert notes.clear_left_behind("http://gpu/v1", lambda name: False) == [], "the server did not answer"
        assert notes.clear_left_behind("http://gpu/v1", lambda name: not unloaded.append(name)) == ["two"]
        assert unloaded == ["two"]
    assert list((tmp_path / "served").iterdir()) == []


def test_a_damaged_note_is_left_alone(tmp_path: Path) -> None:
    notes = LoadedAdapters(Store(tmp_path))
    notes.note("http://gpu/v1", "one")
    notes.close()
    (path,) = (tmp_path / "served").glob("*.json")
    path.write_text(path.read_text().replace('"one"', '"two"'))
    assert LoadedAdapters(Store(tmp_path)).clear_left_behind("http://gpu/v1", lambda name: True) == []
    assert path.is_file()
