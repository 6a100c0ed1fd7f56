"""The one gate through which LM calls pass: to the recorder, and to whoever watches over a build.

DSPy runs every call of every LM, whatever its engine, through ``dspy.clients.execution.execute``. While anybody needs
to see calls, that function is ours; LMs themselves stay as they are, and so do their identities and all keys.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import dspy
from dspy.clients import execution

from pytest_dspy_ft.errors import ProviderError, RecordingError
from pytest_dspy_ft.lms.failures import explain_refusal, judge_failure, retry_after
from pytest_dspy_ft.redaction import remember_secrets_of

if TYPE_CHECKING:
    from pytest_dspy_ft.lms.recording.recorder import Recorder
    from pytest_dspy_ft.lms.retry import Patience

SETTING = "dspy_ft_guard"

_lock = threading.Lock()
_users = 0
_recorders: list[Recorder] = []
_original: tuple[Any, Any] = (execution.execute, execution.aexecute)


def active_recorder() -> Recorder | None:
    """The recorder that calls go through now; None where nothing is recorded or replayed."""
    return _recorders[-1] if _recorders else None


@contextlib.contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """Let all LM calls of this process, in whatever thread, go through a recorder."""
    with _open():
        _recorders.append(recorder)
        try:
            yield
        finally:
            _recorders.remove(recorder)


@contextlib.contextmanager
def guarded(what: str, patience: Patience) -> Iterator[None]:
    """Watch over calls that DSPy's optimizers make: they take any failure for a wrong answer, and go on.

    A failure of the provider is waited out where the call is made; once it refuses, no further call is sent.

    Args:
        what: What is being done, for messages.
        patience: How long a failing provider is waited for.

    Raises:
        ProviderError: After the block, if the provider refused, or failed a call for good.
        RecordingError: After the block, if a call was not recorded and may not be made.
    """
    guard = _Guard(what, patience)
    recorder = active_recorder()
    missed = len(recorder.missing) if recorder is not None else 0
    try:
        with _open(), dspy.context(**{SETTING: guard}):
            yield
    except Exception as error:
        if (cause := guard.cause or _missing(recorder, missed, what)) is not None and cause is not error:
            raise cause from error
        raise
    if (cause := guard.cause or _missing(recorder, missed, what)) is not None:
        raise cause


@contextlib.contextmanager
def unguarded() -> Iterator[None]:
    """Leave failures of calls inside the block to the code that makes them."""
    with dspy.context(**{SETTING: None}):
        yield


def _missing(recorder: Recorder | None, before: int, what: str) -> RecordingError | None:
    if recorder is None or len(recorder.missing) == before:
        return None
    return RecordingError(f"{what}: {recorder.missing[before]}")


class _Guard:
    """Of one block: waits failures out, and keeps the one that must not be taken for an answer."""

    def __init__(self, what: str, patience: Patience) -> None:
        self._what, self._patience = what, patience
        self.cause: ProviderError | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Guard:
        return self

    def call(self, lm: Any, go: Callable[[], Any]) -> Any:
        if self.cause is not None:
            raise self.cause
        for attempt in range(self._patience.rounds + 1):
            try:
                return go()
            except Exception as error:
                pause = self.pause(lm, error, attempt)
                if pause is None:
                    raise
            self._patience.sleep(pause)
        raise AssertionError("unreachable")

    def pause(self, lm: Any, error: Exception, attempt: int) -> float | None:
        """Seconds until the call is made again; None when it is not."""
        verdict = judge_failure(error)
        if verdict == "own":
            return None
        if verdict == "transient" and attempt < self._patience.rounds:
            hint = retry_after(error)
            pause = self._patience.wait(attempt, [] if hint is None else [hint])
            if pause is not None:
                return pause
        from pytest_dspy_ft.lms.failures import describe_exception

        if verdict == "fatal":
            self.cause = self.cause or ProviderError(f"{self._what}: {explain_refusal(error, lm)}")
        else:
            self.cause = self.cause or ProviderError(
                f"{self._what}: the provider of {lm.model} failed, and did not come back; run it again once it is "
                f"back, answers it already gave are kept\n  {describe_exception(error)}"
            )
        return None


@contextlib.contextmanager
def _open() -> Iterator[None]:
    """Stand in DSPy's way for as long as anybody needs it."""
    global _users, _original
    with _lock:
        if _users == 0:
            _original = (execution.execute, execution.aexecute)
            execution.execute, execution.aexecute = _execute, _aexecute
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                execution.execute, execution.aexecute = _original


def _execute(lm: Any, call: Any) -> Any:
    remember_secrets_of(lm)
    recorder = active_recorder()
    if recorder is None or not recorder.covers(lm):
        return _live(lm, call)
    return recorder.answer(lm, call, lambda: _live(lm, call))


def _live(lm: Any, call: Any) -> Any:
    guard: _Guard | None = dspy.settings.get(SETTING)
    if guard is None:
        return _original[0](lm, call)
    return guard.call(lm, lambda: _original[0](lm, call))


async def _aexecute(lm: Any, call: Any) -> Any:
    remember_secrets_of(lm)
    recorder = active_recorder()
    original: Callable[..., Awaitable[Any]] = _original[1]
    if recorder is None or not recorder.covers(lm):
        return await original(lm, call)
    known = recorder.known(lm, call)
    return known if known is not None else recorder.keep(lm, call, await original(lm, call), seconds=0.0)
