"""All work that is under way, in this process and in others, shown on one screen for as long as it lasts.

On a terminal, one line says what is going on, and is drawn again and again. Elsewhere a line is written when work turns
out to be long, and again at growing intervals, whether or not the work tells anything. When it is done, one line stays.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

from pytest_dspy_ft.progress import Task
from pytest_dspy_ft.progress.screen import Screen
from pytest_dspy_ft.progress.work import Ending, ShownWork

PREFIX = "dspy: "
QUIET_SECONDS = 2.0
"""Work shorter than this is not worth a line."""
SHOWN_FROM = 0.4
"""On a terminal: seconds after which work is shown."""
LEAST_SECONDS, MOST_SECONDS = 10.0, 300.0
"""Elsewhere, the next line comes when the work has taken twice as long, but between these: CI ends a silent job."""
BEAT_SECONDS = 0.5
"""How often it is looked whether there is something to show."""


class Display:
    """Shows work on a screen. Safe to use from many threads.

    Args:
        screen: Where to show it.
        clock: Seconds.
        quiet: Nothing stays of work that is done.
        all_kept: A line stays of everything that is to be kept, however short it was.
        beats: False where the caller calls :meth:`beat`; else a thread does, from the first work on.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        clock: Callable[[], float] = time.monotonic,
        quiet: bool = False,
        all_kept: bool = False,
        beats: bool = True,
    ) -> None:
        self._screen, self._clock, self._quiet, self._all_kept = screen, clock, quiet, all_kept
        self._beats = beats
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._under_way: dict[str, dict[int, ShownWork]] = {}
        """By who does it ("" for this process), the innermost last."""
        self._busy, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # --- what is told ------------------------------------------------------------------------------------------------

    def passing(self, title: str) -> contextlib.AbstractContextManager[Task]:
        """Show a piece of this process's work only while it lasts."""
        return self.task(title, kept=False)

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None, unit: str = "", *, kept: bool = True) -> Iterator[Task]:
        """Show a piece of this process's work."""
        number = next(self._numbers)
        self.begin("", number, title, total, unit, kept)
        ending: Ending = "failed"
        try:
            yield DisplayedTask(self, number)
            ending = "done"
        except KeyboardInterrupt:
            ending = "interrupted"
            raise
        finally:
            self.end("", number, ending)

    def begin(self, who: str, number: int, title: str, total: float | None, unit: str, kept: bool) -> None:
        """Work has begun."""
        with self._lock:
            now = self._clock()
            known = next(filter(None, (_find(works, title) for works in self._under_way.values())), None)
            due = now + QUIET_SECONDS if known is None else known.due  # several may wait for the same
            self._under_way.setdefault(who, {})[number] = ShownWork(title, total, unit, kept, now, due)
            self._begin_to_beat()

    def advance(self, who: str, number: int, done: float, total: float | None, note: str) -> None:
        """Work has come so far."""
        with self._lock:
            if (work := self._under_way.get(who, {}).get(number)) is not None:
                work.tell(done, total, note)

    def end(self, who: str, number: int, ending: Ending) -> None:
        """Work is over; where others do the same, the last of them says so."""
        with self._lock:
            work = self._under_way.get(who, {}).pop(number, None)
            if work is None:
                return
            self._screen.clear()
            goes_on = any(_find(works, work.title) for works in self._under_way.values())
            if goes_on or not work.kept or self._quiet or self._closed.is_set():
                return
            now = self._clock()
            if self._all_kept or now - work.began >= QUIET_SECONDS:
                self._say([who], work.outcome(now, ending))
                for outer in self._under_way[who].values():
                    outer.due = now + LEAST_SECONDS

    def leave(self, who: str) -> None:
        """Somebody is gone, and all that they did with them."""
        with self._lock:
            self._under_way.pop(who, None)
            self._screen.clear()

    def close(self) -> None:
        """Show nothing any more."""
        with self._lock:
            self._closed.set()
            self._screen.clear()
        self._busy.set()
        if self._thread is not None:
            self._thread.join(2 * BEAT_SECONDS)

    # --- what is shown -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def aside(self, text: str) -> Iterator[None]:
        """Others write a text to the same terminal inside the block."""
        with self._lock:
            self._screen.hand_over(text)
            yield

    def beat(self) -> None:
        """Show what is due by now."""
        with self._lock:
            if self._closed.is_set():
                return
            if self._screen.live:
                self._show(self._clock())
            else:
                self._write_due(self._clock())

    def _show(self, now: float) -> None:
        """One line with what everybody does: the innermost work of each, once any of theirs is worth it."""
        shown = [
            (who, next(reversed(works.values())))
            for who, works in self._under_way.items()
            if any(now - work.began >= SHOWN_FROM for work in works.values())
        ]
        if not shown:
            self._screen.clear()
            return
        texts = [f"{_bracketed(names)}{work.status(now)}" for names, work in _together(shown)]
        self._screen.show(PREFIX + "; ".join(texts))

    def _write_due(self, now: float) -> None:
        """A line for each that is due; what it is a part of waits as long as it does."""
        due: dict[str, ShownWork] = {}
        for works in self._under_way.values():
            work = next((work for work in reversed(works.values()) if now >= work.due), None)
            if work is not None and (work.title not in due or work.began < due[work.title].began):
                due[work.title] = work
        for work in due.values():
            at_it = {who: works for who, works in self._under_way.items() if _find(works, work.title)}
            self._say(list(at_it), work.status(now))
            following = now + min(MOST_SECONDS, max(LEAST_SECONDS, now - work.began))
            for works in at_it.values():
                for other in works.values():
                    other.due = max(other.due, following)
                    if other.title == work.title:
                        break

    def _say(self, names: list[str], text: str) -> None:
        self._screen.say(f"{PREFIX}{_bracketed(names)}{text}")

    # --- the thread --------------------------------------------------------------------------------------------------

    def _begin_to_beat(self) -> None:
        self._busy.set()
        if self._beats and self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._go_on_beating, name="dspy-ft-progress", daemon=True)
            self._thread.start()

    def _go_on_beating(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            self.beat()
            with self._lock:
                if not any(self._under_way.values()):
                    self._busy.clear()
            self._busy.wait()


class DisplayedTask:
    """A piece of this process's work on a display."""

    def __init__(self, display: Display, number: int) -> None:
        self._display, self._number = display, number

    def advance(self, done: float, *, total: float | None = None, note: str = "") -> None:
        """Say how far it is."""
        self._display.advance("", self._number, done, total, note)


def _together(shown: list[tuple[str, ShownWork]]) -> list[tuple[list[str], ShownWork]]:
    """Those who do the same together, with the work of the one who has been at it for longest."""
    groups: dict[str, tuple[list[str], ShownWork]] = {}
    for who, work in sorted(shown, key=lambda pair: pair[1].began):
        groups.setdefault(work.title, ([], work))[0].append(who)
    return list(groups.values())


def _find(works: dict[int, ShownWork], title: str) -> ShownWork | None:
    return next((work for work in works.values() if work.title == title), None)


def _bracketed(names: list[str]) -> str:
    return f"[{', '.join(names)}] " if any(names) else ""
