"""Which answers may come from a cache, and where that cache is.

DSPy's own response cache lies in the home directory, is shared by all projects, is pickled, and does not know an LM's
address. While this package works, one of the two below takes its place, for embedders too: evaluations are always
measured, and a build that was interrupted finds the answers it already paid for.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_dspy_ft.checksums import CHECKSUM, value_checksum
from pytest_dspy_ft.errors import StoreWarning
from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.lms.calls import current_path, passing
from pytest_dspy_ft.redaction import is_secret, redact
from pytest_dspy_ft.tracebacks import warn

_SUFFIX = ".v2.json"
"""Of the files with a checksum."""


class NoResponses:
    """A cache that knows nothing and keeps nothing."""

    def get(self, *_: Any) -> None:
        """Nothing, ever."""

    def put(self, *_: Any) -> None:
        """Forget it."""


class KeptResponses:
    """Answers kept as JSON files below a folder of the store.

    Args:
        folder: Where they lie.
        scope: What else must be equal for an answer to count: an LM's address, a model's weights.
        earlier: Scopes whose answers count, too; none is put there.
    """

    def __init__(self, folder: Path, scope: str, earlier: Sequence[str] = ()) -> None:
        self._folder = folder
        self._scope, self._earlier = scope, earlier
        self._told = False

    def get(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> Any:
        """The kept answer to a request, or None."""
        for scope in (self._scope, *self._earlier):
            path = self._path(request, ignored_args_for_cache_key, scope)
            if path is not None and (answer := self._read(path)) is not None:
                return answer
        return None

    def _read(self, path: Path) -> Any:
        before = path.with_name(path.name.replace(_SUFFIX, ".json"))
        try:
            if not os.path.lexists(path):  # earlier versions kept the bare answer
                return json.loads(before.read_text(encoding="utf-8")) if before.is_file() else None
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept[CHECKSUM] == value_checksum({"request": path.stem}, kept["answer"]):
                return kept["answer"]
        except (OSError, ValueError, TypeError, KeyError):
            pass
        self._tell(f"a kept answer is not as it was written: it is asked for again ({path})")
        return None

    def put(
        self, request: dict[str, Any], value: Any, ignored_args_for_cache_key: list[str] | None = None, *_: Any
    ) -> None:
        """Keep an answer, where it is plain data."""
        path = self._path(request, ignored_args_for_cache_key, self._scope)
        if path is None:
            return
        try:
            plain = json.loads(redact(json.dumps(value, ensure_ascii=False)))
            text = json.dumps({CHECKSUM: value_checksum({"request": path.stem}, plain), "answer": plain})
        except (TypeError, ValueError):
            return  # an answer in some SDK's own type is not kept rather than pickled
        try:
            write_atomically(path, text, flushed=False)
        except OSError as problem:  # the answer is there all the same: it is no failure of the call
            self._tell(f"answers cannot be kept in {self._folder}: {problem.strerror or problem}")

    def _tell(self, text: str) -> None:
        """Say something once for each folder."""
        if not self._told:
            self._told = True
            warn(text, StoreWarning)

    def _path(self, request: dict[str, Any], ignored: list[str] | None, scope: str) -> Path | None:
        plain = {k: v for k, v in request.items() if k not in (ignored or ()) and not is_secret(k)}
        try:
            key = digest_json({"scope": scope, "request": plain}, length=40)
        except (TypeError, ValueError):
            return None
        return self._folder / key[:2] / f"{key[2:]}{_SUFFIX}"


def responses_decided() -> bool:
    """True for code inside a :func:`responses_from` block, in whatever thread."""
    return current_path().cache is not None


def responses_from(cache: NoResponses | KeptResponses) -> contextlib.AbstractContextManager[None]:
    """Let DSPy keep and find answers here inside the block; calls made elsewhere meanwhile use the cache they had."""
    return passing(cache=cache)
