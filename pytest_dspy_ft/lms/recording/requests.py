"""One LM call as plain JSON: what was asked, without keys, headers or the process it was asked in; and the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pytest_dspy_ft.fingerprint import canonical, digest_json, lm_identity
from pytest_dspy_ft.insides.engines import CLIENT_KEYS
from pytest_dspy_ft.insides.lm_calls import CallResult, combine, request_to_dict
from pytest_dspy_ft.redaction import is_secret, plain_address, redact

_NOT_ASKED = CLIENT_KEYS | {"model", "messages", "rollout_id", "cache", "system"}
_PASSING = frozenset({"id", "created", "system_fingerprint", "service_tier", "provider_data", "_hidden_params"})
"""Of an answer: what differs each time, says nothing, or may hold what a header said."""
_LONG_DATA = 2000


def question_of(lm: Any, call: Any) -> dict[str, Any]:
    """A call as JSON: equal for equal calls, in whatever process, thread or order.

    Args:
        lm: The LM.
        call: DSPy's prepared call.

    Returns:
        ``model``, ``address``, ``messages``, ``settings``, ``rollout`` and ``engine``; those that are empty left out.
    """
    if call.request is not None:
        body = request_to_dict(call.request)
        system = body.get("system")
        messages = [*([{"role": "system", "content": system}] if system else []), *body["messages"]]
    else:
        body, messages = call.legacy, call.legacy["messages"]
    settings = {
        name: value
        for name, value in body.items()
        if name not in _NOT_ASKED and value is not None and not is_secret(name) and not name.endswith("headers")
    }
    if getattr(lm, "model_type", "chat") not in ("chat", "auto"):  # the default of DSPy 3.4, and that of 3.5
        settings["model_type"] = lm.model_type
    described = {
        "model": lm.model,
        "address": plain_address(body.get("api_base") or lm.kwargs.get("api_base") or lm.kwargs.get("base_url")),
        "engine": digest_json(engine, length=16) if (engine := lm_identity(lm).get("engine")) else None,
        "messages": [_plain(message) for message in messages],
        "settings": {name: _plain(value) for name, value in sorted(settings.items())},
        "rollout": call.kwargs.get("rollout_id") or lm.kwargs.get("rollout_id"),
    }
    question: dict[str, Any] = _redacted({name: value for name, value in described.items() if value not in (None, {})})
    return question


def key_of(question: Mapping[str, Any]) -> str:
    """The key of a call described by :func:`question_of`."""
    return digest_json(question, length=20)


def reply_of(result: CallResult) -> dict[str, Any]:
    """An answer as JSON, without what differs each time."""
    reply = {name: value for name, value in result.dump().items() if value not in (None, [], {}, ())}
    reply.pop("_dspy_format", None)
    if reply.get("responses"):
        reply.pop("outputs", None)  # they follow from the responses
    plain: dict[str, Any] = _redacted(_without_passing(reply))
    return plain


def result_of(lm: Any, reply: Mapping[str, Any], *, logprobs: bool) -> CallResult:
    """An answer from the folder, as DSPy's engines would have given it, marked as replayed."""
    record = {"responses": [], "outputs": [], "cost": None, "response_model": None, **reply}
    if record["responses"]:
        responses = CallResult.load(record).responses
        parts = [CallResult.native(r, model_type=lm.model_type, logprobs=logprobs) for r in responses]
        result = parts[0] if len(parts) == 1 else combine(parts, model_type=lm.model_type)
    else:
        result = CallResult.load(record)
    result.usage = dict(reply.get("usage") or {})
    result.cost = record["cost"]
    result.cache_hit = False
    result.cost_details = {**record.get("cost_details", {}), "replayed": True}
    return result


def _without_passing(value: Any, depth: int = 0) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _without_passing(v, depth + 1)
            for name, v in value.items()
            if not (name in _PASSING and (name != "id" or depth <= 2))  # a tool call's id is part of what was said
        }
    return [_without_passing(v, depth + 1) for v in value] if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    """A value as JSON that reads well; what is no JSON, by what it is; long data by its hash."""
    if isinstance(value, str):
        if value.startswith("data:") and len(value) > _LONG_DATA:
            return f"data:sha256:{hashlib.sha256(value.encode()).hexdigest()}"
        return value
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if not (isinstance(k, str) and is_secret(k))}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, type) and hasattr(value, "model_json_schema"):
        return _plain(value.model_json_schema())
    return canonical(value)


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {k: _redacted(v) for k, v in value.items()}
    return [_redacted(v) for v in value] if isinstance(value, list) else value
