"""Collections of traces that outlive the build they were made for: other training settings need no other traces.

Below ``collections/EXPERIMENT/STAGE/KEY/`` of the store, where KEY stands for all that traces depend on (program,
prompt, teacher, train split, metric, ``accept``, adapter, LMs) and not for how is trained on them.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_dspy_ft.checksums import CHECKSUM, value_checksum
from pytest_dspy_ft.errors import StoreWarning
from pytest_dspy_ft.files import write_json_atomically
from pytest_dspy_ft.finetune.hosted.journal import now
from pytest_dspy_ft.records.base import Record
from pytest_dspy_ft.records.build import BootstrapRecord
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.redaction import redact

_FILE = "collection.json"


class KeptCollection(Record):
    """The rows that a stage's traces gave, and the traces themselves."""

    session: str
    created: str
    bootstrap: BootstrapRecord
    rows: tuple[tuple[str, dict[str, Any]], ...]
    """(predictor, row)."""
    traces: tuple[str, ...]
    """A line of JSON each."""
    lm_failed: bool
    """An LM failed one of them, and may answer another time."""
    footprint: Footprint | None


class KeptCollections:
    """The collection of one stage, whatever its training settings.

    Args:
        folder: Where it lies; made when it is first written.
        session: The session that asks or writes.
        rebuild: True asks anew, and counts only what this session collected.
        believed: Says of what a collection rests on whether that is so still.
        resting_on: Says what the collection that is made now rests on.
        used: Told of the collection that stands in for a new one.
    """

    def __init__(
        self,
        folder: Path,
        session: str,
        *,
        rebuild: bool,
        believed: Callable[[Footprint | None], bool],
        resting_on: Callable[[], Footprint | None],
        used: Callable[[KeptCollection], None] = lambda collection: None,
    ) -> None:
        self._folder, self._session, self._rebuild = folder, session, rebuild
        self._believed, self._resting_on, self._used = believed, resting_on, used

    def find(self) -> KeptCollection | None:
        """The collection that counts now; None where traces are to be collected."""
        found = self._read()
        if found is None or not self._believed(found.footprint):
            return None
        if found.session != self._session and (self._rebuild or found.lm_failed):
            return None
        return found

    def use(self) -> KeptCollection | None:
        """The collection that stands in for a new one, or None; it is said that it does."""
        if (found := self.find()) is not None:
            self._used(found)
        return found

    def add(
        self,
        bootstrap: BootstrapRecord,
        rows: Sequence[tuple[str, Mapping[str, Any]]],
        traces: Sequence[str],
        *,
        lm_failed: bool,
    ) -> None:
        """Keep what was collected, in place of what was there."""
        kept = KeptCollection(
            session=self._session,
            created=now(),
            bootstrap=bootstrap,
            rows=tuple((name, dict(row)) for name, row in rows),
            traces=tuple(traces),
            lm_failed=lm_failed,
            footprint=self._resting_on(),
        )
        content = json.loads(redact(json.dumps(kept.model_dump(mode="json"), ensure_ascii=False)))
        with contextlib.suppress(OSError):  # the build has its own copy of the traces: this one spares the next
            write_json_atomically(
                self._folder / _FILE, {**content, CHECKSUM: value_checksum({"traces": self._folder.name}, content)}
            )

    def _read(self) -> KeptCollection | None:
        path = self._folder / _FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop(CHECKSUM) == value_checksum({"traces": self._folder.name}, content):
                return KeptCollection.model_validate(content)
            problem = "its checksum does not match its content and its place"
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            problem = str(error).partition("\n")[0]
        warnings.warn(f"{path} is not as it was written ({problem}): traces are collected anew", StoreWarning, 4)
        return None
