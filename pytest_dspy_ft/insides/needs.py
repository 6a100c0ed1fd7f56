"""What is missing in DSPy, said in words when a session starts rather than by a traceback in its middle."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any, Final

MODULES: Final = ("adapters", "engines", "lm_calls", "optimizers", "predictions", "training")
"""The modules of this room that import DSPy."""


class UnsupportedDspyError(ImportError):
    """The DSPy that is installed lacks something that this package leans on."""


def check() -> None:
    """Check that the DSPy that is installed has all that is needed of its insides.

    Raises:
        UnsupportedDspyError: If something is missing; the message names each.
    """
    missing = []
    for module in MODULES:
        try:
            importlib.import_module(f"pytest_dspy_ft.insides.{module}")
        except UnsupportedDspyError as error:
            missing.append(str(error))
    if missing:
        raise UnsupportedDspyError("\n".join(dict.fromkeys(missing)))


@contextlib.contextmanager
def needed(purpose: str) -> Iterator[None]:
    """Say what is missing where something inside the block is imported or looked up in vain.

    Args:
        purpose: What it is needed for: ``to count LM calls``.

    Raises:
        UnsupportedDspyError: If DSPy has no such thing.
    """
    try:
        yield
    except (ImportError, AttributeError) as error:
        if (name := _missing_name(error)) is None:
            raise
        raise UnsupportedDspyError(
            f"DSPy {_version()} has no {name}, which pytest-dspy-ft needs {purpose}; "
            f"it works with {_supported()}: pip install '{_supported()}'"
        ) from error


def there(*_: object) -> None:
    """Name things that have to be there, inside :func:`needed`; looking them up is all that it takes."""


def has_fields(cls: Any, *names: str) -> None:
    """Name fields that a dataclass of DSPy's has to have, inside :func:`needed`.

    Raises:
        AttributeError: If it lacks one.
    """
    for name in names:
        if name not in cls.__dataclass_fields__:
            raise AttributeError(f"{cls.__qualname__} has no field {name!r}", name=name, obj=cls)


def _missing_name(error: ImportError | AttributeError) -> str | None:
    """The full name of what DSPy lacks; None where something else is missing."""
    if isinstance(error, AttributeError):
        owner = error.obj
        home = getattr(owner, "__module__", None)
        names = [home, getattr(owner, "__qualname__", None) or getattr(owner, "__name__", None), error.name]
        name = ".".join(part for part in names if part)
    else:
        lacking = re.match(r"cannot import name '(\w+)'", str(error))
        name = ".".join(filter(None, (error.name, lacking and lacking[1])))
    return name if name.partition(".")[0] == "dspy" else None


def _version() -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("dspy")
    return "(of an unknown version)"


def _supported() -> str:
    """The versions of DSPy that this package is installed with, as pip takes them."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for requirement in metadata.requires("pytest-dspy-ft") or ():
            if match := re.match(r"dspy(?:\[\w+\])?\s*([<>=!~][^;]*)", requirement):
                return f"dspy{match[1].strip()}"
    return "dspy"
