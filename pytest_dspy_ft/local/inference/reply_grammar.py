"""What a reply may look like, as a grammar: of a JSON schema that is asked for, or of an adapter's own format.

Grammars are texts in the Lark dialect of llguidance, so that equal ones are known by their text. A field of text may
hold anything but the beginning of what follows it; other fields hold what their type allows, written as DSPy's
adapters write and read it.
"""

from __future__ import annotations

import enum
import json
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

import dspy
import pydantic
from dspy import lm15

from pytest_dspy_ft.constants import ADAPTER_FORMAT
from pytest_dspy_ft.errors import LMError
from pytest_dspy_ft.insides.adapters import adapter_call

_TEXT = r"(?s:.*)"
_INTEGER = r"-?(0|[1-9][0-9]*)"
_NUMBER = rf"{_INTEGER}(\.[0-9]+)?([eE][-+]?[0-9]+)?"
_JSON_SPACE = r"( |\n {0,20})?"
"""White space in JSON, as ``json.dumps`` sets it with and without indentation. Any amount would let a model go on
with it until its reply is cut off."""

_MARKER = re.compile(r"\s*[^\w\s]{2,}")
"""How a format announces its next field: punctuation that prose hardly has, such as ``[[`` and ``</``."""


def asked_grammar(config: lm15.Config) -> str | None:
    """The grammar that a request's reply is to keep to; None where it is free. Called where the adapter calls.

    Raises:
        LMError: The reply is to keep to the format of the adapter that asks, and that has none, or none asks.
    """
    asked = config.response_format
    if asked is None:
        return None
    if asked != ADAPTER_FORMAT:
        return schema_grammar(asked)
    asking = adapter_call()
    if asking is None:
        raise LMError("replies are to keep to the adapter's format, but no adapter asks: ask with another LM")
    return format_grammar(asking.adapter, asking.signature)


def schema_grammar(response_format: Mapping[str, Any]) -> str:
    """The grammar of a request's ``response_format``: ``json_object``, or ``json_schema`` with its ``schema``."""
    schema = response_format.get("schema") if response_format.get("type") == "json_schema" else {"type": "object"}
    return f"start: {_json_rule(schema)}\n"


def format_grammar(adapter: Any, signature: Any) -> str:
    """The grammar of the replies that an adapter teaches for a signature.

    Args:
        adapter: A ``dspy.Adapter``.
        signature: The signature it writes into the prompt; its output fields are the reply.

    Raises:
        LMError: If the adapter writes no reply that tells where each field begins and ends.
    """
    if isinstance(adapter, dspy.JSONAdapter):  # also where another one falls back on it
        return f"start: {_json_rule(_reply_schema(signature))}\n"
    names = list(signature.output_fields)
    pieces = _pieces(adapter, signature, names)
    rules: list[str] = []
    parts = [json.dumps(pieces[0])] if pieces[0] else []
    for number, (name, after) in enumerate(zip(names, pieces[1:], strict=True)):
        rule, rest = _field_rule(number, signature.output_fields[name].annotation, after)
        rules.append(rule)
        parts += [f"field{number}", *([json.dumps(rest)] if rest else [])]
    return "\n".join([f"start: {' '.join(parts)}", *rules, ""])


def _pieces(adapter: Any, signature: Any, names: list[str]) -> list[str]:
    """The fixed texts before, between and after the fields of a reply."""
    if isinstance(adapter, dspy.TwoStepAdapter):
        raise LMError("replies cannot be kept in a format: dspy.TwoStepAdapter leaves it to the LM")
    if isinstance(adapter, dspy.XMLAdapter):
        for name in names:
            if _is_structured(signature.output_fields[name].annotation):
                raise LMError(
                    f"replies cannot be kept in the format of {type(adapter).__name__}: it writes {name!r} as elements "
                    "within elements; use dspy.ChatAdapter or dspy.JSONAdapter"
                )
    marks = [f"\ue000{number}\ue001" for number in range(len(names))]
    try:
        reply = adapter.format_assistant_message_content(signature, dict(zip(names, marks, strict=True)))
    except Exception as error:
        raise LMError(f"replies cannot be kept in the format of {type(adapter).__name__}: {error}") from error
    pieces, rest = [], str(reply)
    for name, mark in zip(names, marks, strict=True):
        piece, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise LMError(
                f"replies cannot be kept in the format of {type(adapter).__name__}: "
                f"it does not write the field {name!r} once, in the signature's order"
            )
        pieces.append(piece)
    return [*pieces, rest.rstrip()]


def _field_rule(number: int, annotation: Any, after: str) -> tuple[str, str]:
    """One field's rule, and what of the text after it is still to come."""
    name = f"field{number}"
    choices = _choices(annotation)
    if choices is not None:
        return f"{name}: {' | '.join(json.dumps(choice) for choice in choices)}", after
    if annotation is int:
        return f"{name}: /{_INTEGER}/", after
    if annotation is float:
        return f"{name}: /{_NUMBER}/", after
    if not _is_text(annotation) and (schema := _json_schema(annotation)) is not None:
        absent = ' | "None"' if type(None) in get_args(annotation) else ""  # as adapters write what is not there
        return f"{name}: {name}_json{absent}\n{name}_json: {_json_rule(schema)}", after
    if not after.strip():
        return f"{name}: /{_TEXT}/", after
    marker = _MARKER.match(after)
    head = marker.group() if marker else after
    return f"{name}[lazy]: /{_TEXT}{_escaped(head)}/", after[len(head) :]


def _json_rule(schema: Any) -> str:
    return f"%json {json.dumps({**(schema or {}), 'x-guidance': {'whitespace_pattern': _JSON_SPACE}})}"


def _choices(annotation: Any) -> list[str] | None:
    """The texts of a closed set of values, as an adapter shows them; None for an open one."""
    if annotation is bool:
        return ["True", "False"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [str(member.value) for member in annotation]
    return None


def _is_structured(annotation: Any) -> bool:
    """True for lists, dictionaries and models, with or without None."""
    united = get_origin(annotation) in (Union, types.UnionType)
    kinds = [kind for kind in (get_args(annotation) if united else (annotation,)) if kind is not type(None)]
    plain = all(kind in (str, int, float, bool) for kind in kinds)
    return not plain and _choices(annotation) is None and not _is_text(annotation)


def _is_text(annotation: Any) -> bool:
    """True for what an adapter reads as it stands: text, and DSPy's own kinds of text such as reasoning and code."""
    if annotation is str or annotation is Any:
        return True
    return isinstance(annotation, type) and issubclass(annotation, dspy.Type) and annotation is not dspy.ToolCalls


def _reply_schema(signature: Any) -> dict[str, Any]:
    """The JSON schema of a reply that holds all outputs of a signature, in its order."""
    fields: dict[str, Any] = {
        name: (str if _is_text(field.annotation) else field.annotation, ...)
        for name, field in signature.output_fields.items()
    }
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    try:
        schema: dict[str, Any] = pydantic.create_model("Reply", __config__=config, **fields).model_json_schema()
    except (pydantic.PydanticSchemaGenerationError, pydantic.PydanticInvalidForJsonSchema) as error:
        raise LMError(f"replies cannot be kept in JSON: {error}") from error
    return schema


def _json_schema(annotation: Any) -> dict[str, Any] | None:
    try:
        return pydantic.TypeAdapter(annotation).json_schema()
    except (pydantic.PydanticSchemaGenerationError, pydantic.PydanticInvalidForJsonSchema, pydantic.PydanticUserError):
        return None


def _escaped(text: str) -> str:
    """A text as a pattern between the slashes of a grammar."""
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n").replace("\n", r"\n").replace("\\ ", " ")
