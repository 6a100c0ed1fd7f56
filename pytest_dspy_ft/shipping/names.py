"""Classes and functions by name, where no session declares them: those of a given program, and what can be imported.

A name is ``module:qualified.name``, so that it is imported and never guessed at.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from typing import Any

from pytest_dspy_ft.evaluation.known import Known

_OF_TESTS = re.compile(r"(^|\.)(conftest|test_[^.]*|[^.]*_test|__main__)(\.|$)")
"""Modules that are another one in each project, or are none outside of pytest."""


class ImportableNames:
    """Names that mean the same in another process.

    Args:
        roots: Objects that the other process has as well: what they lead to can be named, too.

    Attributes:
        modules: The modules that names given out here are imported from.
    """

    def __init__(self, roots: Iterable[Any] = ()) -> None:
        self._known = Known(roots)
        self.lms: list[Any] = []
        self.modules: set[str] = set()

    def name_of_class(self, cls: type) -> str | None:
        """The name that :meth:`class_named` knows a class by; None for one that another process could not find."""
        return self._name_of(cls, self.class_named)

    def name_of_function(self, function: Any) -> str | None:
        """The name that :meth:`function_named` knows a function by; None for one that cannot be found."""
        return self._name_of(function, self.function_named)

    def class_named(self, name: str) -> type | None:
        """The class of a name; None where there is none."""
        found = self._known.class_named(name.replace(":", ".")) or _imported(name)
        return found if isinstance(found, type) else None

    def function_named(self, name: str) -> Any:
        """The function of a name; None where there is none."""
        found = self._known.function_named(name.replace(":", ".")) or _imported(name)
        return found if callable(found) and not isinstance(found, type) else None

    def _name_of(self, value: Any, find: Any) -> str | None:
        module = str(getattr(value, "__module__", "") or "")
        name = f"{module}:{getattr(value, '__qualname__', type(value).__qualname__)}"
        if find(name) is not value:
            return None
        if self._known.class_named(name.replace(":", ".")) is None and not module.startswith(("dspy.", "builtins")):
            self.modules.add(module)
        return name


def is_of_tests(module: str) -> bool:
    """True for a module that only a pytest session imports: a conftest, a file of tests, a script."""
    return bool(_OF_TESTS.search(module))


def _imported(name: str) -> Any:
    """What a name leads to when its module is imported; None where that fails."""
    module, colon, path = name.partition(":")
    if not colon or not module or "<" in path or is_of_tests(module):
        return None
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError):
        return None
    return found
