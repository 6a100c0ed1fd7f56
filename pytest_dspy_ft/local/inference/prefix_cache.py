"""A small cache of computed prefixes, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class PrefixCache:
    """Keeps the most recently used prefixes. For one thread."""

    def __init__(self, max_bytes: int) -> None:
        """Create an empty cache that drops its oldest entries beyond `max_bytes`, but always holds the newest."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Memory of the entries in bytes."""
        return sum(entry.nbytes for entry in self._entries.values())

    def get(self, key: Hashable, compute: Callable[[], Any]) -> tuple[Any, bool]:
        """Return the entry under `key`, computing it if it is not there, and whether it was there."""
        found = key in self._entries
        if not found:
            self._entries[key] = compute()
        self._entries.move_to_end(key)
        while len(self._entries) > 1 and self.nbytes > self._max_bytes:
            self._entries.popitem(last=False)
        return self._entries[key], found

    def drop(self, wanted: Callable[[Any], bool]) -> None:
        """Forget the entries whose key `wanted` says yes to."""
        for key in [key for key in self._entries if wanted(key)]:
            del self._entries[key]
