"""The way of an LM call: budget, recording or cache, retries, the LM, usage. :func:`_answer` shows it whole.

DSPy runs every call of every LM, whatever its engine, through ``dspy.clients.execution.execute``. While anybody needs
to see calls, that function is ours; LMs themselves stay as they are, and so do their identities and all keys. What a
call passes is up to the code that makes it: a :class:`CallPath`, kept as one of DSPy's settings, which DSPy carries
into every thread it starts. Only a recorder is there for the whole process.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import dspy

from pytest_dspy_ft.errors import RecordingError
from pytest_dspy_ft.insides import lm_calls
from pytest_dspy_ft.insides.lm_calls import Asked
from pytest_dspy_ft.lms import threads
from pytest_dspy_ft.lms.asking import ask_in_time, embed_in_time, pause_before_retry
from pytest_dspy_ft.lms.failures import failed_at_provider, mark_lm_failure
from pytest_dspy_ft.lms.guard import ProviderGuard
from pytest_dspy_ft.lms.interruption import Interruption
from pytest_dspy_ft.lms.patience import Patience
from pytest_dspy_ft.lms.providers import Providers
from pytest_dspy_ft.lms.recording.folder import RecordingFolder
from pytest_dspy_ft.lms.recording.recorder import Mode, Recorder
from pytest_dspy_ft.lms.withheld import AnswerWithheldError, find_withheld
from pytest_dspy_ft.redaction import remember_secrets_of

SETTING = "dspy_ft_calls"

_recorders: list[Recorder] = []


class SpendingLimit(Protocol):
    """The part of :class:`pytest_dspy_ft.lms.budget.Budget` that calls pass."""

    def reserved(self, lm: Any, call: Any) -> contextlib.AbstractContextManager[None]:
        """Set aside what the call may cost, until it is over."""

    def count(self, model: str, result: lm_calls.CallResult, asked: Asked) -> None:
        """Note what it did cost."""


class CallCounter(Protocol):
    """The part of :class:`pytest_dspy_ft.lms.usage.Meter` that calls pass."""

    def count(self, model: str, result: lm_calls.CallResult, asked: Asked) -> None:
        """Count a call that was answered."""

    def note_failure(self, model: str, error: Exception, asked: Asked) -> None:
        """Note that a call failed, whatever the code that made it does about it."""

    def count_tokens(self, model: str, usage: Mapping[str, Any]) -> None:
        """Count the tokens of a call that failed after it was billed."""


@dataclasses.dataclass(frozen=True)
class CallPath:
    """The stations that an LM call passes, apart from a recorder."""

    budget: SpendingLimit | None = None
    cache: Any = None
    """Stands in for ``dspy.cache``; None: that itself."""
    guard: ProviderGuard | None = None
    meters: tuple[CallCounter, ...] = ()
    providers: Providers = dataclasses.field(default_factory=Providers)
    """Know who answers, and for how long each is waited for."""
    interruption: Interruption = dataclasses.field(default_factory=Interruption)
    """Says when the work was interrupted."""
    answering: Any = None
    """The LM whose own ``forward`` answers now: what that asks by way of the inherited one belongs to the same call."""

    def __deepcopy__(self, memo: dict[int, Any]) -> CallPath:
        return self  # whoever copies DSPy's settings shall count and pay here

    def reserved(self, lm: Any, call: Any) -> contextlib.AbstractContextManager[None]:
        """The block in which what a call may cost is set aside."""
        return contextlib.nullcontext() if self.budget is None else self.budget.reserved(lm, call)

    def count(self, model: str, result: lm_calls.CallResult, asked: Asked) -> None:
        """Count an answered call with all meters, and for the budget."""
        for meter in self.meters:
            meter.count(model, result, asked)
        if self.budget is not None:
            self.budget.count(model, result, asked)

    def note_failure(self, model: str, error: Exception, asked: Asked) -> None:
        """Tell all meters of a call that the provider failed, or that is not recorded and may not be made."""
        if isinstance(error, RecordingError) or failed_at_provider(error):
            for meter in self.meters:
                meter.note_failure(model, error, asked)

    def pause(self, patience: Patience, seconds: float, models: Sequence[str]) -> None:
        """Wait before models are asked again; Ctrl-C ends it."""
        since = time.monotonic()
        if patience.sleep is time.sleep:
            self.interruption.pause(seconds)
        else:
            patience.sleep(seconds)
        for model in models:
            self.providers.note_pause(model, since)


def current_path() -> CallPath:
    """The path of a call made here and now."""
    return dspy.settings.get(SETTING) or CallPath()


@contextlib.contextmanager
def passing(settings: Mapping[str, Any] | None = None, /, **stations: Any) -> Iterator[None]:
    """Let LM calls made inside the block, in whatever thread DSPy makes them, pass by other stations.

    Args:
        settings: DSPy's own, for the block.
        **stations: Fields of :class:`CallPath`; the others stay as they are outside the block.
    """
    path = dataclasses.replace(current_path(), **stations)
    with _ours_in_place, dspy.context(**{**(settings or {}), SETTING: path}):
        yield


# --- the way of a call -----------------------------------------------------------------------------------------------


async def _answer(lm: Any, call: Any, asynchronous: bool) -> lm_calls.CallResult:
    """The whole way of one LM call.

    It is written once for both kinds of call. One that is not asynchronous waits for nothing: all its steps are made
    on the spot, in the thread that makes it.
    """
    path, recorder = current_path(), active_recorder()
    if path.answering is lm and call.managed:
        return await lm_calls.ask(lm, call, asynchronous)
    remember_secrets_of(lm)
    if recorder is not None and not recorder.covers(lm):
        recorder = None
    asked = Asked.by(lm, call)
    with path.reserved(lm, call):
        try:
            result = None if recorder is None else recorder.known(lm, call)
            if result is None:
                result = await _known_or_asked(path, recorder, lm, call, asynchronous)
        except Exception as error:
            path.note_failure(lm.model, error, asked)
            if recorder is not None:
                recorder.note_failure(lm, call)
            raise
        path.count(lm.model, result, asked)
    path.interruption.settle()
    return result


async def _known_or_asked(
    path: CallPath, recorder: Recorder | None, lm: Any, call: Any, asynchronous: bool
) -> lm_calls.CallResult:
    """The answer that is kept, or the LM's, which is kept and recorded where that is wanted."""
    started = time.perf_counter()
    result = await lm_calls.kept_answer(lm, call, asynchronous)
    if result is None or find_withheld(lm.model, result) is not None:
        result = await _ask_patiently(path, lm, call, asynchronous)
        await lm_calls.keep_answer(lm, call, result, asynchronous)
    elif path.guard is not None:
        path.guard.note_answer(lm.model)
    if recorder is not None:
        # Asynchronous calls overlap: the sum of their times would be nobody's time.
        seconds = 0.0 if asynchronous else time.perf_counter() - started
        result = recorder.keep(lm, call, result, seconds=seconds)
    return result


async def _ask_patiently(path: CallPath, lm: Any, call: Any, asynchronous: bool) -> lm_calls.CallResult:
    """The LM's answer, failures of its provider waited out where the path has a guard."""
    guard = path.guard
    if guard is None:
        return await _ask(path, lm, call, asynchronous)
    if guard.cause is not None:
        raise guard.cause
    attempt = 0
    while True:
        try:
            result = await _ask(path, lm, call, asynchronous)
        except Exception as error:
            pause = guard.pause(lm, error, attempt)
            if pause is None:
                raise
        else:
            guard.note_answer(lm.model)
            return result
        await lm_calls.off_the_loop(asynchronous, path.pause, guard.patience, pause, [lm.model])
        attempt += 1


async def _ask(path: CallPath, lm: Any, call: Any, asynchronous: bool) -> lm_calls.CallResult:
    """The LM's answer; a reply that holds none is the provider's failure.

    DSPy tells its usage tracker what a call was billed that failed all the same, and only that.
    """
    live = dataclasses.replace(call, cache=False) if call.cache else call
    since = time.monotonic()
    with _answered_by(path, None if call.managed else lm), dspy.track_usage() as billed:
        try:
            try:
                answer = await ask_in_time(lm, live, path.providers, path.interruption, asynchronous)
                result = lm_calls.reported_usage(lm, answer)
            except Exception as error:
                if not lm_calls.unreadable_body(lm, error):
                    raise
                raise AnswerWithheldError(f"the reply cannot be read: {error}", model=lm.model) from error
            if (withheld := find_withheld(lm.model, result)) is not None:
                _count_billed(path, lm, result.usage)
                if not withheld.lasting:
                    path.providers.note_failure(lm, withheld, since, None)
                raise withheld
            path.providers.note_answer(lm)
            return result
        except BaseException as error:
            mark_lm_failure(error, lm.model)
            for usage in billed.usage_data.get(lm.model, ()):
                _count_billed(path, lm, usage)
            raise


def _answered_by(path: CallPath, lm: Any) -> contextlib.AbstractContextManager[None]:
    """The block in which an LM's own ``forward`` answers; None: no such LM."""
    if path.answering is lm:
        return contextlib.nullcontext()
    block: contextlib.AbstractContextManager[None] = dspy.context(**{SETTING: dataclasses.replace(path, answering=lm)})
    return block


def _count_billed(path: CallPath, lm: Any, usage: Mapping[str, Any]) -> None:
    """Count the tokens of a call that came to nothing."""
    for meter in path.meters:
        meter.count_tokens(lm.model, usage)
    if path.budget is not None and usage:
        path.budget.count(lm.model, lm_calls.CallResult(usage=dict(usage)), Asked())


def _execute(lm: Any, call: Any) -> Any:
    return lm_calls.run_at_once(_answer(lm, call, asynchronous=False))


async def _aexecute(lm: Any, call: Any) -> Any:
    return await _answer(lm, call, asynchronous=True)


def _record_response(lm: Any, response: Any, prompt: Any, messages: Any, outputs: Any, *more: Any, **named: Any) -> Any:
    """Count the call of an LM class whose own ``__call__`` answers it: the call has passed nothing else."""
    path = current_path()
    if path.answering is not lm:
        result, asked = lm_calls.recorded_result(response, outputs), Asked(prompt, messages, settings=lm.kwargs)
        if (withheld := find_withheld(lm.model, result)) is not None:
            mark_lm_failure(withheld, lm.model)
            path.note_failure(lm.model, withheld, asked)
            raise withheld
        path.count(lm.model, lm_calls.reported_usage(lm, result), asked)
    return lm_calls.record_response(lm, response, prompt, messages, outputs, *more, **named)


class _CacheOfThePath:
    """Takes ``dspy.cache``'s place, for embedders and retrievers too: hands each request to the path's cache."""

    def __getattr__(self, name: str) -> Any:
        cache = current_path().cache
        return getattr(lm_calls.cache_of_before() if cache is None else cache, name)


def _delay(error: BaseException, attempt: int) -> float:
    path = current_path()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return pause_before_retry(error, attempt, path.providers, path.interruption)
    return lm_calls.retry_delay(error, attempt)


def _compute_embeddings(model: Any, *texts: Any, **named: Any) -> Any:
    path = current_path()
    return embed_in_time(model, path.providers, path.interruption, *texts, **named)


_OURS = {
    "execute": _execute,
    "aexecute": _aexecute,
    "_delay": _delay,
    "_compute_embeddings": _compute_embeddings,
    "_record_response": _record_response,
    "cache": _CacheOfThePath(),
    **threads.STANDING_IN,
}

_ours_in_place = lm_calls.StandingIn(_OURS)


# --- recording and guarding ------------------------------------------------------------------------------------------


def active_recorder() -> Recorder | None:
    """The recorder that calls go through now; None where nothing is recorded or replayed."""
    return _recorders[-1] if _recorders else None


@contextlib.contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """Let all LM calls of this process, in whatever thread, go through a recorder."""
    with _ours_in_place:
        _recorders.append(recorder)
        try:
            yield
        finally:
            _recorders.remove(recorder)


@contextlib.contextmanager
def recording(folder: Path | str, mode: Mode = "once", lms: Sequence[str] = ()) -> Iterator[Recorder]:
    """Record and replay LM calls in a script or a notebook.

    Args:
        folder: Where recordings are kept.
        mode: See :class:`Recorder`.
        lms: See :class:`Recorder`.
    """
    recorder = Recorder(RecordingFolder(folder), mode, lms)
    try:
        with recorded_by(recorder):
            yield recorder
    finally:
        if not recorder.offline:
            recorder.folder.merge()


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
    path = current_path()
    guard = ProviderGuard(what, patience, path.providers)
    recorder = active_recorder()
    before = 0 if recorder is None else len(recorder.missing)

    def cause() -> Exception | None:
        if guard.cause is None and recorder is not None and len(recorder.missing) > before:
            return RecordingError(f"{what}: {recorder.missing[before]}")
        return guard.at_end()

    try:
        with passing(guard=guard, providers=path.providers):
            yield
    except Exception as error:
        if (found := cause()) is not None and found is not error:
            raise found from error
        raise
    if (found := cause()) is not None:
        raise found


def unguarded() -> contextlib.AbstractContextManager[None]:
    """Leave failures of calls inside the block to the code that makes them."""
    return passing(guard=None)
