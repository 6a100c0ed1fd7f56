"""Where the user's code lives: modules by their files, here and where a record was made."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import operator
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from pytest_dspy_ft.fingerprint.origin import is_user_file


class Modules:
    """The user's modules that this process has loaded, by file.

    Args:
        functions: Functions whose modules count too, though another module has taken their name since: of two
            ``conftest.py``, Python knows the last one.
    """

    def __init__(self, functions: Iterable[FunctionType] = ()) -> None:
        self._known: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for function in functions:
            space = function.__globals__
            self._known[function.__code__.co_filename] = (str(space.get("__name__", "")), space)
        self._add_loaded()
        self._names: dict[str, str] = {}
        self.files: dict[str, str] = {}
        """The file of every module that was named so far, as a record keeps it."""

    def _add_loaded(self) -> None:
        for name, file, module in _users_loaded():
            if file not in self._known:
                self._known[file] = (name, vars(module))

    def _known_at(self, file: str) -> tuple[str, Mapping[str, Any]] | None:
        """The module of a file, also where it was loaded a moment ago."""
        if file not in self._known:
            self._add_loaded()
        return self._known.get(file)

    def name_of(self, code: CodeType) -> str:
        """The name of the module that a code object was written in: unlike for two files of one name."""
        file = code.co_filename
        if file not in self._names:
            known = self._known_at(file)
            name = known[0] if known is not None else "__main__" if not Path(file).exists() else Path(file).stem
            portable = portable_path(file)
            unique, number = name, 2
            while self.files.get(unique, portable) != portable:
                unique, number = f"{name}#{number}", number + 1
            self._names[file], self.files[unique] = unique, portable
        return self._names[file]

    def namespace_of(self, code: CodeType) -> Mapping[str, Any]:
        """The names that are global to a code object; empty where its module is not loaded."""
        known = self._known_at(code.co_filename)
        if known is not None:
            return known[1]
        return {} if Path(code.co_filename).exists() else vars(sys.modules["__main__"])

    def find(self, name: str, portable: str) -> tuple[str | None, Mapping[str, Any] | None]:
        """A module as a record names it: its file and its names here; it is imported where it is not loaded yet.

        Returns:
            None for the file where there is none here, and for the names where it cannot be imported.
        """
        plain = name.partition("#")[0]
        exactly = [file for file in self._known if portable_path(file) == portable]
        for file in [*exactly, *(file for file in self._known if _is_at(file, portable))]:
            return file, self._known[file][1]
        if plain == "__main__":
            return None, vars(sys.modules["__main__"])
        return self._imported(plain, portable)

    def _imported(self, name: str, portable: str) -> tuple[str | None, Mapping[str, Any] | None]:
        """The module, imported as the code that ran imported it; its file alone where that does not work."""
        try:
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin is not None and _is_at(spec.origin, portable):
                return spec.origin, vars(importlib.import_module(name))
        except Exception:  # whatever a module raises when it is imported; its functions can still be compared
            pass
        file = next((str(p) for root in _roots() if (p := root / portable).is_file()), None)
        return file, None


_scanned: tuple[dict[str, Any], list[tuple[str, str, Any]]] = {}, []
"""The modules that were loaded at the last look, and those of the user among them: every result that is believed again
asks for them, and hardly any two ask differently."""


def _users_loaded() -> list[tuple[str, str, Any]]:
    """The user's modules that are loaded: name, file and module."""
    global _scanned
    loaded = sys.modules.copy()  # in one step: a list of them may run finalizers, which import
    known, found = _scanned
    if len(known) != len(loaded) or not all(map(operator.is_, known.values(), loaded.values())):
        files = ((name, getattr(module, "__file__", None), module) for name, module in loaded.items())
        found = [(name, file, module) for name, file, module in files if isinstance(file, str) and is_user_file(file)]
        _scanned = loaded, found
    return found


def portable_path(file: str) -> str:
    """A file's path below its project or its folder of packages: the same on another machine, wherever one stands."""
    return _portable_path(file, str(Path.cwd()), tuple(sys.path))


@functools.lru_cache(maxsize=65536)
def _portable_path(file: str, cwd: str, search: tuple[str, ...]) -> str:
    path = Path(file)
    for number, part in reversed(list(enumerate(path.parts))):
        if part in _PACKAGE_FOLDERS:
            return Path(*path.parts[number + 1 :]).as_posix()
    root = _project_of(path.parent)
    for folder in [root] if root is not None else [Path(cwd), *_searched(search)]:
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.name


_PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})

_PROJECT_FILES = (".git", "pyproject.toml", "setup.cfg", "setup.py", "pytest.ini", "tox.ini")


@functools.lru_cache(maxsize=4096)
def _project_of(folder: Path) -> Path | None:
    """The outermost folder of a project that a folder lies in: parts of it may have a pytest.ini of their own."""
    inside = [
        parent for parent in (folder, *folder.parents) if any((parent / name).exists() for name in _PROJECT_FILES)
    ]
    within_git = [parent for parent in inside if (parent / ".git").exists()]
    return within_git[0] if within_git else (inside[-1] if inside else None)


def _roots() -> list[Path]:
    return [Path.cwd(), *_searched(tuple(sys.path))]


@functools.lru_cache(maxsize=64)
def _searched(search: tuple[str, ...]) -> list[Path]:
    """Where Python looks for modules, the deepest folders first."""
    return sorted({Path(entry).absolute() for entry in search if entry}, key=lambda path: -len(path.parts))


def _is_at(file: str, portable: str) -> bool:
    path = Path(file).as_posix()
    return path == portable or path.endswith("/" + portable)
