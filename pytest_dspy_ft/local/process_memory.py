"""The memory of this process: how much it takes, and giving back what it has freed."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path


def return_memory() -> None:
    """Give freed memory back to the system: glibc keeps most of what large temporaries took."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident_memory() -> int:
    """Return the bytes of memory that this process takes; 0 where the system does not tell (not Linux)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
