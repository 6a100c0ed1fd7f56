"""Stores that cannot be written, that other versions or file systems share, and plans, which change nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.errors import LockWarning, StoreError
from pytest_dspy_ft.ladder.plan import plan
from pytest_dspy_ft.store.inventory import take_inventory
from pytest_dspy_ft.store.prune import plan_removals, remove
from pytest_dspy_ft.store.store import Store
from tests.store.helpers import DAMAGES, ladder, measured, names, numbers_of, snapshot

# --- read-only stores, plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["", *DAMAGES])
def test_a_plan_changes_nothing(filled: tuple[Path, dict[str, Any]], tmp_path: Path, damage: str) -> None:
    source, _ = filled
    store = tmp_path / "store"
    shutil.copytree(source, store)
    (store / ".gitignore").unlink()
    if damage:
        for name in names(store)[:: 1 if damage == "empty" else 3]:
            DAMAGES[damage](store / name)
    before = snapshot(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = ladder(Store(store, read_only=True))
        steps = plan(made, ["refused"], [(stage, "dev") for stage in ("baseline", "few", "tuned")]).steps
    assert snapshot(store) == before
    if damage in ("empty", "zeros"):
        assert "the store's was damaged" in {step.why for step in steps}
    assert not list(tmp_path.glob("*/.gitignore"))


def test_a_store_opened_for_reading_refuses_to_write(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="reading only"):
        ladder(Store(tmp_path / "store", read_only=True)).build("baseline")
    assert not (tmp_path / "store").exists()


def failing(monkeypatch: pytest.MonkeyPatch, root: Path, code: int, below: str = "") -> None:
    """Every file that is opened for writing below the store fails so."""
    real_open, real_os_open, real_mkdir = Path.open, os.open, os.mkdir

    def refuse(path: Any) -> None:
        if str(path).startswith(str(root / below)):
            raise OSError(code, os.strerror(code), str(path))

    def opened(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax"):
            refuse(self)
        return real_open(self, mode, *args, **kwargs)

    def os_opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            refuse(path)
        return real_os_open(path, flags, *args, **kwargs)

    def made(path: Any, *args: Any, **kwargs: Any) -> None:
        if not Path(path).is_dir():
            refuse(path)
        real_mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(os, "open", os_opened)
    monkeypatch.setattr(os, "mkdir", made)
    monkeypatch.setattr(os, "utime", lambda path, *args: refuse(path))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("below", ["", "evaluations", "work", "locks", "stages"])
def test_a_store_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, below: str
) -> None:
    store = tmp_path / "store"
    failing(monkeypatch, store, code, below)
    with pytest.raises(StoreError, match=rf"cannot write to the store .*{os.strerror(code)}.*--dspy-store"):
        ladder(store).evaluate("few", "dev")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_complete_store_need_not_be_writable(
    filled: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    shutil.copytree(filled[0], tmp_path / "store")
    assert numbers_of(ladder(tmp_path / "store")) == filled[1]
    before = snapshot(tmp_path / "store")
    failing(monkeypatch, tmp_path / "store", code)
    assert numbers_of(ladder(tmp_path / "store")) == filled[1]
    assert snapshot(tmp_path / "store") == before


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    import fcntl

    def no_locks(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    store = Store(tmp_path / "store")
    with contextlib.ExitStack() as stack:
        with pytest.warns(LockWarning, match="has no locks"):
            stack.enter_context(store.lock("stage"))
        assert "stage.lock.held" in [p.name for p in (store.root / "locks").iterdir()]
    assert "stage.lock.held" not in [p.name for p in (store.root / "locks").iterdir()]
    with store.lock("other"):
        pass  # said once
    assert ladder(store).evaluate("few", "dev").score == 1.0


# --- several versions at one store ----------------------------------------------------------------------------------


def newer(file: Path) -> None:
    file.write_text(file.read_text().replace('"schema_version": 2', '"schema_version": 3'))


def test_entries_of_another_version_stay_and_this_ones_stand_beside_them(
    filled: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    source, expected = filled
    store = tmp_path / "store"
    shutil.copytree(source, store)
    theirs = [*store.glob("stages/*/*/*/*/manifest.json"), *store.glob("evaluations/*/*/*.json")]
    for file in theirs:
        newer(file)
    kept = {file: file.read_bytes() for file in theirs}
    lookup = Store(store).look_up_build("scripted", "few", next(store.glob("stages/scripted/few/*")).name)
    assert (lookup.finding, lookup.entry) == ("other_version", None)
    for _ in range(2):
        assert measured(store) == (expected, [])
        assert {file: file.read_bytes() for file in theirs} == kept
    assert not (store / "set_aside").exists()
    again = ladder(store)
    assert again.evaluate("few", "dev").loaded
    inventory = take_inventory(store)
    assert len(inventory.other_versions) == len(theirs)
    assert inventory.unreadable == ()
    remove(store, plan_removals(inventory, keep_last=1, older_than=0.0, now=4e9)[0])
    assert {file: file.read_bytes() for file in theirs} == kept, "prune leaves them, too"
    remove(store, plan_removals(take_inventory(store), other_versions=True)[0])
    assert not any(file.exists() for file in theirs)
    assert measured(store)[0] == expected


def test_what_another_version_points_to_is_left_to_it(filled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(filled[0], store)
    theirs = list(store.glob("stages/*/*/*/**/*.json"))
    for file in theirs:
        newer(file)
    kept = {file: file.read_bytes() for file in theirs}
    assert measured(store)[0] == filled[1]
    assert {file: file.read_bytes() for file in theirs} == kept


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_that_some_file_systems_take_for_one_another(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folders = [str(store.traces_folder(name, "s", "k")).lower() for name in ("a", "A", "Aa", "aA", "con", "CON")]
    assert len(set(folders)) == len(folders)
    assert "con" not in {Path(folder).parent.parent.name for folder in folders}


def test_a_folder_that_an_earlier_version_named_is_found(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "Tickets" / "few").mkdir(parents=True)
    assert Store(tmp_path).jobs_folder("Tickets", "few", "k") == tmp_path / "jobs" / "Tickets" / "few" / "k"
