"""Which answers may come from a cache, and where that cache is.

DSPy's own response cache lies in the home directory, is shared by all projects, is pickled, and does not know an LM's
address. While this package works, ``dspy.cache`` is one of the two below instead: evaluations are always measured,
and a build that was interrupted finds the answers it already paid for.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy

from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.redaction import is_secret


class NoResponses:
    """A cache that knows nothing and keeps nothing."""

    def get(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> Any:
        """Nothing, ever."""
        return None

    def put(
        self,
        request: dict[str, Any],
        value: Any,
        ignored_args_for_cache_key: list[str] | None = None,
        enable_memory_cache: bool = True,
    ) -> None:
        """Forget it."""


class KeptResponses:
    """Answers kept as JSON files below a folder of the store.

    Args:
        folder: Where they lie.
        scope: What else must be equal for an answer to count: an LM's address, a model's weights.
    """

    def __init__(self, folder: Path, scope: str) -> None:
        self._folder = folder
        self._scope = scope

    def get(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> Any:
        """The kept answer to a request, or None."""
        path = self._path(request, ignored_args_for_cache_key)
        if path is None or not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None  # half a file: ask again, and write it anew

    def put(
        self,
        request: dict[str, Any],
        value: Any,
        ignored_args_for_cache_key: list[str] | None = None,
        enable_memory_cache: bool = True,
    ) -> None:
        """Keep an answer, where it is plain data."""
        path = self._path(request, ignored_args_for_cache_key)
        if path is None:
            return
        try:
            text = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError):
            return  # an answer in some SDK's own type is not kept rather than pickled
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)  # noqa: PTH105 - atomic on every platform

    def _path(self, request: dict[str, Any], ignored: list[str] | None) -> Path | None:
        plain = {k: v for k, v in request.items() if k not in (ignored or ()) and not is_secret(k)}
        try:
            key = digest_json({"scope": self._scope, "request": plain}, length=40)
        except (TypeError, ValueError):
            return None
        return self._folder / key[:2] / f"{key[2:]}.json"


class _Switch:
    """Stands in ``dspy.cache``'s place and hands each call to the cache of the block it is made in.

    Blocks are told apart by DSPy's own settings, which DSPy carries into every thread it starts.
    """

    def __init__(self, before: Any, own: bool) -> None:
        self.before, self.own = before, own
        self.users = 0

    def _cache(self) -> Any:
        if (decided := dspy.settings.get(SETTING)) is not None:
            return decided
        if self.before is None:  # DSPy makes its cache when it is first asked for
            from dspy.clients import _get_dspy_cache

            self.before = _get_dspy_cache()
        return self.before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache(), name)


SETTING = "dspy_ft_responses"
_switch_lock = threading.Lock()


def responses_decided() -> bool:
    """Whether the calling code is inside a :func:`responses_from` block, in whatever thread."""
    return dspy.settings.get(SETTING) is not None


@contextlib.contextmanager
def responses_from(cache: NoResponses | KeptResponses) -> Iterator[None]:
    """Let DSPy's LMs use this cache inside the block; calls made elsewhere meanwhile use the one they had."""
    with _switch_lock:
        switch = vars(dspy).get("cache")
        if not isinstance(switch, _Switch):
            switch = _Switch(switch, "cache" in vars(dspy))
            dspy.cache = switch
        switch.users += 1
    try:
        with dspy.context(**{SETTING: cache}):
            yield
    finally:
        with _switch_lock:
            switch.users -= 1
            if switch.users == 0 and vars(dspy).get("cache") is switch:
                if switch.own:
                    dspy.cache = switch.before
                else:
                    del dspy.cache
