"""Names that the local LM shares with DSPy and with its users."""

from __future__ import annotations

MODEL_PREFIX = "local:"
"""What the names of local models begin with: ``local:NAME``, or ``local:NAME+ADAPTER``."""
CLOSING_MARKER = "[[ ## completed ## ]]"
"""What DSPy's ChatAdapter has every reply end with."""
