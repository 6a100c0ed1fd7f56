"""The user's line, which is neither ours nor a library's: in a traceback, and where a warning points to."""

from __future__ import annotations

import contextlib
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

_PACKAGE = __name__.partition(".")[0]
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def users_entry(traceback: TracebackType | None) -> TracebackType | None:
    """The last entry of a traceback that is neither ours nor a library's; None without one."""
    last = None
    while traceback is not None:
        if _is_users(traceback.tb_frame):
            last = traceback
        traceback = traceback.tb_next
    return last


def users_place(error: BaseException) -> str:
    """File and line of the user's code that an exception comes from, ``conftest.py:12``; empty where none took part."""
    entry = users_entry(error.__traceback__)
    if entry is None:
        return ""
    file = Path(entry.tb_frame.f_code.co_filename)
    here = Path.cwd()
    return f"{file.relative_to(here) if file.is_relative_to(here) else file}:{entry.tb_lineno}"


def _is_users(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] != _PACKAGE and not frame.f_code.co_filename.startswith((*_LIBRARIES, "<"))


_place: tuple[str, int] | None = None
"""Where warnings point to at the moment: a file, and a line in it from 1. One for all threads, as tests run in turn."""


@contextlib.contextmanager
def warnings_at(file: str, line: int) -> Iterator[None]:
    """Meanwhile, what :func:`warn` says is said of a place: no line of the user's may be running."""
    global _place
    before, _place = _place, (file, line)
    try:
        yield
    finally:
        _place = before


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the user's line: the place that is set, else the innermost line that runs and is the user's."""
    place = _place
    frame: FrameType | None = sys._getframe(1)
    while place is None and frame is not None:
        if _is_users(frame):
            place = frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    if place is None:
        warnings.warn(message, category, stacklevel=2)
    else:
        warnings.warn_explicit(message, category, *place)
