"""The adapters that sessions have loaded on servers, written down before each is loaded.

One file for each session that loads any, ``served/SESSION.json``, with a lock beside it that is held as long as the
session lives. A file whose lock is free was left by a session that was killed: what it names may still be loaded.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import Timeout

from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.locks import locked
from pytest_dspy_ft.store.entries import read_entry, write_entry
from pytest_dspy_ft.store.folder import StoreFolder

FOLDER = "served"

Loaded = tuple[str, str]
"""A server's address, without secrets, and the name of an adapter there."""


class LoadedAdapters:
    """What one session has loaded on servers, and what killed sessions have left there. Safe to use from many threads.

    Args:
        store: The store, which all these sessions share.
    """

    def __init__(self, store: StoreFolder) -> None:
        self._store = store
        self._session = uuid.uuid4().hex[:16]
        self._loaded: list[Loaded] = []
        self._held = contextlib.ExitStack()
        self._begun = False
        self._lock = threading.Lock()

    def note(self, address: str, name: str) -> None:
        """Write down that an adapter is about to be loaded.

        Raises:
            StoreError: The store cannot be written.
        """
        with self._lock, self._store.writing():
            path = self._file(self._session)
            if not self._begun:
                self._store.prepared(FOLDER)
                self._held.enter_context(locked(_lock_of(path), timeout=0))
                self._begun = True
            if (address, name) not in self._loaded:
                self._loaded.append((address, name))
            _write(path, self._loaded)

    def forget(self, address: str, name: str) -> None:
        """Note that an adapter is not loaded any more."""
        with self._lock:
            self._loaded = [one for one in self._loaded if one != (address, name)]
            if self._begun:
                with contextlib.suppress(OSError):  # the next session asks the server once more
                    _write(self._file(self._session), self._loaded)

    def clear_left_behind(self, address: str, unload: Callable[[str], bool]) -> list[str]:
        """Have unloaded what sessions that are no longer alive left on a server; the living keep theirs.

        Args:
            address: The server's, as it was noted.
            unload: Unloads an adapter of this name, and tells whether the server answered.

        Returns:
            The names that were unloaded.
        """
        gone = []
        for path in sorted((self._store.root / FOLDER).glob("*.json")):
            if path.stem == self._session:
                continue
            with contextlib.suppress(Timeout, OSError, ValueError, StoreError), locked(_lock_of(path), timeout=0):
                left = _read(path)
                done = [one for one in left if one[0] == address and unload(one[1])]
                gone += [name for _, name in done]
                if done:
                    _write(path, rest := [one for one in left if one not in done])
                    if not rest:
                        _lock_of(path).unlink(missing_ok=True)
        return gone

    def close(self) -> None:
        """End the session: what is still noted is for the next one to unload."""
        with self._lock:
            if self._begun and not self._loaded:
                with contextlib.suppress(OSError):
                    _lock_of(self._file(self._session)).unlink(missing_ok=True)
            self._held.close()
            self._begun = False

    def _file(self, session: str) -> Path:
        return self._store.root / FOLDER / f"{session}.json"


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _owner(path: Path) -> dict[str, str]:
    return {"kept": "loaded adapters", "session": path.stem}


def _read(path: Path) -> list[Loaded]:
    pairs = read_entry(path, _owner(path)).get("loaded")
    if not isinstance(pairs, list):
        raise ValueError(f"{path.name} names no adapters")
    return [(str(address), str(name)) for address, name in pairs]


def _write(path: Path, loaded: list[Loaded]) -> None:
    """Keep what is loaded; nothing, and no file is left."""
    if loaded:
        write_entry(path, _owner(path), {"loaded": [list(one) for one in loaded]})
    else:
        path.unlink(missing_ok=True)
