"""LMs that cannot answer: no key is there, or nobody listens at their address. Found out without a request."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import dspy

from pytest_dspy_ft.insides.engines import is_asked_by_dspy
from pytest_dspy_ft.lms.calls import active_recorder
from pytest_dspy_ft.lms.failures import key_variables
from pytest_dspy_ft.lms.resolve import is_local, is_placeholder
from pytest_dspy_ft.redaction import without_password

_WITH_KEYS = {
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    "anthropic": ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"),
    "gemini": ("GEMINI_API_BASE",),
    "groq": ("GROQ_API_BASE",),
    "mistral": ("MISTRAL_API_BASE",),
    "deepseek": ("DEEPSEEK_API_BASE",),
    "openrouter": ("OPENROUTER_API_BASE", "OR_API_KEY"),
}
"""Providers that answer nobody without a key, and the variables that stand for one or name another address."""

_LOGINS = ("api_key", "api_base", "base_url", "headers", "extra_headers", "default_headers")
"""Settings of an LM with which it may need no key of its provider's."""

_TRIES, _PAUSE, _CONNECTING = 3, 0.5, 2.0
"""A server that is just being started is given a moment; pauses and the time to connect are seconds."""


def unanswerable(lm: Any) -> str:
    """Why an LM cannot answer any call; empty where nothing is known against it.

    What is only replayed needs nobody, and what an engine of the user's own needs is not known.
    """
    recorder = active_recorder()
    if recorder is not None and recorder.covers(lm):
        return ""
    if type(lm) is not dspy.LM or is_local(lm) or is_placeholder(lm) or not is_asked_by_dspy(lm):
        return ""
    settings = getattr(lm, "kwargs", None) or {}
    if address := settings.get("api_base") or settings.get("base_url"):
        return _refused(lm.model, str(address))
    return _without_key(lm.model, settings)


def _without_key(model: str, settings: dict[str, Any]) -> str:
    provider = model.partition("/")[0]
    if provider not in _WITH_KEYS or any(settings.get(name) for name in _LOGINS):
        return ""
    variables = key_variables(model)
    if any(os.environ.get(name) for name in (*variables, *_WITH_KEYS[provider])):
        return ""
    litellm = sys.modules.get("litellm")
    if any(getattr(litellm, name, None) for name in ("api_key", f"{provider}_key")):
        return ""
    return f"there is no key for {model}: set {' or '.join(variables)}, or give the LM api_key=..."


def _refused(model: str, address: str) -> str:
    """Why nobody can be reached at an address; empty where somebody can be, or that is not known."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        host = None
    if not host:
        return (
            f"the address of {model}, {without_password(address)!r}, is none: api_base='http://HOST:PORT/v1' is needed"
        )
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return ""
    for tried in range(_TRIES):
        try:
            with socket.create_connection((host, port), _CONNECTING):
                return ""
        except ConnectionRefusedError:
            if tried < _TRIES - 1:
                time.sleep(_PAUSE)
        except OSError:  # a name that is not found, a time-out: another moment may do better
            return ""
    return f"nobody listens at {host}:{port}, where {model} is to answer: start the server, or mend the LM's api_base"
