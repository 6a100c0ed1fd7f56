"""How LM calls are recorded, as the command line and the ini file say it.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import pytest

DEFAULT_RECORDINGS = "dspy_recordings"
RecordMode = Literal["none", "once", "all"]


class Recordings(NamedTuple):
    """How LM calls are recorded and replayed."""

    mode: RecordMode
    folder: Path
    lms: tuple[str, ...]


def record_mode(config: pytest.Config, mode: RecordMode | None, *, offline: bool) -> RecordMode | None:
    """How LM calls are recorded; the command line counts before the ini file, whichever of two ways it says it.

    Args:
        config: The session's.
        mode: As the table of options has it.
        offline: ``--dspy-offline``, or its ini name.

    Raises:
        pytest.UsageError: If two of them do not go together.
    """
    asked = config.getoption("--dspy-record")
    if config.getoption("--dspy-offline") and asked not in (None, "none"):
        raise pytest.UsageError(f"--dspy-offline and --dspy-record={asked}: what is recorded is asked over the network")
    if offline and not asked:
        mode = "none"
    if mode not in (None, "none") and config.getoption("--dspy-frozen"):
        raise pytest.UsageError(f"--dspy-frozen and --dspy-record={mode}: a frozen session calls no LM to record")
    return mode
