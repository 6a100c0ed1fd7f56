"""Names that several rooms share with DSPy and with users."""

from __future__ import annotations

from typing import Literal, get_args

DOCUMENTATION = "https://pytest-dspy-ft.github.io/pytest-dspy-ft/"
"""Where the documentation is, built by ``mkdocs.yml``; what points to it begins with this."""

MODEL_PREFIX = "local:"
"""Begins the name of every local model: ``local:NAME``, or ``local:NAME+ADAPTER``."""
CLOSING_MARKER = "[[ ## completed ## ]]"
"""Ends every reply in the format of DSPy's ChatAdapter."""

StopRule = Literal["curtail", "sequential"]
STOP_RULES: tuple[StopRule, ...] = get_args(StopRule)
"""By which rules an evaluation ends before all its examples are measured."""

UPGRADED = "upgraded"
"""In ``--dspy-rebuild``: the stages that another version of DSPy built and that the installed one would build anew."""
