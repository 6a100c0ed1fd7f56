"""Names that several rooms share with DSPy and with users."""

from __future__ import annotations

MODEL_PREFIX = "local:"
"""Begins the name of every local model: ``local:NAME``, or ``local:NAME+ADAPTER``."""
CLOSING_MARKER = "[[ ## completed ## ]]"
"""Ends every reply in the format of DSPy's ChatAdapter."""
