"""The store: what was written is what is read, and what is damaged is never used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.checksums import seal
from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.records.usage import Usage
from pytest_dspy_ft.store.inventory import take_inventory
from pytest_dspy_ft.store.store import Store, StoreWarning

KEY = "k" * 32


def commit(store: Store, content: str = "one", *, key: str = KEY, stage: str = "tuned", **manifest: Any) -> Any:
    workspace = store.workspace("tickets", stage, key)
    (workspace / "program.json").write_text(json.dumps({"content": content}))
    (workspace / "adapters").mkdir()
    (workspace / "adapters" / "log.json").write_text("[1]")
    record = BuildRecord(experiment="tickets", stage=stage, kind="prompt", key=key, status="built").model_dump(
        mode="json"
    )
    basics = {"parts": {"seed": "0"}, "upstream": {}, "created": "2026-11-30T00:00:00Z", "record": record}
    return store.commit_build("tickets", stage, key, workspace, {**basics, **manifest})


def result(key: str = KEY, **changes: Any) -> StageResult:
    examples = (
        ExampleResult(id="a", score=1 / 3, prediction={"label": "ü", "n": [1, {"x": None}]}, usage=Usage(cost=None)),
        ExampleResult(id="b", score=0.0, outcome="unparsed", error="AdapterParseError: ?"),
    )
    fields = {"experiment": "tickets", "stage": "tuned", "on": "dev", "lm": "toy/a", "key": key, "examples": examples}
    return StageResult(**{**fields, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_build_comes_back(store: Store) -> None:
    made = commit(store, session="s")
    found = store.load_build("tickets", "tuned", KEY)
    assert found is not None
    assert found.digest == made.digest
    assert found.read("program.json") == {"content": "one"}
    assert found.manifest["session"] == "s"
    assert found.folder.is_relative_to(store.root)
    assert store.load_build("tickets", "tuned", "other") is None
    assert store.load_build("tickets", "other", KEY) is None
    assert store.load_build("other", "tuned", KEY) is None


def test_reading_an_empty_store_writes_nothing(store: Store) -> None:
    assert store.load_build("tickets", "tuned", KEY) is None
    assert store.load_evaluation("tickets", "tuned", "dev", KEY) is None
    assert store.newest_manifest("tickets", "tuned") is None
    assert not store.root.exists()


def test_the_digest_is_that_of_what_was_built(store: Store) -> None:
    first = commit(store)
    assert commit(store, session="another", created="later").digest == first.digest
    assert commit(store, "two").digest != first.digest
    assert commit(store, key="other").digest != first.digest


def test_the_last_build_of_a_key_counts_and_is_alone(store: Store) -> None:
    commit(store, "one")
    last = commit(store, "two")
    found = store.load_build("tickets", "tuned", KEY)
    assert found is not None
    assert found.read("program.json") == {"content": "two"}
    assert [p.name for p in last.folder.parent.iterdir() if p.is_dir()] == [last.digest]
    assert list((store.root / "work").iterdir()) == []


def test_the_same_build_again_replaces_a_damaged_one(store: Store) -> None:
    made = commit(store)
    (made.folder / "program.json").write_text("{}")
    commit(store)
    found = store.load_build("tickets", "tuned", KEY)
    assert found is not None
    assert found.read("program.json") == {"content": "one"}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("program.json", lambda p: p.write_text("{}")),
        ("program.json", lambda p: p.unlink()),
        ("adapters/log.json", lambda p: p.write_text("[2]")),
        ("manifest.json", lambda p: p.write_text("{")),
        ("manifest.json", lambda p: p.unlink()),
        ("manifest.json", lambda p: p.write_text("[]")),
        ("manifest.json", lambda p: (p.unlink(), p.mkdir())),
        ("manifest.json", lambda p: (p.unlink(), p.symlink_to("/nonexistent/x"))),
        ("manifest.json", lambda p: p.write_text(p.read_text().replace('"status": "built"', '"status": "loaded"'))),
        ("../current.json", lambda p: p.write_text("")),
        ("../current.json", lambda p: p.write_text('{"build": "nowhere"}')),
        ("../current.json", lambda p: p.write_text("[]")),
        ("../current.json", lambda p: (p.unlink(), p.mkdir())),
        ("../current.json", lambda p: (p.unlink(), p.symlink_to("/nonexistent/x"))),
    ],
)
def test_a_damaged_build_is_set_aside_and_not_used(store: Store, name: str, damage: Any) -> None:
    damage(commit(store).folder / name)
    with pytest.warns(StoreWarning, match=r"stage 'tuned' of experiment 'tickets' is damaged.*set_aside"):
        assert store.load_build("tickets", "tuned", KEY) is None
    assert len(list((store.root / "set_aside").iterdir())) == 1, "never deleted"
    assert store.load_build("tickets", "tuned", KEY) is None
    commit(store)
    assert store.load_build("tickets", "tuned", KEY) is not None


def test_a_build_under_way_is_not_seen_and_its_leftovers_go(store: Store) -> None:
    left = store.workspace("tickets", "tuned", KEY)
    (left / "program.json").write_text("{}")
    assert store.load_build("tickets", "tuned", KEY) is None
    other = store.workspace("tickets", "other", KEY)
    fresh = store.workspace("tickets", "tuned", KEY)
    assert not left.exists()
    assert other.exists()
    assert list(fresh.iterdir()) == []


@pytest.mark.parametrize(
    ("one", "two"), [("a/b", "a-b"), ("..", "x"), ("ä", "ö"), ("A b", "A-b"), ("x" * 99, "x" * 60)]
)
def test_names_that_are_no_folder_names_do_not_collide(store: Store, one: str, two: str) -> None:
    for name in (one, two):
        commit(store, name, stage=name)
    for name in (one, two):
        found = store.load_build("tickets", name, KEY)
        assert found is not None
        assert found.read("program.json") == {"content": name}
        assert found.folder.resolve().is_relative_to(store.root.resolve())


def test_the_newest_manifest_of_any_key(store: Store) -> None:
    import os

    old, new = commit(store, key="one", note=1), commit(store, key="two", note=2)
    os.utime(old.folder / "manifest.json", (1, 1))
    os.utime(new.folder / "manifest.json", (2, 2))
    manifest = store.newest_manifest("tickets", "tuned")
    assert manifest is not None
    assert manifest["note"] == 2
    (new.folder / "manifest.json").write_text("{")
    manifest = store.newest_manifest("tickets", "tuned")
    assert manifest is not None
    assert manifest["note"] == 1


def test_the_store_keeps_itself_out_of_version_control(store: Store) -> None:
    commit(store)
    assert "*" in (store.root / ".gitignore").read_text().splitlines()


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write to the store .*--dspy-store"):
        commit(Store(tmp_path / "file"))


# --- evaluations ----------------------------------------------------------------------------------------------------


def test_an_evaluation_comes_back(store: Store) -> None:
    store.save_evaluation(result())
    assert store.load_evaluation("tickets", "tuned", "dev", KEY) == result()
    assert store.load_evaluation("tickets", "tuned", "test", KEY) is None
    assert store.load_evaluation("tickets", "tuned", "dev", "other") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_text(""),
        lambda p: p.write_text(p.read_text()[:-40]),
        lambda p: p.write_text(p.read_text().replace('"score": 0.0', '"score": 1.0')),
        lambda p: p.write_text("[]"),
        lambda p: p.write_bytes(b"\xff\xfe"),
        lambda p: (p.unlink(), p.mkdir()),
        lambda p: (p.unlink(), p.symlink_to("/nonexistent/x")),
    ],
)
def test_a_damaged_evaluation_is_set_aside_and_not_used(store: Store, damage: Any) -> None:
    store.save_evaluation(result())
    [path] = (store.root / "evaluations").rglob("*.json")
    damage(path)
    with pytest.warns(StoreWarning, match="evaluation of stage 'tuned'"):
        assert store.load_evaluation("tickets", "tuned", "dev", KEY) is None
    assert not os.path.lexists(path)
    assert len(list((store.root / "set_aside").iterdir())) == 1


def test_a_journal_keeps_what_was_added(store: Store) -> None:
    [one, two] = result().examples
    rest = Footprint(functions={"ourapp.text:tidy": "0"})
    with store.journal("tickets", "tuned", "dev", KEY) as journal:
        assert (journal.done, journal.footprint) == ({}, None)
        journal.rest_on(rest)
        journal.add(one)
    with store.journal("tickets", "tuned", "dev", KEY, lambda footprint: footprint == rest) as journal:
        assert (journal.done, journal.footprint) == ({"a": one}, rest)
        journal.add(two)
    with store.journal("tickets", "tuned", "test", KEY) as journal:
        assert journal.done == {}
    with store.journal("tickets", "tuned", "dev", KEY) as journal:
        assert journal.done == {"a": one, "b": two}
    with store.journal("tickets", "tuned", "dev", KEY, lambda footprint: False) as journal:
        assert (journal.done, journal.footprint) == ({}, None)
    with store.journal("tickets", "tuned", "dev", KEY) as journal:
        assert journal.done == {}, "what is not believed does not come back"


def test_a_finished_evaluation_drops_its_journal(store: Store) -> None:
    with store.journal("tickets", "tuned", "dev", KEY) as journal:
        journal.add(result().examples[0])
    store.save_evaluation(result())
    assert list(store.root.rglob("*.partial.jsonl")) == []
    with store.journal("tickets", "tuned", "dev", KEY) as journal:
        assert journal.done == {}


# --- locks ----------------------------------------------------------------------------------------------------------


def test_a_lock_is_free_again_after_a_failure(store: Store) -> None:
    with pytest.raises(KeyError), store.lock("stage"):
        raise KeyError
    with store.lock("stage"):
        pass


def test_who_waits_for_a_lock_is_told(store: Store) -> None:
    import threading

    locked, waited, told = threading.Event(), threading.Event(), []

    def holder() -> None:
        with store.lock("stage"):
            locked.set()
            waited.wait(10)

    thread = threading.Thread(target=holder)
    thread.start()
    assert locked.wait(10)

    def waiting(_: str) -> None:
        told.append(thread.is_alive())
        waited.set()

    with store.lock("stage", waiting):
        thread.join(10)
        assert not thread.is_alive()
    assert told
    assert told[0] is True


def test_a_list_reads_heads_and_says_the_same(filled: tuple[Path, Any], tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(filled[0], root)
    whole, heads = take_inventory(root).evaluations, take_inventory(root, heads=True).evaluations
    assert [e.head for e in heads] == [e.head for e in whole]
    assert all(e.result is not None and (e.result.n, e.result.score) == (e.head.n, e.head.score) for e in whole)
    assert all(e.result is None for e in heads)
    [path] = [e.path for e in whole if e.head.stage == "baseline"]
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f'"score": {heads[0].head.score}', '"score": 0.0625', 1), encoding="utf-8")
    assert path in take_inventory(root, heads=True).unreadable  # a head that is not as written: the whole is looked at
    path.write_text(text[:-2], encoding="utf-8")
    assert path in take_inventory(root, heads=True).unreadable
    content = json.loads(text)
    del content["head"]
    sealed = seal(content.pop("owner"), {k: v for k, v in content.items() if k != "checksum"})
    path.write_text(json.dumps(sealed), encoding="utf-8")  # of before there were heads
    assert [e.head for e in take_inventory(root, heads=True).evaluations] == [e.head for e in whole]
