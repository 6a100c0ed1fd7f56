"""Failures as tests report them: each thing is said once, where it is met first; later tests point there.

A failure of ours travels on its test's report as its parts, so that the process that shows reports can leave out what
another test has said, whichever process ran that test. What is left out is named with the test that says it.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest

from pytest_dspy_ft.errors import DspyFtError, DspyFtWarning
from pytest_dspy_ft.plugin.compat import plain_longrepr
from pytest_dspy_ft.text import first_line, shorten
from pytest_dspy_ft.tracebacks import users_entry

FAILURE = "dspy_ft_failure"
"""Attribute of a report that carries a failure of ours, as JSON."""

_ROOM = {1: 30, 2: 12, 3: 4, 4: 2}
"""Lines that each failed gate shows below its first, by the number of those that failed; one for more. ``-v``: all."""

_LONGEST = 150
"""Characters of what is told in one line."""

_WORTH = (
    r"  (TOO MANY )?ERRORS",
    r"  CAUTION",
    r"  (  |Slice )",
    r"  Look next: .*\bn = ",
    r"  (wrong|broke) \S+ \(1 of",
    r"  Look next",
    r"  (?!wrong |broke )",
)
"""How the parts of a gate's message begin, those first that are worth most where there is little room."""


@dataclass(frozen=True)
class FailurePart:
    """One thing that is wrong: a gate that does not hold, or an error."""

    headline: str
    """In one line, what is worth most first: terminals cut it off."""
    text: str
    stage: str = ""
    """The stage that is not there, where it is about one."""
    experiment: str = ""
    """The experiment of that stage."""
    is_gate: bool = False


@dataclass(frozen=True)
class _Failure:
    """What a report carries of a failure."""

    parts: tuple[FailurePart, ...]
    path: str
    line: int
    """Where it happened: a line of the user's, from 1."""
    has_source: bool
    """Pytest shows the lines of source that it came from."""

    @classmethod
    def read(cls, packed: str) -> _Failure:
        content = json.loads(packed)
        return cls(**{**content, "parts": tuple(FailurePart(**part) for part in content["parts"])})


class PlainFailure(pytest.fail.Exception):  # type: ignore[name-defined,misc]
    """Fails a test with a text that is meant for the user as it stands, without a traceback.

    Args:
        parts: What is wrong.
    """

    def __init__(self, *parts: FailurePart) -> None:
        super().__init__("\n\n".join(part.text for part in parts), pytrace=False)
        self.parts = parts


def plain_failure(text: str) -> PlainFailure:
    """The failure that says a text."""
    return PlainFailure(FailurePart(first_line(text), text))


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Our own errors are written for the user: show the message without a traceback through our code."""
    try:
        yield
    except (DspyFtError, pytest.UsageError) as error:
        raise PlainFailure(_part(error)).with_traceback(error.__traceback__) from None
    except DspyFtWarning as warning:  # a filter makes it an error
        raise plain_failure(f"{type(warning).__name__}: {warning}") from None


def _part(error: DspyFtError | pytest.UsageError) -> FailurePart:
    text = str(error)
    if isinstance(error, pytest.UsageError):
        return FailurePart(first_line(text), text)
    return FailurePart(first_line(text), text, error.stage, error.experiment)


# --- in the process that runs tests ----------------------------------------------------------------------------------


@contextlib.contextmanager
def ending_at_users_line(config: pytest.Config, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """Meanwhile, the traceback of one of our own errors ends at the user's line that called us: the rest is ours.

    Args:
        config: Of the session; ``--full-trace`` shows all.
        call: What happened.
    """
    error = call.excinfo.value if call.excinfo is not None else None
    if not isinstance(error, DspyFtError) or config.getoption("fulltrace", False):
        yield
        return
    cause, suppress = error.__cause__, error.__suppress_context__
    error.__cause__, error.__suppress_context__ = None, True
    if (last := users_entry(error.__traceback__)) is not None:
        last.tb_next = None
    try:
        yield
    finally:
        error.__cause__, error.__suppress_context__ = cause, suppress


def shorten_collection(collector: pytest.Collector, report: pytest.CollectReport) -> None:
    """End the traceback of an error of ours, raised while a file was collected, at the user's line."""
    call: pytest.CallInfo[Any] | None = getattr(report, "call", None)
    if not report.failed or call is None or call.excinfo is None:
        return
    if isinstance(error := call.excinfo.value, DspyFtError):
        with ending_at_users_line(collector.config, call):
            shown: Any = collector.repr_failure(call.excinfo)
        report.longrepr = shown
        if (crash := getattr(shown, "reprcrash", None)) is not None:
            crash.message = _part(error).headline


def attach_failure(item: pytest.Item, call: pytest.CallInfo[Any], report: pytest.TestReport) -> None:
    """Send a failure of ours along with its test's report."""
    error = call.excinfo.value if call.excinfo is not None else None
    if not report.failed or not isinstance(error, PlainFailure | DspyFtError):
        return
    parts = error.parts if isinstance(error, PlainFailure) else (_part(error),)
    path, line = str(item.path), (item.location[1] or 0) + 1
    if (last := users_entry(error.__traceback__)) is not None:
        path, line = last.tb_frame.f_code.co_filename, last.tb_lineno
    failure = _Failure(parts, path, line, isinstance(error, DspyFtError))
    setattr(report, FAILURE, _redacted(json.dumps(asdict(failure))))
    report.longrepr = _shown(report.longrepr, failure, parts)


def _redacted(text: str) -> str:
    from pytest_dspy_ft.redaction import redact

    return redact(text)


def _shown(longrepr: Any, failure: _Failure, parts: Sequence[FailurePart]) -> Any:
    """A failure as pytest shows it: its source where there is some and nothing is left out, else its texts."""
    headline = "; ".join(part.headline for part in parts)
    if failure.has_source and tuple(parts) == failure.parts:
        if (crash := getattr(longrepr, "reprcrash", None)) is not None:
            crash.message = headline  # without the name of a class
        return longrepr
    return plain_longrepr(failure.path, failure.line, headline, "\n\n".join(part.text for part in parts))


# --- in the process that the user looks at ---------------------------------------------------------------------------


@dataclass
class _Said:
    """What the failures of a session have said so far, each with the test that said it."""

    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    blocks: dict[str, str] = field(default_factory=dict)


class FailuresOnce:
    """Hooks that leave out of a failure what an earlier one has said.

    Args:
        config: Of the session.

    Attributes:
        has_cut: Something of a gate's message is not shown; ``-v`` shows it.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._said = _Said()
        self.has_cut = False
        self._reports: list[tuple[pytest.TestReport, _Failure]] = []
        self._stages: dict[tuple[str, str], str] = {}

    def stages(self, experiment: str) -> dict[str, str]:
        """The stages whose failure a test tells in full, each with that test; none where pytest shows no failures."""
        if self._config.getoption("tbstyle", "auto") in ("no", "line"):
            return {}
        return {stage: test for (name, stage), test in self._stages.items() if name == experiment}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Shorten a failure before others (JUnit, plugins that show failures at once) see it."""
        packed = getattr(report, FAILURE, None)
        if packed is None or not report.failed:
            return
        failure = _Failure.read(packed)
        self._reports.append((report, failure))
        for part in failure.parts:
            if part.stage:
                self._stages.setdefault((part.experiment, part.stage), report.nodeid)
        self._shorten(report, failure, self._said, None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Now that all failures are known, show as much of each gate as there is room for."""
        failing = sum(part.is_gate for _, failure in self._reports for part in failure.parts)
        most = None if self._config.getoption("verbose", 0) > 0 else _ROOM.get(failing, 1)
        said = _Said()
        for report, failure in self._reports:
            self._shorten(report, failure, said, most)

    def _shorten(self, report: pytest.TestReport, failure: _Failure, said: _Said, most: int | None) -> None:
        parts = [self._shortened(part, report.nodeid, said, most) for part in failure.parts]
        final = said is not self._said
        if final and report.when == "call" and self._config.getoption("tbstyle", "auto") == "line":
            parts = [replace(part, text="") for part in parts]  # pytest writes the headline
        report.longrepr = _shown(report.longrepr, failure, parts)

    def _shortened(self, part: FailurePart, nodeid: str, said: _Said, most: int | None) -> FailurePart:
        first = said.texts.setdefault((part.experiment, part.text), nodeid)
        if first == nodeid:
            text = self._text(part, nodeid, said, most)
            return replace(part, text=text, headline=first_line(text) if part.stage else part.headline)
        if part.stage:
            line = f"needs stage {part.stage!r}, which failed: see {first}"
            return FailurePart(line, line)
        return replace(part, text=f"as {first} says: {part.headline}")

    def _text(self, part: FailurePart, nodeid: str, said: _Said, most: int | None) -> str:
        """A part of a failure without what is said already."""
        for (experiment, text), other in said.texts.items():
            if part.stage and other != nodeid and experiment == part.experiment and text in part.text:
                return part.text.replace(text, f"see {other}")
        if not part.is_gate:
            return part.text
        first, *rest = part.text.splitlines()
        blocks = ["\n".join(block) for block in _blocks(rest)]
        fresh = [block for block in blocks if said.blocks.setdefault(block, nodeid) == nodeid]
        kept = fresh if most is None else _worthiest(fresh, most)
        self.has_cut = self.has_cut or len(kept) < len(fresh)
        for block in fresh:
            if block not in kept:
                del said.blocks[block]
        return "\n".join([first, *(_cut(block, most) for block in kept)])


def _cut(block: str, most: int | None) -> str:
    """The block, on one line where it has more than ``most``, its end cut off where it is long."""
    lines = block.splitlines()
    if most is None or len(lines) <= most:
        return block
    return "  " + shorten("; ".join(line.strip() for line in lines), _LONGEST)


def _worthiest(blocks: Sequence[str], most: int) -> list[str]:
    """The blocks that are worth most, in their order, as many as fit into so many lines, but one at least."""
    chosen: list[str] = []
    for block in sorted(blocks, key=_rank):
        if not chosen or sum(one.count("\n") + 1 for one in (*chosen, block)) <= most:
            chosen.append(block)
    return [block for block in blocks if block in chosen]


def _rank(block: str) -> int:
    return next((rank for rank, begins in enumerate(_WORTH) if re.match(begins, block)), len(_WORTH))


def _blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Lines that belong together: one that is set in by two spaces, with those below it that are set in further."""
    block: list[str] = []
    for line in lines:
        if block and not line.startswith("   "):
            yield block
            block = []
        block.append(line)
    if block:
        yield block
