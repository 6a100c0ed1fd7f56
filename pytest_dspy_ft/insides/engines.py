"""Engines: what checks a request, the one for OpenAI-compatible servers, and settings that are an engine's."""

from __future__ import annotations

from pytest_dspy_ft.insides.needs import needed

with needed("to answer with models of this machine"):
    from dspy.clients.engines.base import validate_request

with needed("to ask the servers of --dspy-serve"):
    from dspy.clients.engines.lm15_engine import LM15Engine, timeouts_for

with needed("to tell an LM's address and key from what it is asked"):
    from dspy.clients.backend_selection import CLIENT_KEYS

__all__ = ["CLIENT_KEYS", "LM15Engine", "timeouts_for", "validate_request"]
