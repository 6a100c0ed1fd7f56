"""How fast this machine works with a local model: noted while it works, and kept beside the converted weights.

A figure belongs to one model, processor and number of threads. Work is counted in tokens: of prompts, those that are
computed (not those of a prefix that is there already); a token of a reply counts :data:`REPLY_TOKEN` times, as it takes
a step of its own; of trainings, those that are computed, common prefixes once a batch.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import platform
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.local.weights import cache_dir

Work = Literal["answering", "training", "loading"]

REPLY_TOKEN = 2.0
"""Prompt tokens that take as long as one token of a reply, in batches of 16 to 64."""

FEWEST_ROWS = 4
"""Smaller batches tell nothing of an evaluation: a reply's step takes as long for one row as for many."""

FILE = "pace.json"
FORGETTING = 0.5
"""What earlier processes noted counts so much beside what this one does: a machine may be busier today."""
MOST_ENTRIES = 32
_WRITTEN_AFTER = 2.0
"""Seconds of work that are not written down yet."""


@dataclass(frozen=True)
class Pace:
    """Seconds that work takes on this machine; None where none was noted."""

    answering: float | None = None
    """For a token."""
    training: float | None = None
    """For a token."""
    loading: float | None = None
    """For the model, the packages that it needs included."""
    noted: str = ""
    """The day of the last note."""


class PaceNotes:
    """The notes of this process, and the file that they are kept in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._units: Counter[tuple[str, Work]] = Counter()
        self._seconds: Counter[tuple[str, Work]] = Counter()
        self._unwritten = 0.0
        self._before: dict[str, Any] | None = None

    def note(self, model: str, work: Work, units: float, seconds: float) -> None:
        """Note work that was done.

        Args:
            model: The name of its source.
            work: Its kind.
            units: Tokens, as this module counts them; 1 for loading.
            seconds: What it took.
        """
        if units <= 0 or seconds <= 0:
            return
        with self._lock:
            key = _key(model)
            self._units[key, work] += units  # type: ignore[assignment]
            self._seconds[key, work] += seconds  # type: ignore[assignment]
            self._unwritten += seconds
            due = self._unwritten >= _WRITTEN_AFTER
        if due:
            self.write()

    def known(self, model: str) -> Pace:
        """What was noted of a model on this machine, by any process."""
        entry = self._merged().get(_key(model), {})
        rates = {work: entry[work]["seconds"] / entry[work]["units"] for work in Work.__args__ if work in entry}  # type: ignore[attr-defined]
        return Pace(**rates, noted=entry.get("noted", ""))

    def write(self) -> None:
        """Write the notes down; a folder that cannot be written to keeps none."""
        with contextlib.suppress(OSError):
            merged = self._merged()
            newest = dict(sorted(merged.items(), key=lambda item: item[1].get("noted", ""))[-MOST_ENTRIES:])
            _file().parent.mkdir(parents=True, exist_ok=True)
            write_atomically(_file(), json.dumps(newest, indent=1, sort_keys=True) + "\n")
            with self._lock:
                self._unwritten = 0.0

    def flush(self) -> None:
        """At the end of the process: what is not written yet is."""
        if self._unwritten:
            self.write()

    def _merged(self) -> dict[str, Any]:
        """All notes: this process' own beside what others had written when it made its first."""
        with self._lock:
            if not self._units:
                return _read()
            if self._before is None:
                self._before = _read()
            merged = {**_read(), **{key: dict(entry) for key, entry in self._before.items()}}
            for (key, work), units in self._units.items():
                earlier = self._before.get(key, {}).get(work, {"units": 0.0, "seconds": 0.0})
                merged.setdefault(key, {})[work] = {
                    "units": FORGETTING * earlier["units"] + units,
                    "seconds": FORGETTING * earlier["seconds"] + self._seconds[key, work],
                }
                merged[key]["noted"] = datetime.now(UTC).date().isoformat()
            return merged


NOTES = PaceNotes()
atexit.register(NOTES.flush)


def reply_work(prompt_tokens: float, reply_tokens: float) -> float:
    """The tokens that one answer counts for.

    Args:
        prompt_tokens: Those of the prompt that are computed for it.
        reply_tokens: Those of the reply.
    """
    return prompt_tokens + REPLY_TOKEN * reply_tokens


def _key(model: str) -> str:
    """A model on this machine: with its processor, its threads, and whether it has a GPU."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(_cores())
    device = "cuda" if Path("/dev/nvidia0").exists() else "cpu"
    return f"{model} | {_processor()} | {threads} threads | {device}"


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file() -> Path:
    return cache_dir() / FILE


def _read() -> dict[str, Any]:
    """The file's entries; none where it is missing or not ours."""
    try:
        content = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: entry for key, entry in content.items() if _is_entry(entry)} if isinstance(content, dict) else {}


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("noted"), str):
        return False
    rates = [rate for name, rate in entry.items() if name != "noted"]
    return all(
        isinstance(rate, Mapping)
        and all(isinstance(rate.get(name), int | float) and rate[name] > 0 for name in ("units", "seconds"))
        for rate in rates
    )
