"""The folder of recordings: JSON lines, one file for each model, sorted, and safe for several processes at once.

Layout::

    openai-gpt-4o-mini.jsonl   {"text": ID, "value": ...}   long texts that calls refer to, each once
                               {"call": KEY, ...}           one call with its answer
    jobs.jsonl                 {"job": KEY, ...}            what a hosted fine-tuning job came to
    complete.jsonl             {"complete": KEY, ...}       stages and evaluations all of whose calls are here
    .work/                     a session's new lines until it ends; never committed

Every line of these files and of the journal has a ``checksum``; lines of before, without one, are read as they stand.

While a session runs, every new line goes at once to a journal below ``.work``, which all its processes read and write
under a lock; at its end the journal is merged into the files. A killed session loses nothing: the next one reads, and
merges, what it finds. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_dspy_ft.checksums import CHECKSUM
from pytest_dspy_ft.errors import RecordingError, RecordingWarning
from pytest_dspy_ft.files import LONE_SURROGATES, write_atomically
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.locks import locked
from pytest_dspy_ft.redaction import redact
from pytest_dspy_ft.tracebacks import warn

Line = dict[str, Any]

KINDS = ("call", "job", "complete")
"""The first field of a line, which holds its key."""
LONG_TEXT = 160
"""A message longer than this, other than the last, is written once for all calls that begin with it."""


class RecordingFolder:
    """Recorded lines by kind and key.

    Args:
        path: The folder; made when something is first written.
        session: Identifies the session among those that write to the folder.
        read_only: Change nothing in it, not even by a lock: for plans.
    """

    def __init__(self, path: Path | str, session: str = "", *, read_only: bool = False) -> None:
        self.path = Path(path).absolute()
        self._session = session or uuid.uuid4().hex
        self._lines: dict[str, dict[str, Line]] = {kind: {} for kind in KINDS}
        self._mine: set[tuple[str, str]] = set()
        self._read = 0
        self._told = False
        self._thread_lock = threading.Lock()
        for file in sorted(self.path.glob("*.jsonl")):
            for kind, line in _read_file(file):
                self._lines[kind][line[kind]] = line
        with self._locked() if self._journal.is_file() and not read_only else contextlib.nullcontext():
            self._read_journal()

    def get(self, kind: str, key: str, *, of_this_session: bool = False) -> Line | None:
        """A line, or None.

        Args:
            kind: ``call``, ``job`` or ``complete``.
            key: Its key.
            of_this_session: Only what this session recorded.
        """
        if of_this_session and (kind, key) not in self._mine:
            return None
        return self._lines[kind].get(key)

    def all(self, kind: str) -> list[Line]:
        """All lines of a kind."""
        return list(self._lines[kind].values())

    def add(self, kind: str, line: Line, file: str, *, over_older: bool) -> Line:
        """Keep a line, unless another thread or process of the session was faster.

        Args:
            kind: ``call``, ``job`` or ``complete``.
            line: JSON; ``line[kind]`` is its key.
            file: Name of the file it will stand in, without extension.
            over_older: Whether it takes the place of one from an earlier session.

        Returns:
            The line that counts.
        """
        key = line[kind]
        with self._thread_lock, self._locked():
            self._read_journal()
            known = self.get(kind, key, of_this_session=over_older)
            if known is not None:
                return known
            content = {"session": self._session, "file": file, "line": line}
            entry = json.dumps({**content, CHECKSUM: _checksum(content)}, ensure_ascii=False)
            with self._journal.open("ab") as stream:
                stream.truncate(self._whole_length())  # a killed writer left half a line: nobody else writes now
                stream.write(f"{entry}\n".encode("utf-8", LONE_SURROGATES))
            self._read_journal()
            return line

    def merge(self) -> None:
        """Bring the journal's lines into the files, each file replaced whole."""
        if not self._journal.is_file():
            return
        with self._thread_lock, self._locked():
            fresh: dict[str, list[Line]] = {}
            for entry in self._entries(0):
                fresh.setdefault(str(entry["file"]), []).append(entry["line"])
            for name, lines in fresh.items():
                file = self.path / f"{name}.jsonl"
                content: dict[tuple[str, str], Line] = {}
                for kind, line in _read_file(file) if file.is_file() else ():
                    content[kind, line[kind]] = line
                for line in lines:
                    kind = _kind(line)
                    content[kind, line[kind]] = line
                _write_file(file, content)
            self._journal.unlink(missing_ok=True)
            self._read = 0

    @property
    def _journal(self) -> Path:
        return self.path / ".work" / "journal.jsonl"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        work = self.path / ".work"
        try:
            work.mkdir(parents=True, exist_ok=True)
            ignore = work / ".gitignore"
            if not ignore.exists():
                ignore.write_text("# A session's new recordings until it ends.\n*\n", encoding="utf-8")
        except OSError as problem:
            raise RecordingError(
                f"cannot write recordings to {self.path}: {problem.strerror or problem}; choose another folder with "
                "the ini setting dspy_recordings"
            ) from problem
        with locked(work / "lock"):
            yield

    def _read_journal(self) -> None:
        if not self._journal.is_file():
            return
        if self._journal.stat().st_size < self._read:
            self._read = 0  # another session has merged it, and begun a new one
        for entry in self._entries(self._read):
            line = entry["line"]
            kind = _kind(line)
            self._lines[kind][line[kind]] = line
            if entry["session"] == self._session:
                self._mine.add((kind, line[kind]))
        self._read = self._whole_length()

    def _whole_length(self) -> int:
        """The journal's length without half a line at its end, in bytes."""
        with self._journal.open("rb") as stream:
            size = stream.seek(0, 2)
            if not size:
                return 0
            stream.seek(-1, 2)
            if stream.read(1) == b"\n":
                return size
            stream.seek(0)
            return stream.read().rfind(b"\n") + 1

    def _entries(self, start: int) -> Iterator[dict[str, Any]]:
        with self._journal.open("rb") as stream:
            stream.seek(start)
            for raw in stream:
                if (entry := _whole_entry(raw)) is not None:
                    yield entry
                elif raw.strip() and raw.endswith(b"\n") and not self._told:  # else a killed writer left half of it
                    self._told = True
                    warn(
                        f"{self._journal} has a line that is not as it was written; what it recorded is missing, and "
                        "will be recorded anew where --dspy-record allows it",
                        RecordingWarning,
                    )


def file_name(model: str) -> str:
    """The file in which a model's calls stand, without extension."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", model).strip(".-")[:80] or "model"


def _checksum(content: dict[str, Any]) -> str:
    """The checksum of a line as a file will hold it: without keys."""
    return digest_json(json.loads(redact(json.dumps(content, ensure_ascii=False))), length=16)


def _whole_entry(raw: bytes) -> dict[str, Any] | None:
    """An entry of the journal; None where it is not as it was written."""
    try:
        entry = json.loads(raw)
        checksum = entry.pop(CHECKSUM, None)
        _kind(entry["line"])
        whole = {"session", "file", "line"} == entry.keys()
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration):
        return None
    return entry if whole and (checksum is None or checksum == _checksum(entry)) else None


def _kind(line: Line) -> str:
    return next(kind for kind in KINDS if kind in line)


def _read_file(file: Path) -> Iterator[tuple[str, Line]]:
    """The lines of a file, texts put back in their places."""
    texts: dict[str, str] = {}
    content = file.read_bytes().decode("utf-8", "surrogatepass")  # earlier versions wrote them raw
    for number, raw in enumerate(content.split("\n"), 1):  # not splitlines: JSON may hold a U+2028
        if not raw.strip():
            continue
        try:
            line = json.loads(raw)
            checksum = line.pop(CHECKSUM, None)
            if "text" in line and "value" in line:
                texts[line["text"]] = line["value"]
                continue
            kind = _kind(line)
            for message in line.get("messages", ()):
                if isinstance(message.get("content"), dict):
                    message["content"] = texts[message["content"]["text"]]
        except (ValueError, StopIteration, KeyError, TypeError, AttributeError) as problem:
            raise RecordingError(
                f"{file}:{number}: not a recording ({problem!r}); restore the file, or delete it and record anew"
            ) from None
        if checksum is not None and checksum != _checksum(line):
            raise RecordingError(
                f"{file}:{number}: not as it was recorded (its checksum does not match): restore the file, or delete "
                f'the line and record anew; a change that is meant needs the line without its "{CHECKSUM}"'
            )
        yield kind, line


def _write_file(file: Path, content: dict[tuple[str, str], Line]) -> None:
    texts: dict[str, str] = {}
    lines = []
    for kind, key in sorted(content):
        line = {**content[kind, key], CHECKSUM: _checksum(content[kind, key])}
        if "messages" in line:
            messages = [dict(message) for message in line["messages"]]
            for message in messages[:-1]:
                value = message.get("content")
                if isinstance(value, str) and len(value) > LONG_TEXT:
                    texts[identity := digest_json(value, length=12)] = value
                    message["content"] = {"text": identity}
            line["messages"] = messages
        lines.append(line)
    shared = [{"text": identity, "value": texts[identity]} for identity in sorted(texts)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (*shared, *lines))
    write_atomically(file, text)
