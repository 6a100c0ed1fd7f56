"""Engines: what checks a request, the one for OpenAI-compatible servers, and settings that are an engine's."""

from __future__ import annotations

from typing import Any

from dspy.lm15 import RouterConfig

from pytest_dspy_ft.insides.needs import needed

with needed("to answer with models of this machine"):
    from dspy.clients.engines.base import validate_request

# The engine, and what carries its requests.
with needed("to ask the servers of --dspy-serve"):
    from dspy._vendor.lm15.transports import StdlibTransport
    from dspy.clients.engines.lm15_engine import LM15Engine

with needed("to tell an LM's address and key from what it is asked"):
    from dspy.clients.backend_selection import CLIENT_KEYS

__all__ = ["CLIENT_KEYS", "engine_at", "validate_request"]


class _WithLogin(StdlibTransport):  # type: ignore[misc]
    """Sends a login of its own in place of a key."""

    def __init__(self, login: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._login = login

    def stream(self, request: Any) -> Any:
        kept = [(name, value) for name, value in request.headers if name.lower() != "authorization"]
        request.headers = [*kept, ("Authorization", self._login)] if self._login else request.headers
        return super().stream(request)


def engine_at(model: str, address: str | None, key: str | None, seconds: float, *, login: str = "") -> Any:
    """An engine that asks one provider, at an address of one's own.

    Args:
        model: A model of the provider's, such as ``openai/NAME``.
        address: The server's, as far as ``/v1``; None for the provider's own.
        key: Its key; None for none.
        seconds: The longest wait for a part of an answer.
        login: The ``Authorization`` header in the place of one with the key; empty: none.
    """
    provider = LM15Engine(RouterConfig(env={})).resolve(model).provider
    transport = _WithLogin(login, read_timeout=seconds, write_timeout=seconds, pool_timeout=seconds)
    keys = {provider: key} if key else {}
    addresses = {provider: address} if address else {}
    return LM15Engine(RouterConfig(api_keys=keys, base_urls=addresses, transport=transport))


def is_asked_by_dspy(lm: Any) -> bool:
    """True for an LM whose engine DSPy chooses by the model's name; the user's own engines ask whom they like."""
    engine = vars(lm).get("_engine_spec", getattr(lm, "engine", None))
    return engine is None or isinstance(engine, str)
