"""One LM asked: no longer than a call may take, not after Ctrl-C, and not where its provider was given up."""

from __future__ import annotations

import contextlib
import contextvars
import time
from typing import Any

import dspy

from pytest_dspy_ft.insides import lm_calls
from pytest_dspy_ft.lms import waiting
from pytest_dspy_ft.lms.failures import judge_failure
from pytest_dspy_ft.lms.interruption import LOOK, Interruption
from pytest_dspy_ft.lms.providers import CALL_SECONDS, PROBE, SHORTEST_PROBE, Providers, ProviderSilentError
from pytest_dspy_ft.lms.resolve import runs_here
from pytest_dspy_ft.text import duration

_LATER = 5.0
"""Seconds that a client waits longer than we do: it only has to let go of its connection then."""

_model: contextvars.ContextVar[str] = contextvars.ContextVar("dspy_ft_asked_model", default="")
"""Whose call is under way, for what DSPy does about its failures by itself."""


async def ask_in_time(
    lm: Any, call: Any, providers: Providers, interruption: Interruption, asynchronous: bool
) -> lm_calls.CallResult:
    """The LM's answer.

    Args:
        lm: The LM.
        call: DSPy's prepared call.
        providers: What is known of its provider; told of failures.
        interruption: Ends the wait.
        asynchronous: Its kind.

    Raises:
        ProviderSilentError: The provider was given up.
        dspy.LMTimeoutError: There was no answer in time.
        KeyboardInterrupt: The work was interrupted.
    """
    interruption.check()
    if runs_here(lm) or lm_calls.is_streaming():
        return await lm_calls.ask(lm, call, asynchronous)
    if why := providers.given_up(lm):
        raise ProviderSilentError(f"not asked: {why}", model=lm.model)
    whole, attempt = providers.limits(lm, call)
    since = time.monotonic()
    try:
        return await _asked(lm, call, whole, interruption, asynchronous)
    except Exception as error:
        if judge_failure(error) != "transient":
            raise
        if attempt is not None and providers.may_be_silent(lm, error, since, attempt):
            with contextlib.suppress(Exception):  # it may have been starting up, or have lost this one request
                return await _asked(lm, call, max(attempt * PROBE, SHORTEST_PROBE), interruption, asynchronous)
        providers.note_failure(lm, error, since, attempt)
        raise


async def _asked(
    lm: Any, call: Any, seconds: float | None, interruption: Interruption, asynchronous: bool
) -> lm_calls.CallResult:
    limited = lm_calls.limited(lm, call, None if seconds in (None, CALL_SECONDS) else seconds + _LATER)
    _model.set(lm.model)
    try:
        if asynchronous:
            asking = lm_calls.ask(lm, limited, asynchronous)
            return await waiting.asynchronous_answer_in_time(asking, seconds, interruption)
        return waiting.answer_in_time(
            lambda: lm_calls.run_at_once(lm_calls.ask(lm, limited, asynchronous)), seconds, interruption
        )
    except waiting.LateError:
        late = f"no answer within {duration(seconds or 0.0)} (--dspy-lm-timeout=SECONDS, or the LM's own timeout=)"
        raise dspy.LMTimeoutError(late, model=lm.model) from None


def pause_before_retry(error: BaseException, attempt: int, providers: Providers, interruption: Interruption) -> float:
    """Sleep before DSPy makes a failed call again by itself.

    Returns:
        The seconds that are left for DSPy to sleep: none.

    Raises:
        BaseException: The failure itself, where nobody waits for the call any more, or no patience is left.
    """
    seconds = lm_calls.retry_delay(error, attempt)
    if not providers.may_wait(_model.get(), seconds):
        raise error
    end = time.monotonic() + seconds
    while True:
        if waiting.is_abandoned() or interruption.began:
            raise error
        if (left := end - time.monotonic()) <= 0:
            return 0.0
        time.sleep(min(LOOK, left))


def embed_in_time(model: Any, providers: Providers, interruption: Interruption, *texts: Any, **named: Any) -> Any:
    """What an embedder is answered; a function of the user's own takes the time that it takes.

    Raises:
        dspy.LMTimeoutError: There was no answer in time.
        KeyboardInterrupt: The work was interrupted.
    """
    interruption.check()
    if not isinstance(model, str):
        return lm_calls.embeddings(model, *texts, **named)
    seconds = named.setdefault("timeout", providers.time_limit or CALL_SECONDS)
    if not isinstance(seconds, (int, float)):
        return lm_calls.embeddings(model, *texts, **named)
    try:
        return waiting.answer_in_time(
            lambda: lm_calls.embeddings(model, *texts, **named), seconds + _LATER, interruption
        )
    except waiting.LateError:
        raise dspy.LMTimeoutError(f"no embeddings within {duration(seconds)}", model=model) from None
