"""Replies that hold no answer of the model, and answers cut off: told apart before an adapter reads them.

A gateway that answers with ``{}``, without choices or with a null for content, and a content filter, leave the adapter
nothing that it could read: to DSPy that is a wrong answer of the model, which it is not. What the model did say, an
empty text or a refusal of its own included, is its answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dspy import LMProviderError

from pytest_dspy_ft.insides.lm_calls import CallResult
from pytest_dspy_ft.text import shorten

FILTERED = "a content filter withheld the answer"

_FILTERS = frozenset({"content_filter", "content-filter", "safety", "recitation", "prohibited_content", "blocklist"})
_CUT = frozenset({"length", "max_tokens", "max_output_tokens"})
_SAID = ("tool_calls", "function_call", "reasoning_content", "reasoning", "refusal", "audio", "images")
"""Of a message without text: what else a model may have said."""


class AnswerWithheldError(LMProviderError):  # type: ignore[misc]
    """A provider replied, and the reply holds no answer of the model.

    Args:
        message: What it holds instead.
        model: The LM that was asked.
        lasting: True where asking the same again would meet the same: a content filter.
    """

    def __init__(self, message: str = "", *, model: str | None = None, lasting: bool = False) -> None:
        super().__init__(message, model=model)
        self.lasting = lasting


def find_withheld(model: str, result: CallResult) -> AnswerWithheldError | None:
    """The failure that a reply without an answer is; None where the model answered, however badly.

    Args:
        model: The LM that was asked.
        result: The reply.
    """
    for finish, body in _finishes(result):
        if finish in _FILTERS:
            return AnswerWithheldError(FILTERED, model=model, lasting=True)
        if finish in ("error", "failed", "cancelled"):
            said = _get(body, "error")
            told = f": {shorten(str(_get(said, 'message') or said), 200)}" if said else ""
            return AnswerWithheldError(f"the provider broke the answer off with an error{told}", model=model)
    if _says_something(result):
        return None
    missing = next((why for body in _bodies(result) if (why := _missing(body))), None)
    if missing is None and not result.outputs and not _bodies(result):
        missing = "it is empty"
    return None if missing is None else AnswerWithheldError(f"the reply holds no answer: {missing}", model=model)


def count_cut_off(result: CallResult) -> int:
    """How many of the answers in a reply were cut off by a limit on their tokens."""
    return sum(finish in _CUT for finish, _ in _finishes(result))


def finish_reasons(result: CallResult) -> list[str]:
    """Why each answer in a reply ended, as its provider says."""
    return [finish for finish, _ in _finishes(result)]


def is_cut(finish: str) -> bool:
    """True for the reason of an answer that a limit on its tokens cut off."""
    return finish in _CUT


def _finishes(result: CallResult) -> Iterator[tuple[str, Any]]:
    """Why each answer ended, as DSPy's engines and as the provider say it, with what holds its error."""
    for response in result.responses:
        data = response.provider_data if isinstance(response.provider_data, Mapping) else {}
        theirs = _own_finishes(data)
        if response.finish_reason != "stop" or not theirs:
            yield str(response.finish_reason), data
        else:  # they take any reason they do not know for "stop"
            yield from theirs
    if not result.responses and result.raw is not None:
        yield from _own_finishes(result.raw)


def _own_finishes(body: Any) -> list[tuple[str, Any]]:
    """The same, read in the body of a reply."""
    choices = _get(body, "choices")
    if isinstance(choices, (list, tuple)):
        return [(str(_get(one, "finish_reason") or "stop").lower(), one) for one in choices]
    if isinstance(status := _get(body, "status"), str):
        reason = str(_get(_get(body, "incomplete_details"), "reason") or "") if status == "incomplete" else ""
        return [((reason or status).lower(), body)]
    return []


def _bodies(result: CallResult) -> list[Any]:
    """The provider's own bodies, where the reply keeps them."""
    if result.responses:
        return [one.provider_data for one in result.responses if isinstance(one.provider_data, Mapping)]
    return [] if result.raw is None else [result.raw]


def _says_something(result: CallResult) -> bool:
    """True where every answer has text, or anything else that a model may give."""
    if count_cut_off(result):
        return True  # a limit that cut it before its first word is the caller's
    if result.responses:
        return all(
            any(part.type != "text" or part.text for part in response.message.parts) for response in result.responses
        )
    outputs = [one if isinstance(one, Mapping) else {"text": one} for one in result.outputs]
    return bool(outputs) and all(any(value not in (None, "", [], {}) for value in one.values()) for one in outputs)


def _missing(body: Any) -> str | None:
    """What a body that gave no text lacks; None where an empty text is what the model said."""
    if (choices := _get(body, "choices")) is not None:
        if not isinstance(choices, (list, tuple)) or not choices:
            return "it has no choices"
        return next((lack for choice in choices if (lack := _missing_in(choice))), None)
    if (feedback := _get(body, "promptFeedback")) and not _get(body, "candidates"):
        return f"the prompt was blocked ({_get(feedback, 'blockReason') or 'no reason given'})"
    for name in ("output", "candidates", "content"):  # the Responses API, Gemini, Anthropic
        if isinstance(value := _get(body, name), (list, tuple)):
            return None if value or name == "content" else f"its {name} is empty"
    if not body:
        return "it is an empty object"
    return "it has no choices"


def _missing_in(choice: Any) -> str | None:
    message = _get(choice, "message")
    if message is None:
        return "it has no message" if not isinstance(_get(choice, "text"), str) else None
    extras = _get(message, "provider_specific_fields")
    if any(_get(message, name) or _get(extras, name) for name in _SAID):
        return None
    content = _get(message, "content")
    if content is None:
        return "its content is null"
    return None if isinstance(content, (str, list, tuple)) else f"its content is {shorten(repr(content), 60)}"


def _get(body: Any, name: str) -> Any:
    return body.get(name) if isinstance(body, Mapping) else getattr(body, name, None)
