"""``--dspy-require``: how many gates were declared and how many were judged, and why the others were not.

A gate is declared by a test that was chosen, once for each parameter of the test; one of a deselected test is no part
of the session. Tests tell of their gates on their reports, so that workers of pytest-xdist are heard as well.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_dspy_ft.plugin.collected import collected_tests
from pytest_dspy_ft.plugin.compat import is_worker, terminal_width
from pytest_dspy_ft.plugin.markers import ITEM_EXPERIMENT, forget_item, marked_gates, read_item
from pytest_dspy_ft.plugin.session import session_of
from pytest_dspy_ft.text import counted, one_line, shorten

if TYPE_CHECKING:
    from pytest_dspy_ft.gates.gate import Gate
    from pytest_dspy_ft.plugin.failures import FailuresOnce
    from pytest_dspy_ft.records.gate import UnjudgedGate

GATES_OF_TEST = "dspy_ft_gates"
"""Attribute of a test report: the test's gates, as JSON."""
GATES_OF_SESSION = "dspy_ft_declared"
"""Attribute of the first report of an xdist worker, as that may crash before its session ends: all gates, as JSON."""

JUDGED: pytest.StashKey[list[pytest.Mark]] = pytest.StashKey()
"""On an item: the marks whose gates were judged."""
_ELSEWHERE: pytest.StashKey[list[Gate]] = pytest.StashKey()
"""On an item: gates for other LMs than its own that the same test judges with another parameter."""
_SENT: pytest.StashKey[bool] = pytest.StashKey()

_NAMED_WITHOUT = 3
"""Tests that are named for a reason where gates are not required."""


class GateState(NamedTuple):
    """A declared gate, and if it was judged."""

    gate: str
    """As it is written, with its split."""
    judged: bool
    why_not: str
    """Known of the gate itself; what became of its test says the rest."""
    experiment: str = ""
    expression: str = ""
    on: str = ""
    by: str | None = None


class Unjudged(NamedTuple):
    """A gate that was declared and not judged."""

    test: str
    state: GateState
    reason: str


# --- in the process that runs tests ----------------------------------------------------------------------------------


def note_declared(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Note the gates of the chosen tests."""
    items = list(items)
    judging = {place for item in items for place, applies in _places(item) if applies}
    for item in items:
        item.stash[_ELSEWHERE] = [place[-1] for place, applies in _places(item) if not applies and place in judging]
    collected_tests(config).gates = {item.nodeid: states for item in items if (states := _states(item))}


def attach_gates(item: pytest.Item, report: pytest.TestReport) -> None:
    """Send a test's gates along with its report, those included that were added by then."""
    if report.when == "setup" and not report.passed:  # else the call reads, and checks, what set-up added
        try:
            read_item(item, session_of(item.config).options.confidence)
        except pytest.UsageError:
            forget_item(item)  # tear-down will say what is wrong
    if states := _states(item):
        setattr(report, GATES_OF_TEST, json.dumps(states))
    if is_worker(item.config) and not item.config.stash.get(_SENT, False):
        item.config.stash[_SENT] = True
        setattr(report, GATES_OF_SESSION, json.dumps(collected_tests(item.config).gates))


def _places(item: pytest.Item) -> Iterator[tuple[tuple[str, str, Gate], bool]]:
    """Each gate of a test with where it stands, the same for all parameters; and if it is for the test's LM."""
    experiment = item.stash.get(ITEM_EXPERIMENT, None)
    if experiment is not None and hasattr(experiment, "stages"):
        name = getattr(item, "originalname", None) or item.name
        for _, gate in marked_gates(item):
            yield (item.parent.nodeid if item.parent else "", name, gate), gate.applies_to(experiment.lm.model)


def _states(item: pytest.Item) -> list[GateState]:
    experiment = item.stash.get(ITEM_EXPERIMENT, None)
    judged = item.stash.get(JUDGED, [])
    states = []
    for mark, gate in reversed(marked_gates(item)):
        if gate in item.stash.get(_ELSEWHERE, []):
            continue
        why_not = ""
        if experiment is not None and hasattr(experiment, "stages") and not gate.applies_to(experiment.lm.model):
            why_not = f"lm={gate.lm!r} does not match {experiment.lm.model}"
        was_judged = any(mark is known for known in judged)
        by = f" by {gate.by}" if gate.by else ""
        name = str(getattr(experiment, "name", ""))
        shown = f"`{gate.expression}`{by} on {gate.on}"
        states.append(GateState(shown, was_judged, why_not, name, gate.expression, gate.on, gate.by))
    return states


# --- in the process that the user looks at ---------------------------------------------------------------------------


class RequiredGates:
    """Hooks that count the gates, and fail the session where one was to be judged and was not.

    Args:
        config: Of the session.
        failures: What the failures of tests say.
    """

    def __init__(self, config: pytest.Config, failures: FailuresOnce) -> None:
        self._config = config
        self._failures = failures
        self._required = session_of(config).options.require
        self._told: dict[str, list[GateState]] = {}
        self._outcomes: dict[str, str] = {}
        self._xfailed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a report says of its test's gates."""
        for nodeid, states in json.loads(getattr(report, GATES_OF_SESSION, "{}")).items():
            self._told.setdefault(nodeid, [GateState(*state) for state in states])
        if (states := getattr(report, GATES_OF_TEST, None)) is not None:
            self._told[report.nodeid] = [GateState(*state) for state in json.loads(states)]
        if report.when != "teardown":  # the last of set-up and call counts, also where the test is run once more
            self._outcomes[report.nodeid] = _outcome(report)
            keep = self._xfailed.add if report.skipped and hasattr(report, "wasxfail") else self._xfailed.discard
            keep(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A session that left a required gate unjudged is no success."""
        passed = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if self._required and passed and not self._only_lists() and any(self._unjudged()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say how many gates were declared and judged, and why the others were not: each by name where required."""
        declared = sum(map(len, self._declared().values()))
        if self._only_lists() or not declared:
            return
        unjudged = list(self._unjudged())
        lacking = bool(unjudged) and self._required
        instead = self._runs_none()
        only_planned = bool(instead) and not self._required
        rule = "; all are required (--dspy-require)" if lacking else f" ({instead})" if only_planned else ""
        more = "; -v shows all of each failure" if self._failures.has_cut else ""
        line = f"dspy: {counted(declared, 'gate')} declared, {declared - len(unjudged)} judged{rule}{more}"
        terminalreporter.write_line(line, red=lacking)
        if only_planned:
            return  # one reason for all
        if self._required:
            for line in _each(unjudged):
                terminalreporter.write_line(line, red=lacking)
            return
        width, _ = terminal_width(terminalreporter)
        for line in _in_short(unjudged):  # a note; what is required is named in full, on however narrow a terminal
            terminalreporter.write_line(shorten(line, width, mark="..."), yellow=True)

    def unjudged_gates(self) -> Iterator[UnjudgedGate]:
        """The gates for the session's LMs that were not judged, as the session's record has them."""
        from pytest_dspy_ft.records.gate import UnjudgedGate

        for test, state, reason in self._unjudged():
            if not state.why_not:
                told = {name: getattr(state, name) for name in ("experiment", "expression", "on", "by")}
                yield UnjudgedGate.model_validate({**told, "test": test, "reason": reason})

    def _runs_none(self) -> str:
        """Why no test is run; empty where they are."""
        instead = session_of(self._config).options.instead
        return f"{instead} runs no test" if instead else ""

    def _only_lists(self) -> bool:
        return bool(self._config.option.collectonly)

    def _declared(self) -> dict[str, list[GateState]]:
        collected = collected_tests(self._config).gates
        return {nodeid: [GateState(*state) for state in states] for nodeid, states in collected.items()} | self._told

    def _unjudged(self) -> Iterator[Unjudged]:
        not_run = self._runs_none() or "its test was not run"
        for nodeid, states in self._declared().items():
            for state in states:
                if not state.judged or nodeid in self._xfailed:
                    reason = state.why_not or self._outcomes.get(nodeid, not_run)
                    yield Unjudged(nodeid, state, one_line(reason))


def _outcome(report: pytest.TestReport) -> str:
    """Why a gate was not judged, as far as what became of its test tells."""
    if report.skipped and hasattr(report, "wasxfail"):
        return f"xfailed: {report.wasxfail}" if report.wasxfail else "xfailed"
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return f"skipped: {reason.removeprefix('Skipped: ')}"
    if report.failed:
        return {"setup": "its set-up failed", "call": "its test failed before a verdict"}.get(
            str(report.when), "its worker crashed"
        )
    return "its test ran without judging it"


def _each(unjudged: Iterable[Unjudged]) -> Iterator[str]:
    for test, state, reason in unjudged:
        yield f"NOT JUDGED {test}: {state.gate}: {reason}"


def _in_short(unjudged: Iterable[Unjudged]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for test, _, reason in unjudged:
        by_reason.setdefault(reason, []).append(test)
    for reason, tests in by_reason.items():
        names = list(dict.fromkeys(tests))
        more = [f"{len(names) - _NAMED_WITHOUT} more"] if len(names) > _NAMED_WITHOUT else []
        yield f"  {len(tests)} not judged, {reason} ({', '.join([*names[:_NAMED_WITHOUT], *more])})"
