"""Versions of DSPy that stages were built with: the one that is installed, and those that a store may be of."""

from __future__ import annotations

from typing import Final

import dspy

FIRST: Final = "3.4"
"""The version whose builds do not say which one made them."""


def dspy_version() -> str:
    """Major and minor of the DSPy that is installed, which stage keys hold: ``3.4``."""
    return ".".join(dspy.__version__.split(".")[:2])


def earlier_versions() -> tuple[str, ...]:
    """The versions before the one that is installed that may have filed something, the newest first."""
    (major, minor), (first_major, first_minor) = (map(int, version.split(".")) for version in (dspy_version(), FIRST))
    if major != first_major:
        return (FIRST,)
    return tuple(f"{major}.{n}" for n in range(minor - 1, first_minor - 1, -1))
