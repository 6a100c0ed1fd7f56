"""One door for LM calls: which LM a name means, what a call costs, who may answer it, what its failure means."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "resolve_lm":  # where it stood before there were several modules here
        import warnings

        from pytest_dspy_ft.lms.resolve import resolve_lm

        warnings.warn("resolve_lm has moved to pytest_dspy_ft", DeprecationWarning, stacklevel=2)
        return resolve_lm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
