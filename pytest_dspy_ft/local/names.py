"""Names that the local LM shares with DSPy and with its users."""

from __future__ import annotations

MODEL_PREFIX = "local:"
"""Begins the name of every local model: ``local:NAME``, or ``local:NAME+ADAPTER``."""
CLOSING_MARKER = "[[ ## completed ## ]]"
"""Ends every reply in the format of DSPy's ChatAdapter."""
