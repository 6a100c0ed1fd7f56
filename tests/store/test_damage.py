"""Damage of any file of a store: nothing changes in the numbers, or it is said and made again; never a raw error."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.store.inventory import take_inventory
from pytest_dspy_ft.store.record import record_of_store
from pytest_dspy_ft.store.store import Store, StoreWarning
from tests.store.helpers import DAMAGES, ladder, measured, names


def damaged_in_turn(
    filled: tuple[Path, dict[str, Any]], store: Path, files: list[str], damage: Callable[[Path], Any]
) -> list[str]:
    """Damage one file after the other, each in a whole store; gives those of which nothing was said."""
    source, expected = filled
    silent = []
    for name in files:
        shutil.copytree(source, store)
        before = (store / name).read_bytes()
        damage(store / name)
        if not (store / name).is_file() or (store / name).read_bytes() != before:
            assert record_of_store(take_inventory(store)), name
            found, said = measured(store)
            assert found == expected, name
            if not said:
                silent.append(name)
        shutil.rmtree(store)
    return silent


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_no_flipped_byte_changes_a_number(filled: tuple[Path, dict[str, Any]], tmp_path: Path, share: float) -> None:
    files = names(filled[0])
    kinds = {Path(name).name for name in files}
    assert {"manifest.json", "current.json", "program.json", "bootstrap.json", "refused.json"} <= kinds
    assert any(name.endswith(".partial.jsonl") for name in files)

    def flipped(path: Path) -> None:
        data = path.read_bytes()
        at = int(len(data) * share)
        while data[at : at + 1].isspace():
            at += 1
        path.write_bytes(data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :])

    silent = damaged_in_turn(filled, tmp_path / "store", files, flipped)
    # Outputs are read where scores are missing, collections where builds are: tests/ladder/test_scored_again.py and
    # test_kept_traces.py damage them.
    silent = [name for name in silent if not name.startswith(("outputs/", "collections/"))]
    assert [name for name in silent if not name.startswith("traces/") or "refused.json" in name] == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_other_damage_changes_a_number(filled: tuple[Path, dict[str, Any]], tmp_path: Path, damage: str) -> None:
    files = [n for n in names(filled[0]) if "few" in n or n.startswith(("evaluations/scripted/tuned", "traces"))]
    silent = damaged_in_turn(filled, tmp_path / "store", files, DAMAGES[damage])
    if damage in ("digits", "empty", "zeros", "a list", "a folder", "a dangling link"):
        # Of the files of refused traces, only the note and the records decide anything.
        told = {name for name in files if name.startswith("stages") or "refused.json" in name}
        assert not told & set(silent)


def test_damage_is_said_once_and_mended(filled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(filled[0], store)
    for name in names(store):
        DAMAGES["digits"](store / name)
    assert measured(store)[1]
    assert measured(store) == (filled[1], [])


def swap(root: Path, one: str, two: str) -> None:
    [a], [b] = root.glob(one), root.glob(two)
    if b.is_dir():
        shutil.rmtree(b)
        shutil.copytree(a, b)
    else:
        shutil.copyfile(a, b)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("evaluations/scripted/baseline/dev-*.json", "evaluations/scripted/tuned/dev-*.json"),
        ("stages/scripted/baseline/*/*/manifest.json", "stages/scripted/few/*/*/manifest.json"),
        ("stages/scripted/baseline/*/current.json", "stages/scripted/few/*/current.json"),
        ("stages/scripted/baseline/*/*/program.json", "stages/scripted/few/*/*/program.json"),
        ("stages/scripted/baseline/*", "stages/scripted/few/*"),
        ("stages/scripted/few/*/*/", "stages/scripted/tuned/*/*/"),
    ],
)
def test_a_file_in_anothers_place_is_not_believed(
    filled: tuple[Path, dict[str, Any]], tmp_path: Path, one: str, two: str
) -> None:
    source, expected = filled
    store = tmp_path / "store"
    shutil.copytree(source, store)
    swap(store, one, two)
    found, said = measured(store)
    assert found == expected
    assert said


def test_a_journal_in_anothers_place_is_not_believed(store_with_journal: tuple[Store, Any]) -> None:
    store, result = store_with_journal
    [file] = store.root.rglob("*.partial.jsonl")
    other = file.with_name(file.name.replace("dev-", "test-"))
    shutil.copyfile(file, other)
    place = (result.experiment, result.stage, "test", result.key)
    with pytest.warns(StoreWarning, match="its evaluation"), store.journal(*place) as journal:
        assert journal.done == {}


@pytest.fixture
def store_with_journal(filled: tuple[Path, dict[str, Any]], tmp_path: Path) -> tuple[Store, Any]:
    shutil.copytree(filled[0], tmp_path / "store")
    store = Store(tmp_path / "store")
    return store, ladder(tmp_path / "other").evaluate("few", "dev")


def test_whole_lines_of_a_damaged_journal_stay(store_with_journal: tuple[Store, Any]) -> None:
    store, result = store_with_journal
    [journal] = store.root.rglob("*.partial.jsonl")
    lines = journal.read_text().splitlines()
    text = "\n".join([lines[0], lines[1].replace('"score": 1.0', '"score": 0.5'), lines[2], lines[2][:40]])
    journal.write_text(text)
    place = (result.experiment, result.stage, "dev", result.key)
    stack = contextlib.ExitStack()
    with pytest.warns(StoreWarning, match=r"line 2: its checksum.*copied to .*set_aside"):
        opened = stack.enter_context(store.journal(*place))
    with stack:
        assert set(opened.done) == {result.examples[0].id, result.examples[2].id}
        opened.add(result.examples[3])
    with store.journal(*place) as again:
        assert len(again.done) == 3
    assert [p.read_text() for p in (store.root / "set_aside").iterdir()] == [text], "all of it is kept"


@pytest.mark.parametrize("part", ["stages", "evaluations", "locks", "work", "set_aside", "stages/scripted/few"])
def test_a_file_where_a_folder_should_be(filled: tuple[Path, dict[str, Any]], tmp_path: Path, part: str) -> None:
    source, expected = filled
    store = tmp_path / "store"
    shutil.copytree(source, store)
    if (store / part).exists():
        shutil.rmtree(store / part)
    (store / part).write_text("")
    assert measured(store)[0] == expected
    assert measured(store) == (expected, [])
