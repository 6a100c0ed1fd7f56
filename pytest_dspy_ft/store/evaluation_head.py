"""What a list of a store shows of an evaluation: it stands first in its file, so that the examples need not be read.

The head has a checksum of its own. Whoever uses the examples reads the whole file, and by the checksum over all of it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from pydantic import ValidationError

from pytest_dspy_ft.checksums import CHECKSUM, OWNER, seal_problem
from pytest_dspy_ft.records.base import Record, Split
from pytest_dspy_ft.records.evaluation import StageResult

_HEAD = re.compile(r'\s*\{\s*"checksum":\s*"[0-9a-f]{64}",\s*"head":\s*')
"""How a file begins: names are in alphabetical order."""

_FIRST = 16_384
"""Bytes of a file that a head lies in; one with longer names is read as a whole."""


class EvaluationHead(Record):
    """One evaluation without its examples."""

    experiment: str
    stage: str
    on: Split
    key: str
    n: int
    score: float
    build: str = ""
    outputs: str = ""

    @classmethod
    def of(cls, result: StageResult) -> EvaluationHead:
        """The head of an evaluation."""
        return cls(**{name: getattr(result, name) for name in cls.model_fields})


def read_head(path: Path) -> EvaluationHead | None:
    """The head of an evaluation's file; None where the file has to be read as a whole to know.

    That is where an earlier version wrote it without one, where it is not as it was written, or not to its end.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        start = stream.read(_FIRST).decode("utf-8", "replace")
        if stream.seek(0, os.SEEK_END) > _FIRST:
            stream.seek(-2, os.SEEK_END)
            end = stream.read()
        else:
            end = start.encode()[-2:]
    begins = _HEAD.match(start)
    if begins is None or end != b"}\n":
        return None
    try:
        sealed, _ = json.JSONDecoder().raw_decode(start, begins.end())
        owner = sealed[OWNER]
        if seal_problem(owner, sealed):
            return None
        head = EvaluationHead(**{name: value for name, value in sealed.items() if name not in (OWNER, CHECKSUM)})
    except (ValueError, KeyError, TypeError, ValidationError):
        return None
    named = {"experiment": head.experiment, "stage": head.stage, "on": head.on, "key": head.key}
    return head if named == owner else None
