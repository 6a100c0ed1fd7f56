"""A store that was written before entries said what they rest on: ``store.json`` holds its files, path by path.

``DSPY_FT_GOLDEN=write`` makes the store anew with the code of the day, which ends its use as a witness: do not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import dspy
import pytest

from tests.golden import snapshots
from tests.golden.test_outputs import CONFTEST, project, session

FILE = Path(__file__).with_name("store.json")
VERSIONS = {"python": "{}.{}".format(*sys.version_info), "dspy": dspy.__version__}
GATES = """
import pytest

@pytest.mark.dspy_gate("baseline >= 40%")
def test_baseline(): ...

@pytest.mark.dspy_gate("prompt_optimized >= baseline + 20%")
def test_prompt_optimized(): ...

@pytest.mark.dspy_gate("bootstrap_rate(labelled) >= 90%")
@pytest.mark.dspy_gate("labelled >= prompt_optimized", on="dev")
def test_labelled(dspy_program):
    assert len(dspy_program("prompt_optimized").predictors()[0].demos) == 3
"""


def read_store(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_text("utf-8") for p in files}


def write_store(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = project(tmp_path / "project", GATES)
    conftest = CONFTEST.replace("make_experiment()", "make_experiment(dataset=few())") + FEW
    (folder / "conftest.py").write_text(conftest, encoding="utf-8")
    if snapshots.WRITE:
        assert "3 passed" in session(folder, "--dspy-stage=all")
        store = read_store(folder / ".dspy_ft")
        assert str(tmp_path) not in str(store)
        text = json.dumps({"versions": VERSIONS, "files": store}, indent=1, ensure_ascii=False)
        FILE.write_text(text + "\n", encoding="utf-8")
        (folder / "calls.log").unlink()
        (folder / ".dspy_ft").rename(folder / "made")
    noted = json.loads(FILE.read_text("utf-8"))
    if noted["versions"] != VERSIONS:
        pytest.skip(f"the store is of {noted['versions']}, which its keys hold")
    write_store(folder / ".dspy_ft", noted["files"])
    return folder


FEW = """
def few():
    from pytest_dspy_ft import Dataset
    from world import rows
    return Dataset(train=rows(range(12)), dev=rows(range(66, 76)))
"""


def test_a_store_of_earlier_code_is_not_believed_and_made_anew_once(old: Path) -> None:
    """Nothing in it says which code ran: it could be stale. Its keys are today's, so what was paid for is found."""
    keys = {path.relative_to(old) for path in (old / ".dspy_ft" / "stages").glob("*/*/*")}
    frozen = session(old, "--dspy-stage=all", "--dspy-frozen")
    assert "made before what it rests on was kept" in frozen
    assert "passed" not in frozen
    assert not (old / "calls.log").exists()
    anew = session(old, "--dspy-stage=all")
    assert "3 passed" in anew
    assert "baseline on dev was measured again (made before what it rests on was kept)" in anew
    assert " 3 built, 0 loaded" in anew
    assert {path.relative_to(old) for path in (old / ".dspy_ft" / "stages").glob("*/*/*")} == keys
    (old / "calls.log").unlink()
    frozen = session(old, "--dspy-stage=all", "--dspy-frozen")
    assert "3 passed" in frozen
    assert " 0 built, 3 loaded · 0 LM calls" in frozen
    assert not (old / "calls.log").exists()
