"""Keys are what they were: a store made today is found by the code of tomorrow.

``keys.json`` holds them with a digest of each part, so that a diff says which part changed; ``DSPY_FT_GOLDEN=write``
writes it anew. A key depends on the versions of Python and DSPy by design: with others than those noted in the file
there is nothing to compare.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest

from tests.golden import declarations, snapshots

FILE = Path(__file__).with_name("keys.json")
LOCAL = Path(__file__).with_name("keys_local.json")
REPOSITORY = FILE.parents[2]
VERSIONS = {"python": "{}.{}".format(*sys.version_info), "dspy": dspy.__version__}


def check(file: Path, keys: dict[str, Any]) -> None:
    if not snapshots.WRITE and (noted := json.loads(file.read_text("utf-8"))["versions"]) != VERSIONS:
        pytest.skip(f"the keys noted are those of {noted}")
    snapshots.check(file, json.dumps({"versions": VERSIONS, **keys}, indent=1) + "\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def keys(here: Path) -> dict[str, Any]:
    return declarations.snapshot(here)


def test_keys_are_as_noted(keys: dict[str, Any]) -> None:
    check(FILE, keys)


def test_keys_differ_where_declarations_do(keys: dict[str, Any]) -> None:
    of_one = [stage["key"] for stage in keys["recipes"]["stages"].values()]
    assert len(set(of_one)) == len(of_one)
    assert keys["recipes"]["seed"]["few"]["key"] != keys["recipes"]["stages"]["few"]["key"]
    assert len(set(keys["evaluations"].values())) == len(keys["evaluations"])


def test_keys_are_those_of_any_process(keys: dict[str, Any], tmp_path: Path) -> None:
    """Another working directory, another hash seed, another process."""
    script = "import json, pathlib; from tests.golden.declarations import snapshot; print(json.dumps(snapshot({})))"
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    environment = os.environ | {"PYTHONHASHSEED": "4", "PYTHONPATH": str(REPOSITORY), "DSPY_CACHEDIR": str(folder)}
    line = [sys.executable, "-c", script.format("pathlib.Path('store')")]
    done = subprocess.run(line, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == keys


@pytest.mark.model
def test_keys_of_the_embedded_model(here: Path) -> None:
    check(LOCAL, declarations.local_snapshot())
