"""LM calls: DSPy runs each by way of a function that ours stands in for, and keeps answers in its cache."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

import dspy

from pytest_dspy_ft.insides.needs import has_fields, needed, there

# `LM.__call__`, `acall` and `forward` look `execute` and `aexecute` up in this module at each call; a call that the
# user's own `forward` answers is not `managed`. An LM class with its own `__call__` goes round them, and has
# `_record_response` note its calls.
with needed("to count, limit and record LM calls"):
    from dspy.clients import execution

    there(execution.execute, execution.aexecute, dspy.BaseLM._record_response)
    has_fields(execution.PreparedCall, "prompt", "messages", "kwargs", "request", "cache", "managed")

with needed("to read answers, their usage and their cost"):
    from dspy.clients.call_result import CallResult, combine

# What gives a native request as JSON, with all that is asked for.
with needed("to know a call again"):
    from dspy._vendor.lm15.serde import request_to_dict

# `_get_dspy_cache` makes `dspy.cache` when it is first needed.
with needed("to keep answers that were paid for"):
    from dspy.clients import _get_dspy_cache

    _cached, _store, _IGNORED_CACHE_KEYS = execution._cached, execution._store, execution.IGNORED_CACHE_KEYS
    _CALL_KEY = execution.PreparedCall.key

# `_delay` is how long it sleeps before it makes a failed call again; `_compute_embeddings` is how an embedder asks.
with needed("to limit how long a provider is waited for"):
    from dspy.clients import embedding

    there(execution._delay, embedding._compute_embeddings)

# The seconds that a provider's headers ask to wait.
with needed("to wait as long as a provider asks for"):
    from dspy.clients._http import finite_seconds, retry_after_seconds

# What `dspy.context` overrides.
with needed("to carry DSPy's settings into threads"):
    from dspy.dsp.utils.settings import thread_local_overrides

__all__ = [
    "Asked",
    "CallResult",
    "combine",
    "finite_seconds",
    "request_to_dict",
    "retry_after_seconds",
]

# --- what DSPy uses in place of its own ------------------------------------------------------------------------------

# `dspy.cache` is looked up at each request of an LM, an embedder or a retriever; it is absent until DSPy needs it.
# Python's threads start with an empty context, and so without DSPy's settings.
_OWNERS: Final[dict[str, Any]] = {
    "execute": execution,
    "aexecute": execution,
    "_delay": execution,
    "_compute_embeddings": embedding,
    "_record_response": dspy.BaseLM,
    "cache": dspy,
    # A thread that a program starts by itself begins without DSPy's settings (Python before 3.14).
    "start": threading.Thread,
    "submit": ThreadPoolExecutor,
}
_ABSENT: Final = object()
_lock = threading.Lock()
_blocks = 0
_originals: dict[str, Any] = {}


class StandingIn:
    """Have DSPy use ours in place of its own, everywhere in the process, until the last such block ends.

    One may be entered any number of times, in any threads: that is all it takes where others are open already.

    Args:
        ours: For each name in ``_OWNERS``; the same in every block.
    """

    def __init__(self, ours: Mapping[str, Any]) -> None:
        self._ours = ours

    def __enter__(self) -> None:
        global _blocks
        with _lock:
            if _blocks == 0:
                for name, owner in _OWNERS.items():
                    if (found := vars(owner).get(name, _ABSENT)) is not self._ours[name]:
                        _originals[name] = found
                        setattr(owner, name, self._ours[name])
            _blocks += 1

    def __exit__(self, *_: object) -> None:
        global _blocks
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                for name, owner in _OWNERS.items():
                    if vars(owner).get(name) is not self._ours[name]:
                        continue  # somebody set another one meanwhile
                    if _originals[name] is _ABSENT:
                        delattr(owner, name)
                    else:
                        setattr(owner, name, _originals[name])


async def ask(lm: Any, call: Any, asynchronous: bool) -> CallResult:
    """The LM's answer, by DSPy's own way: `execute`. It retries some failures by itself."""
    if asynchronous:
        return await _originals["aexecute"](lm, call)
    return _originals["execute"](lm, call)


def is_streaming() -> bool:
    """True where answers are handed on word by word: to the event loop of the very thread that asks (3.4.1)."""
    return dspy.settings.send_stream is not None


def is_reached_by_name(lm: Any) -> bool:
    """True for an LM whose engine is one of DSPy's own: `LM._engine_spec` is its name then."""
    return isinstance(getattr(lm, "_engine_spec", None), str)


def limited(lm: Any, call: Any, seconds: float | None) -> Any:
    """A call that an engine of DSPy's own gives up by itself after so many seconds without a word (3.4.1: `legacy`)."""
    legacy = getattr(call, "legacy", None)  # 3.5 (by its sources) asks with requests only
    if seconds is None or legacy is None or "timeout" in legacy or not is_reached_by_name(lm):
        return call
    return replace(call, legacy={**legacy, "timeout": seconds})


def retry_delay(error: BaseException, attempt: int) -> float:
    """Seconds until DSPy makes a failed call again by itself: `_delay` (3.4.1)."""
    return float(_originals["_delay"](error, attempt))


def embeddings(*arguments: Any, **named: Any) -> Any:
    """What an embedder is answered: `_compute_embeddings` (3.4.1)."""
    return _originals["_compute_embeddings"](*arguments, **named)


def run_at_once(journey: Any) -> Any:
    """The result of a coroutine that waits for nothing, as :func:`ask` does for a call that is not asynchronous."""
    try:
        journey.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


async def off_the_loop(asynchronous: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that may take a while; an event loop is not kept waiting for it."""
    if asynchronous:
        return await asyncio.to_thread(function, *arguments)
    return function(*arguments)


def record_response(lm: Any, *arguments: Any, **named: Any) -> Any:
    """DSPy's own note of a call that an LM class answered by itself: `BaseLM._record_response`."""
    return _originals["_record_response"](lm, *arguments, **named)


def recorded_result(response: Any, outputs: Any) -> CallResult:
    """A response given to `_record_response`, its usage and its cost, as that reads them."""
    hit = bool(getattr(response, "cache_hit", False))
    return CallResult(
        outputs=list(outputs) if isinstance(outputs, (list, tuple)) else [outputs],
        raw=response,
        usage={} if hit else dict(getattr(response, "usage", {}) or {}),
        cost=getattr(response, "_hidden_params", {}).get("response_cost"),
        cache_hit=hit,
    )


# --- what a call asked -----------------------------------------------------------------------------------------------

_LIMITS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")


@dataclass(frozen=True)
class Asked:
    """What a call asked, as far as it is needed to count its answer and to know it again. `PreparedCall`."""

    prompt: Any = None
    messages: Any = None
    request: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def by(cls, lm: Any, call: Any) -> Asked:
        """What a prepared call of an LM asks."""
        return cls(call.prompt, call.messages, call.request, {**getattr(lm, "kwargs", {}), **call.kwargs})

    @property
    def text(self) -> str:
        """The question, apart from settings: equal where the same is asked again, of whatever model."""
        if self.request is None:
            return json.dumps([self.prompt, self.messages], default=repr)
        body = request_to_dict(self.request)
        return json.dumps([body.get("system"), body.get("messages")], default=repr)

    @property
    def in_format(self) -> bool:
        """True where the reply is to be in a format that is given, by JSON schema or otherwise."""
        config = getattr(self.request, "config", None)
        return getattr(config, "response_format", None) is not None or self.settings.get("response_format") is not None

    @property
    def token_limit(self) -> int | None:
        """The longest reply that was asked for, in tokens; None where nobody said."""
        config = getattr(self.request, "config", None)
        limits = [getattr(config, "max_tokens", None), *(self.settings.get(name) for name in _LIMITS)]
        return next((int(limit) for limit in limits if isinstance(limit, (int, float)) and limit > 0), None)


def unreadable_body(lm: Any, error: BaseException) -> bool:
    """True where an engine of DSPy's own could make nothing of a reply."""
    return type(error) is dspy.LMUnexpectedError and is_reached_by_name(lm)


def reported_usage(lm: Any, result: CallResult) -> CallResult:
    """The answer with its usage as far as that was really reported; LiteLLM writes zeros where a reply has none.

    Negative counts are none. An engine of the user's own, or DSPy's dummy, may well say zero.
    """
    usage = result.usage
    if not usage or result.cache_hit or result.cost_details.get("replayed"):
        return result
    sent = usage.get("prompt_tokens", usage.get("input_tokens"))
    given = usage.get("completion_tokens", usage.get("output_tokens"))
    by_provider = is_reached_by_name(lm)
    if any(count is not None and count < 0 for count in (sent, given)):
        return replace(result, usage={}, cost=None)
    if by_provider and (not sent or given is None or (given == 0 and any(result.outputs))):
        return replace(result, usage={}, cost=None)
    return result


# --- settings and threads ---------------------------------------------------------------------------------------------


def setting_overrides() -> Any:
    """DSPy's settings as ``dspy.context`` overrides them here: `thread_local_overrides`."""
    return thread_local_overrides.get()


def override_settings(overrides: Any) -> None:
    """Override DSPy's settings for the rest of this context, by what :func:`setting_overrides` gave."""
    thread_local_overrides.set(overrides.copy())


def start_thread(thread: Any) -> None:
    """Python's own start of a thread."""
    _originals["start"](thread)


def submit(pool: Any, *work: Any, **named: Any) -> Any:
    """Python's own way to give work to a pool of threads."""
    return _originals["submit"](pool, *work, **named)


# --- answers kept by ``dspy.cache`` ----------------------------------------------------------------------------------


def cache_of_before() -> Any:
    """The cache that DSPy would use; `_get_dspy_cache` makes it when it is first needed."""
    found = _originals.get("cache", _ABSENT)
    if found is _ABSENT:
        found = _get_dspy_cache()
    return found


async def kept_answer(lm: Any, call: Any, asynchronous: bool) -> CallResult | None:
    """The answer that ``dspy.cache`` keeps for a call; None without one. `_cached`."""
    if not call.cache:
        return None
    return await off_the_loop(asynchronous, _cached, lm, call, asynchronous)


async def keep_answer(lm: Any, call: Any, result: CallResult, asynchronous: bool) -> None:
    """Have ``dspy.cache`` keep an answer, where the call wants that. `_store`."""
    if call.cache:
        await off_the_loop(asynchronous, _store, lm, call, result, asynchronous)


def kept_record(lm: Any, call: Any) -> Any:
    """The record that ``dspy.cache`` keeps of a call; None without one. `PreparedCall.key`."""
    return dspy.cache.get(_CALL_KEY(call, lm, False), _IGNORED_CACHE_KEYS)
