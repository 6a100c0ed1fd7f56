"""DSPy's import, which takes seconds: seen when it begins, and shown in sessions that have to do with us.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_dspy_ft.plugin.progress import SessionProgress

WATCH: pytest.StashKey[ImportWatch] = pytest.StashKey()

_OURS = re.compile(rb"\b(?:pytest_dspy_ft|dspy_(?:gate|stage|experiment|lm|evaluate|program))\b")
_PACKAGE = Path(__file__).resolve().parents[1]


class ImportWatch:
    """A finder of modules that finds none, and sees which are looked for.

    Args:
        progress: Where the import is shown.
    """

    def __init__(self, progress: SessionProgress) -> None:
        self._progress = progress
        self._looks = False

    @classmethod
    def begin(cls, config: pytest.Config, progress: SessionProgress) -> None:
        """Watch from now on, where DSPy is not there yet."""
        if "dspy" not in sys.modules:
            config.stash[WATCH] = watch = cls(progress)
            sys.meta_path.insert(0, watch)

    @classmethod
    def end(cls, config: pytest.Config) -> None:
        """Watch no longer."""
        watch = config.stash.get(WATCH, None)
        if watch is not None and watch in sys.meta_path:
            sys.meta_path.remove(watch)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What others find; where it is DSPy for us, its import is shown."""
        if name != "dspy" or self._looks:
            return None
        self._looks = True
        try:
            found = (finder.find_spec(name, path, target) for finder in list(sys.meta_path) if finder is not self)
            spec = next(filter(None, found), None)
        finally:
            self._looks = False
        if spec is not None and hasattr(spec.loader, "exec_module") and _is_for_us(sys._getframe(1)):
            self._show_execution(spec.loader)
        return spec

    def _show_execution(self, loader: Any) -> None:
        execute = loader.exec_module

        def shown(module: ModuleType) -> None:
            del loader.exec_module
            with self._progress.passing("importing DSPy"):
                execute(module)

        with contextlib.suppress(AttributeError):  # a loader that takes no attribute
            loader.exec_module = shown


def _is_for_us(frame: FrameType | None) -> bool:
    """True where code of ours imports, or a module that names something of ours: a conftest.py, say, or a test's."""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if _PACKAGE in file.parents or (frame.f_code.co_name == "<module>" and _names_us(file)):
            return True
        frame = frame.f_back
    return False


def _names_us(file: Path) -> bool:
    try:
        return bool(_OURS.search(file.read_bytes()))
    except OSError:
        return False
