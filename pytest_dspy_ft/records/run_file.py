"""The record of a session as a file, written whole or not at all, and read again with care."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pytest_dspy_ft.checksums import CHECKSUM
from pytest_dspy_ft.errors import RecordError
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.records.base import first_problem
from pytest_dspy_ft.records.run import SCHEMA_VERSION, RunRecord
from pytest_dspy_ft.redaction import redact


def record_json(record: RunRecord) -> str:
    """The record as JSON text, with its checksum."""
    content = json.loads(redact(record.model_dump_json()))
    content[CHECKSUM] = _checksum(content)
    return json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _checksum(content: dict[str, Any]) -> str:
    return digest_json({name: value for name, value in content.items() if name != CHECKSUM})


def read_record(path: Path | str) -> RunRecord:
    """The record of an earlier session.

    Args:
        path: A file that ``--dspy-report=FILE.json`` wrote.

    Raises:
        RecordError: It cannot be read, is no such record, or another version wrote it; the message says which.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise RecordError(
            f"{path} cannot be read: {error.strerror or error}; --dspy-report=FILE.json writes one"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON: {error}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version is None or "experiments" not in content:
        raise RecordError(f"{path} is no record of a session (write one with --dspy-report=FILE.json)")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:  # what was added since has defaults
        raise RecordError(
            f"{path} has schema version {version!r}, this pytest-dspy-ft reads versions 1 to {SCHEMA_VERSION}: "
            + (
                "read it with a newer pytest-dspy-ft"
                if isinstance(version, int) and version > SCHEMA_VERSION
                else "write it again with --dspy-report=FILE.json"
            )
        )
    if content.get(CHECKSUM) and content[CHECKSUM] != _checksum(content):
        raise RecordError(
            f"{path} is not as it was written: its checksum does not match (a hand or damage changed it); restore "
            "it, or write it again with --dspy-report=FILE.json"
        )
    try:
        return RunRecord.model_validate({**content, CHECKSUM: ""})
    except ValidationError as error:
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise RecordError(f"{path} is damaged, or another version wrote it: {first_problem(error)}{more}") from None
