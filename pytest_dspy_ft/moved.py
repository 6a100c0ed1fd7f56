"""Modules under the names they had: they still import, with a DeprecationWarning that names the new place.

Only names that the documentation had used are here. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

RECORDS = tuple(f"records.{name}" for name in ("evaluation", "run", "build", "gate", "comparison", "usage", "base"))

NEW_PLACES: dict[str, tuple[str, ...]] = {
    "baselines": ("records.baseline",),
    "comparing": ("gates.regression",),
    "prices": ("lms.prices",),
    "recording": ("lms.recording",),
    "recording.recorder": ("lms.calls", "lms.recording.recorder"),
    "results": RECORDS,
    "saved": ("records.run_file",),
    "serving": ("lms.serving",),
}
"""By old name, the modules where its content is now; all below this package."""


class MovedModules:
    """A finder, asked after all others, for the old names; and the loader of what it finds."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module of an old name; None for any other, which then is not found, as always."""
        package, _, old = fullname.partition(".")
        if package != __package__ or old not in NEW_PLACES:
            return None
        return ModuleSpec(fullname, self, is_package=old == "recording")  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """An ordinary, empty module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Let the module answer with what is in the new places."""
        places = [f"{__package__}.{place}" for place in NEW_PLACES[module.__name__.partition(".")[2]]]

        def find(name: str) -> Any:
            if not name.startswith("__"):
                for place in places:
                    new = importlib.import_module(place)
                    if hasattr(new, name):
                        return getattr(new, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = find  # type: ignore[method-assign]
        warnings.warn(f"{module.__name__} has moved to {', '.join(places)}", DeprecationWarning, stacklevel=2)
