"""Descriptions as an earlier DSPy would have them, so that what was filed under them is found after an upgrade."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Collection, Iterator

_AUTO_SINCE = (3, 5)
"""An LM's ``model_type`` is "auto" since, where nobody sets one; before, it was "chat"."""

_version: contextvars.ContextVar[tuple[int, ...] | None] = contextvars.ContextVar(
    "dspy_ft_described_as_of", default=None
)


@contextlib.contextmanager
def described_as_of(version: str) -> Iterator[None]:
    """Let objects be described inside the block as they would be with another version of DSPy.

    Args:
        version: Major and minor: ``3.4``.
    """
    token = _version.set(tuple(map(int, version.split("."))))
    try:
        yield
    finally:
        _version.reset(token)


def unsaid_model_types() -> Collection[str]:
    """The values of an LM's ``model_type`` that are no part of its identity: the one that is there by default."""
    version = _version.get()
    return ("chat",) if version is None or version >= _AUTO_SINCE else ("chat", "auto")
