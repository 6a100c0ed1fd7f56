"""Names that several rooms share with DSPy and with users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

DOCUMENTATION = "https://pytest-dspy-ft.github.io/pytest-dspy-ft/"
"""Where the documentation is, built by ``mkdocs.yml``; what points to it begins with this."""

MODEL_PREFIX = "local:"
"""Begins the name of every local model: ``local:NAME``, or ``local:NAME+ADAPTER``."""
CLOSING_MARKER = "[[ ## completed ## ]]"
"""Ends every reply in the format of DSPy's ChatAdapter."""

ADAPTER_FORMAT: Final[Mapping[str, Any]] = {"type": "json_schema", "name": "adapter_format", "schema": {}}
"""The ``response_format`` of a request whose reply is to keep to the format of whichever adapter asks."""
IN_ADAPTERS_FORMAT: Final[Mapping[str, Any]] = {
    "type": "json_schema",
    "json_schema": {"name": ADAPTER_FORMAT["name"], "schema": ADAPTER_FORMAT["schema"]},
}
"""The same as a setting of a ``dspy.LM``."""

StopRule = Literal["curtail", "sequential"]
STOP_RULES: tuple[StopRule, ...] = get_args(StopRule)
"""By which rules an evaluation ends before all its examples are measured."""

UPGRADED = "upgraded"
"""In ``--dspy-rebuild``: the stages that another version of DSPy built and that the installed one would build anew."""
