"""An LM's answers as they came, for the record: text, tools that were asked for, why each ended, tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from pytest_dspy_ft.insides.lm_calls import Asked, CallResult
from pytest_dspy_ft.lms.withheld import finish_reasons, is_cut
from pytest_dspy_ft.records.output import Reply, shortened_middle


def replies_of(model: str, result: CallResult, asked: Asked, *, fallback: bool = False) -> list[Reply]:
    """The completions that one call was answered with.

    Args:
        model: The LM that was asked.
        result: Its answer.
        asked: What it was asked.
        fallback: Whether the JSON adapter asked it, after a reply that could not be read.
    """
    usage = result.usage
    sent = usage.get("prompt_tokens", usage.get("input_tokens"))
    given = usage.get("completion_tokens", usage.get("output_tokens"))
    outputs = [one if isinstance(one, Mapping) else {"text": one} for one in result.outputs]
    reasons: list[str | None] = [*finish_reasons(result)]
    reasons += [None] * (len(outputs) - len(reasons))
    return [
        Reply(
            model=model,
            text=shortened_middle(_text(output.get("text"))),
            reasoning=shortened_middle(_text(output.get("reasoning_content"))),
            tool_calls=_plain(output.get("tool_calls")),
            finish_reason=reason,
            input_tokens=sent,
            output_tokens=given,
            limit=asked.token_limit,
            cut_off=reason is not None and is_cut(reason),
            fallback=fallback,
        )
        for output, reason in zip(outputs, reasons, strict=False)
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _plain(calls: Any) -> list[JsonValue] | None:
    """Tool calls as JSON: providers give dicts, or objects of their own."""
    if not calls:
        return None
    plain: list[JsonValue] = json.loads(json.dumps(list(calls), default=_as_dict))
    return plain


def _as_dict(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)
