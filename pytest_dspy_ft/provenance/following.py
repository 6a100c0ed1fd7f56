"""Which of the user's functions run: each code object of theirs is seen once, whoever calls it and in which thread.

From Python 3.12 on ``sys.monitoring`` tells of a code object when it first starts, and is then switched off for it, so
that following costs next to nothing. Before, the C profiler of the standard library (``cProfile``) counts calls, thread
by thread. It costs a share of the Python time of what it follows: beside a real LM that is nothing, and every example
is followed; where examples take no time, only so many are that the evaluation is slowed by a few per cent.
"""

from __future__ import annotations

import contextlib
import contextvars
import cProfile
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, Protocol

from pytest_dspy_ft.fingerprint.origin import is_user_file

_NEW_LOCALS = 0x02
"""``inspect.CO_NEWLOCALS``: set for functions, not for the bodies of modules and classes."""

OWN_THREADS = "dspy-ft"
"""How the names of our own worker threads begin: what they do is followed call by call."""

_SHARE = 0.03
"""How much longer an evaluation may take by being followed, where following costs something."""

_PROFILED_SHARE = 0.5
"""How much of the thread's time under the profiler is the profiler's own, at most: measured for DSPy's Python code."""

_MOST_TOLD = 10_000
"""So often a code object is told of that not every follower has seen, where being told of it costs something."""

_ALWAYS = 2
"""So many calls are followed in every thread, whatever they cost."""


class Follower(Protocol):
    """Collects the code objects of the user's functions that run."""

    def block(self) -> contextlib.AbstractContextManager[None]:
        """All that runs in this thread and in threads begun meanwhile is followed."""

    def session(self) -> contextlib.AbstractContextManager[None]:
        """A piece of work whose :meth:`one` calls are followed, with the threads that they begin."""

    def one(self) -> contextlib.AbstractContextManager[None]:
        """One call of many, in the thread that makes it."""

    @property
    def codes(self) -> list[CodeType]:
        """The user's code objects that ran so far."""

    @property
    def share(self) -> float:
        """The share of the :meth:`one` calls that were followed."""

    @property
    def hindrance(self) -> str:
        """Why nothing could be followed; empty where it could."""


def follower(*, aside: bool = False) -> Follower:
    """A follower for this version of Python.

    Args:
        aside: It follows nothing but its own :meth:`Follower.one` calls: another follower has the rest.
    """
    return _Monitored(aside=aside) if sys.version_info >= (3, 12) else _Profiled(aside=aside)


_in_charge: contextvars.ContextVar[Any] = contextvars.ContextVar("dspy_ft_follower", default=None)
"""Whose call the code that runs here belongs to; None where nobody's in particular."""


def following_here() -> contextlib.AbstractContextManager[None]:
    """A thread of a program's own, or a piece of work in its pool: it is followed where what begins it here is."""
    mine = _in_charge.get()
    if mine is None:
        mine = _at_work[-1] if _at_work else None
    return contextlib.nullcontext() if mine is None else mine.going_on()


def _is_users(code: CodeType) -> bool:
    return bool(code.co_flags & _NEW_LOCALS) and is_user_file(code.co_filename)


class _Codes(dict[int, CodeType]):
    """Code objects by identity: two that are equal may stand in different files."""

    def add(self, code: CodeType) -> None:
        self[id(code)] = code


# --- Python 3.11: the C profiler -------------------------------------------------------------------------------------

_installing = threading.Lock()
"""Python 3.11 refuses to install a profiler while another thread installs one."""

_at_work: list[_Profiled] = []
"""Followers in whose blocks the process is; threads that are begun are followed by the last one."""


class _Profiled:
    """Follows with one C profiler for each thread."""

    def __init__(self, *, aside: bool = False) -> None:
        self.hindrance = ""
        self._aside = aside
        self._profiles: list[cProfile.Profile] = []
        self._running: set[int] = set()
        self._began = time.perf_counter()
        self._spent = 0.0
        self._calls = self._followed = 0
        self._mine = threading.local()

    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        with self.session(), self.going_on():
            yield

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        self._began = time.perf_counter()
        if self._aside:
            yield
            return
        _at_work.append(self)
        try:
            yield
        finally:
            _at_work.remove(self)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        self._calls += 1
        seen = getattr(self._mine, "calls", 0)
        self._mine.calls = seen + 1
        spent_share = _PROFILED_SHARE * self._spent / max(time.perf_counter() - self._began, 1e-9)
        if seen >= _ALWAYS and spent_share > _SHARE:
            with _in_charge_here(self):
                yield
            return
        started = time.thread_time()
        with self.going_on():
            yield
        self._followed += 1
        self._spent += time.thread_time() - started

    @property
    def codes(self) -> list[CodeType]:
        found = _Codes()
        with _no_collection():  # a thread that still runs must not write to what is being read
            for profile in list(self._profiles):
                for entry in profile.getstats():
                    if isinstance(entry.code, CodeType):
                        found.add(entry.code)
        return list(filter(_is_users, found.values()))

    @property
    def share(self) -> float:
        return self._followed / self._calls if self._calls else 1.0

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """What runs in this thread inside the block is followed, and what threads do that are begun in it."""
        with _in_charge_here(self), self._profiling():
            yield

    @contextlib.contextmanager
    def _profiling(self) -> Iterator[None]:
        if sys.getprofile() is not None:  # this thread is followed already, or somebody else's profiler is at work
            if threading.get_ident() not in self._running:
                self.hindrance = "another profiler was at work"
            yield
            return
        profile, me = self._profile_here(), threading.get_ident()
        if not _switch(profile.enable):
            self.hindrance = "another profiler was at work"
            yield
            return
        self._running.add(me)
        try:
            yield
        finally:
            _switch(profile.disable)
            self._running.discard(me)

    def _profile_here(self) -> cProfile.Profile:
        profile: cProfile.Profile | None = getattr(self._mine, "profile", None)
        if profile is None:
            profile = self._mine.profile = cProfile.Profile(subcalls=False, builtins=False)
            self._profiles.append(profile)
        return profile


@contextlib.contextmanager
def _in_charge_here(follower: Any) -> Iterator[None]:
    token = _in_charge.set(follower)
    try:
        yield
    finally:
        _in_charge.reset(token)


def _switch(install: Callable[[], object]) -> bool:
    """Switch a profiler on or off; False where others install theirs without end."""
    for _ in range(1000):
        try:
            with _installing:
                install()
        except RuntimeError:  # somebody else, who does not know of our lock, is installing one
            time.sleep(0)
        else:
            return True
    return False


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: what it frees may run Python code, and another thread then."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# --- Python 3.12 and later: sys.monitoring ---------------------------------------------------------------------------


class _Monitored:
    """Follows with ``sys.monitoring``: every code object is told of once, in whatever thread it starts."""

    share = 1.0

    def __init__(self, *, aside: bool = False) -> None:
        self.hindrance = ""
        self._aside = aside
        self._codes = _Codes()
        self._listener = self._told

    def _told(self, code: CodeType) -> bool:
        """Take up what runs in this thread, where it is ours; True where the same need not be told again."""
        whose = _in_charge.get()
        if whose is self or (whose is None and not self._aside):
            self._codes.add(code)
        return id(code) in self._codes

    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        if not _monitor.join(self._listener):
            self.hindrance = "sys.monitoring had no free place: other tools are at work"
            yield
            return
        try:
            yield
        finally:
            _monitor.leave(self._listener)

    def session(self) -> contextlib.AbstractContextManager[None]:
        return self.block()

    def one(self) -> contextlib.AbstractContextManager[None]:
        return _in_charge_here(self)

    def going_on(self) -> contextlib.AbstractContextManager[None]:
        """What threads do that begin in another's call belongs to that call."""
        return _in_charge_here(self)

    @property
    def codes(self) -> list[CodeType]:
        return list(self._codes.values())


class _Monitor:
    """The process's one place in ``sys.monitoring``, for as many followers as there are."""

    _NAME = "pytest-dspy-ft"
    _PLACES = (4, 3, 2)
    """Those that no debugger, coverage tool or optimizer is promised come first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Callable[[CodeType], bool]] = []
        self._told: Counter[int] = Counter()
        self._place = -1

    def join(self, listener: Callable[[CodeType], bool]) -> bool:
        """Have a listener told of every code object of the user's that starts; False where there is no place."""
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]  # there from 3.12 on
        with self._lock:
            if not self._listeners:
                free = [place for place in self._PLACES if monitoring.get_tool(place) is None]
                if not free:
                    return False
                self._place = free[0]
                monitoring.use_tool_id(self._place, self._NAME)
                event = monitoring.events.PY_START
                monitoring.register_callback(self._place, event, self._started)
                monitoring.set_events(self._place, event)
            self._listeners = [*self._listeners, listener]
            self._told.clear()
            monitoring.restart_events()  # what an earlier follower was told of is told again
            return True

    def leave(self, listener: Callable[[CodeType], bool]) -> None:
        """Tell a listener nothing more."""
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        with self._lock:
            self._listeners = [known for known in self._listeners if known != listener]
            if not self._listeners:
                monitoring.set_events(self._place, 0)
                monitoring.register_callback(self._place, monitoring.events.PY_START, None)
                monitoring.free_tool_id(self._place)

    def _started(self, code: CodeType, offset: int) -> Any:
        if _is_users(code):
            known = [listener(code) for listener in self._listeners]
            if not all(known) and self._told[id(code)] < _MOST_TOLD:
                self._told[id(code)] += 1
                return None  # it may start in another follower's call too
        return sys.monitoring.DISABLE  # type: ignore[attr-defined,unused-ignore]


_monitor = _Monitor()
