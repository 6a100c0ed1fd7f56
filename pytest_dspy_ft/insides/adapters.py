"""Adapters: where they read a reply, and where they ask again."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass, replace
from typing import Any, Final

import dspy

from pytest_dspy_ft.insides.needs import needed, there

with needed("to tell replies that cannot be read from failures"):
    _READS = (dspy.Adapter.parse, dspy.Adapter._call_postprocess)

# `ChatAdapter` asks again by way of a `JSONAdapter` of its own where it cannot read a reply; that one is a
# `ChatAdapter` too, so its calls run through both. A subclass may have its own `__call__` that ends in these.
with needed("to tell calls that were made since a reply could not be read"):
    _CHAT: Final = frozenset({dspy.ChatAdapter.__call__.__code__, dspy.ChatAdapter.acall.__code__})
    # Where a predictor calls its adapter.
    _PREDICTING: Final = frozenset({dspy.Predict.forward.__code__, dspy.Predict.aforward.__code__})

# Where an adapter reads a reply. Besides `AdapterParseError` it raises what its parts raise, such as a TypeError where
# `parse_value` looks a dict up among an Enum's values.
_READING: Final = frozenset(read.__name__ for read in _READS)


with needed("to read labels as a reply is read"):
    from dspy.adapters.utils import parse_value


def value_of_type(value: Any, annotation: Any) -> Any:
    """A value as DSPy's adapters make it of a type: what a reply says in text, or what JSON holds.

    Raises:
        ValueError: It cannot be of that type; of the type's own validators, whatever they raise.
    """
    return parse_value(value, annotation)


def is_unreadable(error: BaseException) -> bool:
    """True for what an adapter raised because it could not read a reply, whatever the exception's type.

    A name or module that is missing is the adapter's own fault, and what an LM raises that an adapter asks while it
    reads (``dspy.TwoStepAdapter``) is the LM's.
    """
    if isinstance(error, dspy.AdapterParseError):
        return True
    reading = False
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, dspy.Adapter) and frame.f_code.co_name in _READING:
            reading = True
        elif isinstance(owner, dspy.BaseLM):
            reading = False
    return reading and not isinstance(error, NameError | ImportError | MemoryError)


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


# --- the call of an adapter that an LM is asked in -------------------------------------------------------------------

# An adapter calls the LM from its `__call__` or `acall`, where it has its `signature`; a predictor keeps what it was
# called with in `kwargs`. `TwoStepAdapter` has a second LM read the first one's answer, by the call of another adapter.
_CALLS: Final = ("__call__", "acall")


@dataclass(frozen=True)
class AdapterCall:
    """The call of an adapter that is under way in this thread."""

    adapter: Any
    """Who reads the LM's reply."""
    signature: Any
    """What the reply must hold: without the outputs that an LM gives beside its text."""
    demos: tuple[Any, ...]
    inputs: dict[str, Any]
    """What the predictor was called with."""


def adapter_call() -> AdapterCall | None:
    """The call of an adapter that an LM is asked in, seen from the LM's own ``__call__``; None where none asks it."""
    frame: Any = sys._getframe(1)
    found: AdapterCall | None = None
    while frame is not None:
        names = frame.f_locals
        if frame.f_code in _PREDICTING:
            given = names.get("kwargs")
            return replace(found, inputs=dict(given)) if found and isinstance(given, dict) else found
        adapter, signature = names.get("self"), names.get("signature")
        if (
            found is None
            and frame.f_code.co_name in _CALLS
            and isinstance(adapter, dspy.Adapter)
            and signature is not None
        ):
            demos, inputs = names.get("demos"), names.get("inputs")
            asked = names.get("processed_signature") or signature
            found = AdapterCall(adapter, asked, tuple(demos or ()), dict(inputs) if isinstance(inputs, dict) else {})
        frame = frame.f_back
    return found


# --- prompts ---------------------------------------------------------------------------------------------------------

# What an adapter makes of a signature before it writes the prompt: an output that the LM gives by itself (reasoning,
# tool calls) is asked for by a setting then, and stands neither in the prompt nor in the text of the reply.
with needed("to write prompts as a program's calls have them"):
    there(dspy.Adapter._call_preprocess, dspy.Adapter.format, dspy.Adapter.format_assistant_message_content)

# Adapters read what an LM can do within one plan for the call.
with needed("to know what an adapter leaves to the LM"):
    from dspy.clients.capabilities import planning_scope


def asked_signature(adapter: Any, lm: Any, signature: Any, config: dict[str, Any], inputs: dict[str, Any]) -> Any:
    """The signature that an adapter writes into the prompt: without the outputs that this LM gives by itself.

    Args:
        adapter: The adapter.
        lm: The LM that is asked.
        signature: The predictor's.
        config: The predictor's settings.
        inputs: What is asked.
    """
    settings = dict(config)
    with planning_scope(lm, settings):
        return adapter._call_preprocess(lm, settings, signature, inputs)


def chat_messages(prompt: Any) -> list[dict[str, Any]]:
    """A prompt as messages of a chat, ``{"role": ..., "content": ...}``, from what ``Adapter.format`` gives.

    DSPy 3.4 gives such messages; 3.5 (by its sources) a ``Prompt`` of a system text and ``dspy.lm15`` messages.

    Raises:
        ValueError: If a message holds more than text, and is not in that form already.
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not hasattr(prompt, "messages"):
        return list(prompt)
    system = getattr(prompt, "system", None)
    first = [] if system is None else [{"role": "system", "content": _text_of(system)}]
    return first + [{"role": message.role, "content": _text_of(message.parts)} for message in prompt.messages]


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = [text for part in content if isinstance(text := getattr(part, "text", None), str)]
    if len(texts) < len(content):
        raise ValueError("the prompt holds more than text")
    return "\n\n".join(texts)
