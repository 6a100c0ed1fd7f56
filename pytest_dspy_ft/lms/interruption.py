"""Ctrl-C while LMs are asked: no further call is made, answers under way have a moment to arrive, and the work ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

GRACE = 2.5
"""Seconds that answers under way have to arrive: they are paid for."""
LOOK = 0.1
"""Seconds between two looks of a thread that waits: a signal handler must not wake it, it may hold the very lock."""
_SAME = 0.5
"""Two signals within so many seconds are one: the terminal and pytest-xdist's controller may both send it."""
_LAST_WAIT = 0.5
"""Seconds that a process waits at its end for threads that Ctrl-C did not reach, such as a program's own."""

_active: list[Interruption] = []


class Interruption:
    """Whether the work of a block was interrupted, and how long answers under way are waited for."""

    def __init__(self) -> None:
        self._began = self._until = float("inf")
        self._waiting = False
        self._owed = False

    @property
    def began(self) -> bool:
        """True from Ctrl-C on: no call is made any more."""
        return time.monotonic() >= self._began

    @property
    def over(self) -> bool:
        """True when nothing is waited for any more: the time is up, or Ctrl-C came again."""
        return time.monotonic() >= self._until

    def begin(self) -> bool:
        """Take note of a Ctrl-C; False for one that repeats what was said a moment ago."""
        now = time.monotonic()
        if now < self._began:
            self._began, self._until = now, now + GRACE
        elif now < self._began + _SAME:
            return False
        else:
            self._until = now
        return True

    def check(self) -> None:
        """End the work here, if it was interrupted.

        Raises:
            KeyboardInterrupt: It was.
        """
        if self.began:
            self._owed = False
            raise KeyboardInterrupt

    def pause(self, seconds: float) -> None:
        """Sleep, and wake for Ctrl-C.

        Raises:
            KeyboardInterrupt: It came.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(LOOK, left))

    @contextlib.contextmanager
    def awaiting(self) -> Iterator[None]:
        """The block in which a call waits for its answer: in the main thread, Ctrl-C leaves it the grace, too."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before, self._waiting = self._waiting, True
        try:
            yield
        finally:
            self._waiting = before

    def settle(self) -> None:
        """In the main thread, raise the Ctrl-C that :meth:`awaiting` held back, now that the answer is kept."""
        if self._owed and threading.current_thread() is threading.main_thread():
            self.check()

    def holds_back(self) -> bool:
        """True where the main thread waits for an answer, and will raise by itself in a moment."""
        self._owed = self._waiting and not self.over
        return self._owed


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """The block in which Ctrl-C reaches all threads that wait for an LM; blocks inside it belong to it.

    Signals come to the main thread only, so other threads change nothing. As in DSPy's own evaluations, SIGINT ends the
    work also where it is ignored outside, as in jobs that a script started in the background.
    """
    before = signal.getsignal(signal.SIGINT)
    if _active or threading.current_thread() is not threading.main_thread() or before is None:
        yield _active[-1] if _active else Interruption()
        return
    mine = Interruption()

    def interrupted(number: int, frame: FrameType | None) -> None:
        if mine.begin() and not mine.holds_back():
            (before if callable(before) else signal.default_int_handler)(number, frame)

    _active.append(mine)
    signal.signal(signal.SIGINT, interrupted)
    try:
        yield mine
        mine.settle()
    except Exception:
        mine.settle()
        raise
    finally:
        _active.remove(mine)
        if signal.getsignal(signal.SIGINT) is interrupted:
            signal.signal(signal.SIGINT, before)


def leave_soon(status: int, *, further_signals: bool = True) -> None:
    """End this process soon after its main thread is done, also where threads that nobody can wake are still at work.

    Args:
        status: What it exits with then.
        further_signals: Another SIGINT counts, too; False for a worker, which both terminal and controller may tell.
    """
    if not further_signals and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    # Python joins the workers of thread pools before the main thread counts as done: whoever waited for that would wait
    # for them, too. What is registered last is called first, before the pools'.
    done = threading.Event()
    at_end = getattr(threading, "_register_atexit", None)
    if at_end is not None:
        at_end(done.set)

    def watch() -> None:
        if at_end is None:
            threading.main_thread().join()
        else:
            done.wait()
        end = time.monotonic() + _LAST_WAIT
        while any(map(_keeps_alive, threading.enumerate())):
            if time.monotonic() > end:
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(Exception):
                        stream.flush()
                os._exit(status)
            time.sleep(LOOK)

    threading.Thread(target=watch, name="dspy-ft-leave", daemon=True).start()


def _keeps_alive(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread()
