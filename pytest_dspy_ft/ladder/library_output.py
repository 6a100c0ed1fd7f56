"""What DSPy and the libraries under it print and log while a stage is built or measured: into a file of the stage.

Progress bars, scores by the example and candidates of prompts are hundreds of kilobytes, in which what a test's own
program and metric print would not be found. Who writes is seen from the code that writes, whatever thread it runs in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

from pytest_dspy_ft.redaction import redact
from pytest_dspy_ft.text import counted, one_line, shorten

LIBRARIES = frozenset({"dspy", "optuna", "gepa", "litellm"})
LOGGERS = ("dspy", "optuna", "gepa", "LiteLLM")
ON_BEHALF = frozenset({"tqdm", "logging", "contextlib", "threading", "concurrent"})
"""They write for whoever calls them."""
ASKED_FOR = frozenset({"dspy.utils.inspect_history"})
"""They print what a user asks to see."""
MOST_BYTES = 2**20
"""A log larger than this is put aside, in place of the one before, when the next piece of work begins."""

_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y/%m/%d %H:%M:%S")
_STEP = re.compile(r"\b(?:STEP \d+[^<]*|(?:Trial|Iteration|Bootstrapping set|Candidate) \d+(?: ?/ ?\d+)?)")
_ERROR = re.compile(r"\b(?:ERROR|CRITICAL) \S+: (.*)")


class LibraryOutput:
    """What was printed and logged during one piece of work. Safe to use from many threads.

    Args:
        path: The log. It is made, or gone on with, when there is something to write.
        work: What is being done, for the log.

    Attributes:
        path: The log.
        written: True once something is in it.
        step: Where an optimizer is, as it said last; empty where it said nothing of that kind.
        errors: How many errors were logged.
        last_error: The last of them.
    """

    def __init__(self, path: Path, work: str) -> None:
        self.path, self._work = path, work
        self.written = False
        self.step = ""
        self.errors = 0
        self.last_error = ""
        self._lock = threading.Lock()
        self._unfinished: dict[int, str] = {}
        """By thread: the line that it is at."""

    @property
    def summary(self) -> str:
        """What a message adds: where to read it, and the last error."""
        if not self.written:
            return ""
        last = f" (errors: {self.errors}, the last: {shorten(self.last_error, 160)})" if self.errors else ""
        return f"what DSPy logged meanwhile: {self.path}{last}"

    @property
    def told_errors(self) -> str:
        """How many errors were logged, and where, for a line of progress; empty where none was."""
        if not self.errors:
            return ""
        with contextlib.suppress(ValueError):
            return f"{counted(self.errors, 'error')} logged in {self.path.relative_to(Path.cwd())}"
        return f"{counted(self.errors, 'error')} logged in {self.path}"

    def write(self, text: str) -> None:
        """Take what was written, line by line; of a line that was written over again and again, what it was last.

        Raises:
            OSError: The log cannot be written.
        """
        with self._lock:
            thread = threading.get_ident()
            *lines, rest = (self._unfinished.pop(thread, "") + text).split("\n")
            if rest:
                self._unfinished[thread] = _last_version(rest)
            self._keep(lines)

    def finish(self) -> None:
        """Write the lines that nobody has ended."""
        with self._lock:
            lines = list(self._unfinished.values())
            self._unfinished.clear()
            with contextlib.suppress(OSError):
                self._keep(lines)

    def _keep(self, lines: list[str]) -> None:
        said = [line for line in map(_last_version, lines) if line.strip()]
        if not said:
            return
        if not self.written:
            self._begin()
        with self.path.open("a", encoding="utf-8", errors="replace") as log:
            log.write("".join(f"{redact(line)}\n" for line in said))
        for line in said:
            self._notice(redact(line))

    def _begin(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size > MOST_BYTES:
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as log:
            when = time.strftime("%Y-%m-%d %H:%M:%S")
            log.write(f"--- {when}, process {os.getpid()}: {self._work}\n")
        self.written = True

    def _notice(self, line: str) -> None:
        if found := _ERROR.search(line):
            self.errors, self.last_error = self.errors + 1, one_line(found[1])
        elif found := _STEP.search(line):
            self.step = one_line(found[0].strip(" =-"))


class RoutedStream:
    """Stands in place of ``sys.stdout`` or ``sys.stderr``: what libraries write goes to the log, all else on its way.

    Args:
        name: ``stdout`` or ``stderr``.
        under: What stood there.
        output: Takes what libraries write.
    """

    def __init__(self, name: str, under: TextIO, output: LibraryOutput) -> None:
        self._name, self._under, self._output = name, under, output
        self.routes = True

    def write(self, text: str) -> int:
        """Write a text to where it belongs."""
        if self.routes and _by_library(sys._getframe(1), self._output.written):
            with contextlib.suppress(OSError):  # a log that cannot be written: better among the test's output than lost
                self._output.write(text)
                return len(text)
        return self._now().write(text)

    def writelines(self, lines: Any) -> None:
        """Write texts to where they belong."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now(), name)

    def _now(self) -> TextIO:
        """What stands under it; once it is out of use, what took its place."""
        now: Any = self._under if self.routes else getattr(sys, self._name)
        return self._under if now is self else cast("TextIO", now)


class LogWriter(logging.Handler):
    """Writes what a library logs to the log of a stage; where that cannot be written, to where errors go."""

    def __init__(self, output: LibraryOutput) -> None:
        super().__init__()
        self._output = output
        self.setFormatter(_FORMAT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            line = f"{self.format(record)}\n"
            try:
                self._output.write(line)
            except OSError:
                sys.stderr.write(line)
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def _logging_to(writer: LogWriter) -> Iterator[None]:
    """Inside the block, libraries log to the writer; not to a terminal, nor to who listens to every logger there is.

    Such a one is pytest, which puts its handlers on the root logger, and on each that hands nothing on. What a user has
    put on a library's logger itself goes on to be told.
    """
    everywhere = list(logging.getLogger().handlers)
    with contextlib.ExitStack() as restored:
        for name in LOGGERS:
            logger = logging.getLogger(name)
            for handler in list(logger.handlers):
                if handler in everywhere or type(handler) is logging.StreamHandler:
                    logger.removeHandler(handler)
                    restored.callback(logger.addHandler, handler)
            restored.callback(setattr, logger, "propagate", logger.propagate)
            logger.propagate = False
            logger.addHandler(writer)
            restored.callback(logger.removeHandler, writer)
        yield


@contextlib.contextmanager
def logged(output: LibraryOutput) -> Iterator[None]:
    """Inside the block, what DSPy and the libraries under it print and log goes to the log, from whatever thread."""
    routed = [RoutedStream(name, getattr(sys, name), output) for name in ("stdout", "stderr")]
    sys.stdout, sys.stderr = routed
    try:
        with _logging_to(LogWriter(output)):
            yield
    finally:
        for name, stream in zip(("stdout", "stderr"), routed, strict=True):
            stream.routes = False
            if getattr(sys, name) is stream:
                setattr(sys, name, stream._under)
        output.finish()


def _by_library(frame: FrameType | None, known: bool) -> bool:
    """True where a library writes; where only a bar's own thread does, what was known of bars before.

    Args:
        frame: Whoever writes.
        known: A library has written already.
    """
    bar = False
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        root = module.partition(".")[0]
        if root not in ON_BEHALF:
            return root in LIBRARIES and module not in ASKED_FOR
        bar |= root == "tqdm"
        frame = frame.f_back
    return bar and known


def _last_version(line: str) -> str:
    """Of a line that was written over, what it was last."""
    return line.rstrip("\r").rpartition("\r")[2]
