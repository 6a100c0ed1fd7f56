"""An evaluation's file, read as a whole: by the checksum over all of it, its examples packed."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from pytest_dspy_ft.checksums import Owner
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.records.base import AS_WRITTEN
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.store.entries import DamagedEntryError, OtherVersionError, is_before, read_entry, uncollected


def read_evaluation(path: Path, owner: Owner | None = None) -> tuple[StageResult, bool]:
    """An evaluation, and whether it is of before, without a checksum over whose it is.

    Raises:
        DamagedEntryError: It is not as it was written, or another's.
        OtherVersionError: Another version wrote it.
        OSError: It cannot be read.
    """
    with uncollected():
        content = read_entry(path, owner)
        before, written = is_before(content), content.get("result")
        if before and content.get("sha256") != digest_json(written, length=64):
            raise DamagedEntryError("its checksum does not match its content")
        try:
            result = StageResult.model_validate(written, context=None if before else AS_WRITTEN)
        except ValidationError as problem:
            raise OtherVersionError(str(problem)) from None  # its checksum holds: it is what somebody wrote
        if isinstance(written, dict) and not before:  # those of before may hold keys
            result = result.packed(written["examples"])
        del content, written
    names = {"experiment": result.experiment, "stage": result.stage, "on": result.on, "key": result.key}
    if before and owner is not None and names != dict(owner):
        raise DamagedEntryError(
            f"it is that of stage {result.stage!r} of experiment {result.experiment!r} on {result.on}"
        )
    return result, before
