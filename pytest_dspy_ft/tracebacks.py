"""The user's line in a traceback: the last one that is neither ours nor a library's."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from types import TracebackType

_PACKAGE = __name__.partition(".")[0]
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def users_entry(traceback: TracebackType | None) -> TracebackType | None:
    """The last entry of a traceback that is neither ours nor a library's; None without one."""
    last = None
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        file = traceback.tb_frame.f_code.co_filename
        if module.partition(".")[0] != _PACKAGE and not file.startswith((*_LIBRARIES, "<")):
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
