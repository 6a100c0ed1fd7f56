"""All that leans on DSPy's insides, each with what it leans on. It was written for, and tested with, DSPy 3.4.1.

What DSPy exports (``dspy.LM``, ``dspy.context``, ``dspy.lm15``, its exceptions) is not here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

import dspy

# 3.4.1: vendored; gives a native request as JSON, with all that is asked for.
from dspy._vendor.lm15.serde import request_to_dict
from dspy.clients import embedding, execution

# 3.4.1: the seconds that a provider's headers ask to wait.
from dspy.clients._http import finite_seconds, retry_after_seconds

# 3.4.1: settings of an LM that say where and how it is reached, not what it is asked.
from dspy.clients.backend_selection import CLIENT_KEYS

# 3.4.1: an answer with its usage, cost and marks; how several become one.
from dspy.clients.call_result import CallResult, combine

# 3.4.1: the engine for OpenAI-compatible servers, and its timeouts.
from dspy.clients.engines.lm15_engine import LM15Engine, timeouts_for

# 3.4.1: what `dspy.context` overrides, and what `dspy.configure` set.
from dspy.dsp.utils.settings import thread_local_overrides
from dspy.utils.exceptions import AdapterParseError, LMUnexpectedError

__all__ = [
    "CLIENT_KEYS",
    "Asked",
    "CallResult",
    "LM15Engine",
    "combine",
    "finite_seconds",
    "request_to_dict",
    "retry_after_seconds",
    "timeouts_for",
]

# --- what DSPy uses in place of its own ------------------------------------------------------------------------------

# 3.4.1: `LM.__call__`, `acall` and `forward` look `execute` and `aexecute` up in this module at each call; a call that
# the user's own `forward` answers is not `managed`. An LM class with its own `__call__` goes round them, and has
# `_record_response` note its calls. `dspy.cache` is looked up at each request of an LM, an embedder or a retriever; it
# is absent until DSPy first needs it. Python's threads start with an empty context, and so without DSPy's settings.
# Before DSPy makes a failed call again, it sleeps for as long as `_delay` says. An embedder asks by way of
# `_compute_embeddings`.
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
    """The LM's answer, by DSPy's own way: `execute` (3.4.1). It retries some failures by itself."""
    if asynchronous:
        return await _originals["aexecute"](lm, call)
    return _originals["execute"](lm, call)


def is_streaming() -> bool:
    """True where answers are handed on word by word: to the event loop of the very thread that asks (3.4.1)."""
    return dspy.settings.send_stream is not None


def limited(lm: Any, call: Any, seconds: float | None) -> Any:
    """A call that an engine of DSPy's own gives up by itself after so many seconds without a word (3.4.1: `legacy`)."""
    if seconds is None or "timeout" in call.legacy or not isinstance(getattr(lm, "_engine_spec", None), str):
        return call
    return replace(call, legacy={**call.legacy, "timeout": seconds})


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
    """DSPy's own note of a call that an LM class answered by itself: `BaseLM._record_response` (3.4.1)."""
    return _originals["_record_response"](lm, *arguments, **named)


def recorded_result(response: Any, outputs: Any) -> CallResult:
    """A response given to `_record_response`, its usage and its cost, as that reads them (3.4.1)."""
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
    """What a call asked, as far as it is needed to count its answer and to know it again. `PreparedCall` (3.4.1)."""

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
    def token_limit(self) -> int | None:
        """The longest reply that was asked for, in tokens; None where nobody said."""
        config = getattr(self.request, "config", None)
        limits = [getattr(config, "max_tokens", None), *(self.settings.get(name) for name in _LIMITS)]
        return next((int(limit) for limit in limits if isinstance(limit, (int, float)) and limit > 0), None)


def unreadable_body(lm: Any, error: BaseException) -> bool:
    """True where an engine of DSPy's own could make nothing of a reply: `LM._engine_spec` is its name then (3.4.1)."""
    return type(error) is LMUnexpectedError and isinstance(getattr(lm, "_engine_spec", None), str)


def reported_usage(lm: Any, result: CallResult) -> CallResult:
    """The answer with its usage as far as that was really reported; LiteLLM writes zeros where a reply has none.

    Negative counts are none. An engine of the user's own, or DSPy's dummy, may well say zero.
    """
    usage = result.usage
    if not usage or result.cache_hit or result.cost_details.get("replayed"):
        return result
    sent = usage.get("prompt_tokens", usage.get("input_tokens"))
    given = usage.get("completion_tokens", usage.get("output_tokens"))
    by_provider = isinstance(getattr(lm, "_engine_spec", None), str)
    if any(count is not None and count < 0 for count in (sent, given)):
        return replace(result, usage={}, cost=None)
    if by_provider and (not sent or given is None or (given == 0 and any(result.outputs))):
        return replace(result, usage={}, cost=None)
    return result


# --- settings and threads ---------------------------------------------------------------------------------------------


def setting_overrides() -> Any:
    """DSPy's settings as ``dspy.context`` overrides them here: `thread_local_overrides` (3.4.1)."""
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


# --- adapters ---------------------------------------------------------------------------------------------------------

# 3.4.1: where an adapter reads a reply. Besides `AdapterParseError` it raises what its parts raise, such as a TypeError
# where `parse_value` looks a dict up among an Enum's values.
_READING: Final = frozenset({"parse", "_call_postprocess"})


def is_unreadable(error: BaseException) -> bool:
    """True for what an adapter raised because it could not read a reply, whatever the exception's type.

    A name or module that is missing is the adapter's own fault, and what an LM raises that an adapter asks while it
    reads (``dspy.TwoStepAdapter``) is the LM's.
    """
    if isinstance(error, AdapterParseError):
        return True
    reading = False
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, dspy.Adapter) and frame.f_code.co_name in _READING:
            reading = True
        elif isinstance(owner, dspy.BaseLM):
            reading = False
    return reading and not isinstance(error, NameError | ImportError | MemoryError)


# 3.4.1: `ChatAdapter` asks again by way of a `JSONAdapter` of its own where it cannot read a reply; that one is a
# `ChatAdapter` too, so its calls run through both. A subclass may have its own `__call__` that ends in these.
_CHAT: Final = frozenset({dspy.ChatAdapter.__call__.__code__, dspy.ChatAdapter.acall.__code__})


def is_json_fallback() -> bool:
    """True where the call that is being made is a JSON adapter's, made for an adapter that could not read a reply."""
    frame: Any = sys._getframe(1)
    json_adapter = False
    while frame is not None:
        if frame.f_code in _CHAT:
            if isinstance(frame.f_locals.get("self"), dspy.JSONAdapter):
                json_adapter = True
            else:
                return json_adapter
        elif frame.f_code in _PREDICTING:
            return False
        frame = frame.f_back
    return False


# 3.4.1: where a predictor calls its adapter.
_PREDICTING: Final = frozenset({dspy.Predict.forward.__code__, dspy.Predict.aforward.__code__})


# --- answers kept by ``dspy.cache`` ----------------------------------------------------------------------------------


def cache_of_before() -> Any:
    """The cache that DSPy would use; `_get_dspy_cache` (3.4.1) makes it when it is first needed."""
    found = _originals.get("cache", _ABSENT)
    if found is _ABSENT:
        from dspy.clients import _get_dspy_cache

        found = _get_dspy_cache()
    return found


async def kept_answer(lm: Any, call: Any, asynchronous: bool) -> CallResult | None:
    """The answer that ``dspy.cache`` keeps for a call; None without one. `_cached` (3.4.1)."""
    if not call.cache:
        return None
    return await off_the_loop(asynchronous, execution._cached, lm, call, asynchronous)


async def keep_answer(lm: Any, call: Any, result: CallResult, asynchronous: bool) -> None:
    """Have ``dspy.cache`` keep an answer, where the call wants that. `_store` (3.4.1)."""
    if call.cache:
        await off_the_loop(asynchronous, execution._store, lm, call, result, asynchronous)


def kept_record(lm: Any, call: Any) -> Any:
    """The record that ``dspy.cache`` keeps of a call; None without one. `PreparedCall.key` (3.4.1)."""
    return dspy.cache.get(call.key(lm, False), execution.IGNORED_CACHE_KEYS)


# --- programs and optimizers ------------------------------------------------------------------------------------------


def mark_compiled(program: Any, compiled: bool) -> None:
    """Say that a program was compiled, or was not: optimizers refuse one that says so. `Module._compiled` (3.4.1)."""
    program._compiled = compiled


def wrap_proposals(optimizer: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Wrap the step of a ``MIPROv2`` that proposes instructions. `_propose_instructions` (3.4.1).

    It takes the program and more, and returns the candidates for each predictor, by its number.
    """
    optimizer._propose_instructions = wrap(optimizer._propose_instructions)


class _SharedHistory(list[Any]):
    """An LM's calls, which DSPy appends and nobody changes: a deep copy shares them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _SharedHistory:
        return _SharedHistory(self)


def lighten_history(lm: Any) -> None:
    """Let deep copies of an LM share the calls that it remembers (3.4.1: up to 10 000, prompts and replies in full).

    DSPy's optimizers copy programs with their LMs again and again; after a large evaluation, that would be most of what
    a build takes.
    """
    if type(getattr(lm, "history", None)) is list:
        lm.history = _SharedHistory(lm.history)
