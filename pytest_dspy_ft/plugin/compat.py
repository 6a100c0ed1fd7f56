"""All that leans on the insides of pytest and pytest-xdist: what it leans on, and since which version that is there.

Where no version is named, pytest 6.2 and xdist 2.0 have it already. All of it is in the pytest 8.3 to 9.2 and the
pytest-xdist 3.8 that this is written for.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar, cast

import pytest

FunctionT = TypeVar("FunctionT", bound=pytest.Function)

# --- pytest: items and fixtures --------------------------------------------------------------------------------------


def names_a_test(collector: Any, name: str) -> bool:
    """A function of this name becomes a test here (``PyCollector.funcnamefilter``)."""
    return hasattr(collector, "funcnamefilter") and bool(collector.funcnamefilter(name))


def fixture_definitions(item: Any, fixture: str) -> Sequence[Any]:
    """The definitions of a fixture that a test sees, the nearest last (``Function._fixtureinfo``)."""
    return item._fixtureinfo.name2fixturedefs.get(fixture) or ()


def requesting_item(request: Any) -> Any:
    """The test that a fixture is set up for, whatever the fixture's scope (``FixtureRequest._pyfuncitem``)."""
    return request._pyfuncitem


def parameter_index(item: Any, fixture: str) -> int | None:
    """Which of a fixture's parameters a test has; None without (``Function.callspec.indices``)."""
    return getattr(getattr(item, "callspec", None), "indices", {}).get(fixture)


def empty_test(kind: type[FunctionT], beside: Any, fixture: str, name: str = "") -> FunctionT:
    """A test that does nothing, and requests one fixture just as the test beside it does.

    Leans on ``Function.from_parent`` taking ``callobj``, ``fixtureinfo`` and ``callspec``, on ``Function._fixtureinfo``
    being a dataclass (since pytest 7.3), and on ``Node._id``, which knows an id's brackets apart (since pytest 9.2):
    ``--lf`` compares it with the id that it reads from text.
    """
    names = (fixture,)
    test: Any = kind.from_parent(
        beside.parent,
        name=name or beside.name,
        originalname=None if name else beside.originalname,
        callobj=lambda: None,
        fixtureinfo=dataclasses.replace(
            beside._fixtureinfo, argnames=names, initialnames=names, names_closure=list(names)
        ),
        callspec=getattr(beside, "callspec", None),
    )
    parse = getattr(type(getattr(test, "_id", None)), "parse", None)
    if name and parse is not None:
        test._id = parse(f"{beside.parent.nodeid}::{name}")
    return cast("FunctionT", test)


def request_fixture(item: Any, fixture: str) -> str:
    """Make a collected test function request a fixture, and all that this one needs.

    Leans on ``FixtureManager.getfixtureclosure`` taking the node and the names (since pytest 8.0), on
    ``Function._fixtureinfo`` being a dataclass (since pytest 7.3), and on ``Function._initrequest``.

    Returns:
        The fixture that has parameters, for which it is too late to multiply the test; it is left as it was. Else
        an empty text.
    """
    info = item._fixtureinfo
    names, definitions = item.session._fixturemanager.getfixtureclosure(item, (fixture,), frozenset())
    fresh = [name for name in names if name not in info.names_closure]
    parametrized = [name for name in fresh if name in definitions and definitions[name][-1].params]
    if parametrized:
        return str(parametrized[0])
    item._fixtureinfo = dataclasses.replace(
        info,
        initialnames=(*info.initialnames, fixture),
        names_closure=[*info.names_closure, *fresh],
        name2fixturedefs={**definitions, **info.name2fixturedefs},
    )
    item.fixturenames = item._fixtureinfo.names_closure
    item._initrequest()
    return ""


def fixture_value(item: Any, fixture: str) -> Any:
    """The value of a fixture, for a running test, whether or not it requested it (``Function._request``)."""
    return item.funcargs[fixture] if fixture in item.funcargs else item._request.getfixturevalue(fixture)


def skipped_by_unittest(item: Any) -> bool:
    """A test that :mod:`unittest` will skip when its body is run, which is later than pytest's own marks do."""
    return any(
        getattr(obj, "__unittest_skip__", False) for obj in (getattr(item, "obj", None), getattr(item, "cls", None))
    )


@contextlib.contextmanager
def set_up_and_torn_down(session: Any) -> Iterator[Callable[[pytest.Item], None]]:
    """Gives what sets a test up; at the end all but session-scoped fixtures is torn down again.

    Leans on ``SetupState.setup`` and ``SetupState.teardown_exact`` (since pytest 7.0).
    """
    try:
        yield session._setupstate.setup
    finally:
        session._setupstate.teardown_exact(session)


def skip_test(reason: str) -> NoReturn:
    """Skip the running test, shown where the test stands (``_use_item_location``, since pytest 7.0)."""
    raise pytest.skip.Exception(reason, _use_item_location=True)


def plain_longrepr(path: str, line: int, headline: str, text: str) -> Any:
    """A failure that shows a text and nothing else; its headline stands in the short summary and in JUnit's message.

    Leans on ``ReprExceptionInfo``, ``ReprTraceback``, ``ReprEntryNative`` and ``ReprFileLocation`` of pytest, which
    pytest-xdist carries from its workers because of ``reprtraceback`` and ``reprcrash``.
    """
    from _pytest._code.code import ReprEntryNative, ReprExceptionInfo, ReprFileLocation, ReprTraceback

    entry = ReprEntryNative([f"{one}\n" for one in text.splitlines()])
    return ReprExceptionInfo(
        reprtraceback=ReprTraceback([entry], None, style="native"),
        reprcrash=ReprFileLocation(path, line, headline),
    )


# --- pytest: the session ---------------------------------------------------------------------------------------------


def failed_last_time(config: pytest.Config) -> set[str]:
    """The node ids that ``--lf`` runs again (the key ``cache/lastfailed``); none without ``--lf``."""
    cache = getattr(config, "cache", None)
    if not config.getoption("lf", False) or cache is None:
        return set()
    return set(cache.get("cache/lastfailed", {}))


def knows_option(parser: Any, name: str) -> bool:
    """Whether a plugin or a conftest.py registered an option (``Parser._groups``, ``Parser._anonymous``)."""
    groups = [*getattr(parser, "_groups", ()), getattr(parser, "_anonymous", None)]
    return any(name in option.names() for group in groups if group is not None for option in group.options)


def names_in_ini(config: pytest.Config) -> list[str]:
    """All names that the ini file sets (``Config.inicfg``, since pytest 9.1 ``Config._inicfg``)."""
    known = vars(config).get("_inicfg")
    return list(config.inicfg if known is None else known)  # asking for the public name warns where both are there


def paths_run(config: pytest.Config) -> list[Path] | None:
    """The files and folders that the command line names; None where ``testpaths`` says it (since pytest 7.2)."""
    if config.args_source == pytest.Config.ArgsSource.TESTPATHS:
        return None
    return [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]


def terminal_width(terminalreporter: Any) -> tuple[int, bool]:
    """Columns, and if that is a terminal that shows colours (``TerminalReporter._tw``)."""
    writer = terminalreporter._tw
    return writer.fullwidth, writer.hasmarkup


def terminal_encoding(terminalreporter: Any) -> str:
    """How the terminal's text is encoded (``TerminalWriter._file``)."""
    return getattr(getattr(terminalreporter._tw, "_file", None), "encoding", None) or "ascii"


def uncaptured(stream: TextIO) -> TextIO:
    """The stream as it is now: pytest captures by putting another file in its descriptor's place."""
    try:
        descriptor = os.dup(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return stream  # not a real file: nothing that could be captured below it
    return cast(
        "TextIO", os.fdopen(descriptor, "w", encoding=stream.encoding or "utf-8", errors="replace", buffering=1)
    )


class SharedTerminal:
    """pytest's terminal, of which others take lines: they are told before pytest writes there.

    Leans on ``TerminalReporter._tw``, whose ``write`` is what all its other methods write by, and on
    ``TerminalWriter._current_line`` (since pytest 6.0).

    Args:
        reporter: pytest's terminal reporter.
        aside: Entered around everything that pytest writes, with that text.
    """

    def __init__(self, reporter: Any, aside: Callable[[str], contextlib.AbstractContextManager[None]]) -> None:
        self._writer = writer = reporter._tw
        write = writer.write

        def write_aside(msg: str, *args: Any, **markup: Any) -> None:
            with aside(msg):
                write(msg, *args, **markup)
                writer.flush()

        writer.write = write_aside

    @property
    def current_line(self) -> str:
        """What pytest has written on the line that it is at."""
        return str(getattr(self._writer, "_current_line", ""))

    def release(self) -> None:
        """Leave the terminal to pytest."""
        with contextlib.suppress(AttributeError):
            del self._writer.write


def asked_on_command_line(config: pytest.Config, option: str, default: Any) -> Any:
    """An option of pytest's own, also before plugins are configured (``Config.known_args_namespace``)."""
    return getattr(getattr(config, "known_args_namespace", config.option), option, default)


def has_no_terminal(config: pytest.Config) -> bool:
    """True where nobody reports on a terminal: ``-p no:terminal``, or what may be a worker that was not told so yet.

    Leans on ``PluginManager.is_blocked``, and on the variable that xdist sets before a worker reads its command line.
    """
    plugins = config.pluginmanager
    if plugins.is_blocked("terminal") or plugins.is_blocked("terminalreporter"):
        return True
    return "PYTEST_XDIST_WORKER" in os.environ and not plugins.hasplugin("terminalreporter")


# --- pytest-xdist ----------------------------------------------------------------------------------------------------


def is_worker(config: pytest.Config) -> bool:
    """This process is a worker that reports to a controller (``config.workerinput``)."""
    return hasattr(config, "workerinput")


def worker_input(config: Any, key: str) -> str:
    """``workerid`` or ``testrunuid``, as the controller gave them to a worker; empty elsewhere."""
    return str(config.workerinput[key]) if is_worker(config) else ""


def send_to_controller(config: Any, key: str, content: str) -> None:
    """Send a text to the controller at the session's end (``config.workeroutput``)."""
    config.workeroutput[key] = content


def received_from(node: Any, key: str) -> str | None:
    """The text that a worker sent with :func:`send_to_controller`; None from one that crashed."""
    return getattr(node, "workeroutput", {}).get(key)


def receive_texts(node: Any, key: str, receive: Callable[[str], None]) -> None:
    """Open a way for a worker that is about to start to send texts while it runs; they come in another thread.

    Leans on ``node.gateway`` being execnet's, whose channels can be sent in ``node.workerinput`` (execnet 2.0).
    """
    channel = node.gateway.newchannel()
    channel.setcallback(receive)
    node.workerinput[key] = channel


def text_sender(config: Any, key: str) -> Callable[[str], None] | None:
    """What sends a text to the controller of this worker at once; None where nothing takes it."""
    channel = config.workerinput.get(key)
    return None if channel is None else cast("Callable[[str], None]", channel.send)


def signal_worker(node: Any, number: signal.Signals) -> None:
    """Send a signal to a worker that is a child of this process (execnet 2.0: ``Gateway._io.popen``)."""
    child = getattr(getattr(getattr(node, "gateway", None), "_io", None), "popen", None)
    if child is not None:
        with contextlib.suppress(OSError, ValueError):
            child.send_signal(number)


def start_no_worker(config: pytest.Config) -> None:
    """Let xdist, where it is there, stay in this process (its options ``numprocesses``, ``dist`` and ``tx``)."""
    if hasattr(config.option, "numprocesses"):
        config.option.numprocesses, config.option.dist, config.option.tx = None, "no", []
