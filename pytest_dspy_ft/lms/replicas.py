"""Several servers of one base model: each call goes to the one with the fewest, each adapter is loaded on all."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.lms.adapter_probe import Probe
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.lms.replica import LOOKS, SEVERAL_PROCESSES, LoadedAs, LostAdapterError, Replica

PREFIX = "dspy-ft-"
"""Of all names that adapters are given on servers."""
AGAIN = 8
"""How often a server is given an adapter that it had and does not know, or an adapter another name."""
CLOSE_SECONDS = 4.0
"""The longest that unloading at the end takes: a session that is interrupted ends soon."""


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter that servers are to answer with."""

    name: str
    """Its name here."""
    folder: Path
    probes: tuple[Probe, ...]
    """Prompts that tell whether it answers."""


class AdapterNotes(Protocol):
    """Where adapters are written down before they are loaded, so that none is left on a server for good."""

    def note(self, address: str, name: str) -> None:
        """Write down that an adapter is about to be loaded on a server."""

    def forget(self, address: str, name: str) -> None:
        """Note that it is not loaded any more."""

    def clear_left_behind(self, address: str, unload: Callable[[str], bool]) -> list[str]:
        """Have unloaded what sessions that are no longer alive left on a server; their names."""

    def close(self) -> None:
        """End the session: what is still noted is for the next one to unload."""


class Replicas:
    """The servers, and what is loaded on them. Safe to use from many threads.

    Args:
        servers: At least one.
        check: Called after each loading; raises a ServingError where the adapter does not answer.

    Attributes:
        servers: In the order in which they were given.
        remarks: What readers of the figures should know, in the order in which it was seen.
    """

    def __init__(self, servers: Sequence[Replica], check: Callable[[Replica, ServedAdapter], None]) -> None:
        self.servers = tuple(servers)
        self.remarks: dict[str, None] = {}
        self._check = check
        self._lock = threading.Lock()
        self._stopped: set[Replica] = set()
        self._again: Counter[tuple[Replica, str]] = Counter()
        self._loaded: dict[tuple[Replica, str], None] = {}
        self._notes: AdapterNotes | None = None

    def remark(self, text: str) -> None:
        """Note something that readers of the figures should know; the same text counts once."""
        with self._lock:
            self.remarks[text] = None

    # --- which one answers -------------------------------------------------------------------------------------------

    def choose(self, tried: Collection[Replica]) -> Replica | None:
        """The server for a call: of those that answer, the one with the fewest calls under way.

        Args:
            tried: Those that failed this very call.

        Returns:
            None where all have failed it.
        """
        with self._lock:
            left = [replica for replica in self.servers if replica not in tried]
            now = time.monotonic()
            up = [replica for replica in left if replica.down_until <= now]
            if not up:
                return min(left, key=lambda replica: replica.down_until, default=None)
            chosen = min(up, key=lambda replica: replica.in_flight)
            if chosen.down_until:  # one call finds out whether it is back
                chosen.leave_alone()
            return chosen

    def failed(self, replica: Replica, error: BaseException) -> None:
        """Leave a server that stopped answering alone for a while, and say so once."""
        if not replica.is_gone():
            return
        replica.leave_alone()
        with self._lock:
            fresh = replica not in self._stopped
            self._stopped.add(replica)
        if fresh and len(self.servers) > 1:
            self.remark(
                f"the server at {replica} stopped answering in the middle ({describe_exception(error, 120)}); its "
                "calls went to the other servers"
            )

    # --- adapters ----------------------------------------------------------------------------------------------------

    def keep_notes(self, begin: Callable[[], AdapterNotes]) -> None:
        """Write down what is loaded, after unloading what killed sessions have left on these servers.

        Raises:
            StoreError: The store cannot be written.
        """
        if self._notes is not None:
            return
        self._notes = begin()
        for replica in self.servers:
            gone = self._notes.clear_left_behind(
                str(replica),
                lambda name, at=replica: not name.startswith(PREFIX) or at.unload(name),  # type: ignore[misc]
            )
            if gone:
                self.remark(
                    f"unloaded from the server at {replica} what a session that was killed had left: {', '.join(gone)}"
                )

    def ready(self, replica: Replica, adapter: ServedAdapter) -> LoadedAs:
        """Load an adapter on a server, where it is not yet.

        Raises:
            ServingError: If the server does not load it, or does not answer with it.
            StoreError: It cannot be written down before.
        """
        known = replica.adapters.get(adapter.name)
        if known is not None:
            return known
        with replica.loading:
            if adapter.name not in replica.adapters:
                self._load(replica, adapter, LoadedAs(self._new_name(adapter), 1))
            return replica.adapters[adapter.name]

    def load_again(self, replica: Replica, adapter: ServedAdapter, missing: LoadedAs) -> None:
        """Load an adapter that a server does not know any more, unless another thread has done so.

        Args:
            replica: The server.
            adapter: The adapter.
            missing: What was asked for in vain.

        Raises:
            ServingError: If it is missing again and again.
        """
        with replica.loading:
            if replica.adapters.get(adapter.name) != missing:
                return
            self._again[replica, adapter.name] += 1
            if self._again[replica, adapter.name] > AGAIN:
                raise ServingError(
                    f"the server at {replica} loaded the adapter {adapter.folder} {AGAIN} times and does not know it; "
                    f"maybe {SEVERAL_PROCESSES}"
                )
            replica.several = replica.several or any(replica.lists(missing.name) for _ in range(LOOKS))
            if not replica.several:
                self.remark(f"the server at {replica} had lost its adapter (it was restarted?): it was loaded again")
            del replica.adapters[adapter.name]
            replica.probed.clear()
            self._load(replica, adapter, LoadedAs(missing.name, missing.number + 1))

    def close(self) -> None:
        """Unload what was loaded; what a server that does not answer may still have is left for the next session."""
        todo = list(self._loaded)
        threads = [
            threading.Thread(target=self._unload, args=(replica, [n for at, n in todo if at is replica]), daemon=True)
            for replica in {at: None for at, _ in todo}
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + CLOSE_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        if self._notes is not None:
            self._notes.close()
            self._notes = None
        for replica in self.servers:
            replica.adapters.clear()
            replica.close()

    def _unload(self, replica: Replica, names: Sequence[str]) -> None:
        for name in names:
            if not replica.unload(name, CLOSE_SECONDS / 2):
                return
            self._loaded.pop((replica, name), None)
            if self._notes is not None:
                self._notes.forget(str(replica), name)

    def _load(self, replica: Replica, adapter: ServedAdapter, loaded: LoadedAs) -> None:
        again = loaded.number > 1
        for _ in range(AGAIN):
            self._loaded[replica, loaded.name] = None
            if self._notes is not None:
                self._notes.note(str(replica), loaded.name)
            if replica.load(adapter.folder, loaded.name, again=again):
                break
            del self._loaded[replica, loaded.name]  # another's
            if self._notes is not None:
                self._notes.forget(str(replica), loaded.name)
            loaded = LoadedAs(self._new_name(adapter), loaded.number)
        else:
            raise ServingError(
                f"the server at {replica} did not load the adapter {adapter.folder}: it says of {AGAIN} names that "
                "each is taken"
            )
        replica.adapters[adapter.name] = loaded
        try:
            self._check_all(replica, adapter, loaded)
        except ServingError:
            replica.adapters.pop(adapter.name, None)
            raise
        if replica.several:
            self.remark(f"the server at {replica} was asked several times to load one adapter: {SEVERAL_PROCESSES}")

    def _check_all(self, replica: Replica, adapter: ServedAdapter, loaded: LoadedAs) -> None:
        """Check an adapter; one that a process does not know after all is loaded again."""
        for _ in range(AGAIN):
            try:
                return self._check(replica, adapter)
            except LostAdapterError:
                replica.several = True
                replica.load(adapter.folder, loaded.name, again=True)
        raise ServingError(
            f"the server at {replica} loaded the adapter {adapter.folder} and does not know it: {SEVERAL_PROCESSES}"
        )

    @staticmethod
    def _new_name(adapter: ServedAdapter) -> str:
        """A name of our own: other sessions may evaluate, and unload, the same adapter at the same time."""
        return f"{PREFIX}{adapter.name[:24]}-{uuid.uuid4().hex[:8]}"
