"""An engine for ``dspy.LM`` that asks servers for what a model of this machine would answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dspy import lm15
from dspy.lm15 import Request, Response

from pytest_dspy_ft.constants import ADAPTER_FORMAT, CLOSING_MARKER
from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.lms.replica import Replica, SilentServerError, is_unknown
from pytest_dspy_ft.lms.replicas import Replicas, ServedAdapter

DEFAULT_MAX_TOKENS = 256
"""As the local engine has it, where an LM does not say."""
CONCURRENCY = 32

_ANOTHER_MAY_ANSWER = (lm15.TransportError, lm15.TimeoutError, lm15.ServerError, lm15.RateLimitError)
_GONE = frozenset({502, 503, 504})


class ServedEngine:
    """Spreads calls over servers; a call that one of them fails goes to another.

    Args:
        replicas: The servers.
        adapter: What they are to answer with; None for the base model.
        where: Its identity.
    """

    def __init__(self, replicas: Replicas, adapter: ServedAdapter | None, where: Mapping[str, str]) -> None:
        self._replicas, self._where = replicas, dict(where)
        self.adapter = adapter
        self.preferred_concurrency = CONCURRENCY * len(replicas.servers)

    def complete(self, request: Request) -> Response:
        """Answer one request, with the local engine's ways to end a reply.

        Raises:
            ServingError: If an adapter that a server has lost is not loaded again.
        """
        config = request.config
        if config.response_format == ADAPTER_FORMAT:
            raise ServingError("a server cannot keep replies to an adapter's format: leave out --dspy-constrain")
        config = replace(
            config,
            max_tokens=config.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=0.0 if config.temperature is None else config.temperature,  # greedy, as here
            stop=(*config.stop, CLOSING_MARKER),  # a small model runs on past it
        )
        asked = replace(request, config=config)
        tried: list[Replica] = []
        failure: Exception | None = None
        while (server := self._replicas.choose(tried)) is not None:
            try:
                with server.busy():
                    return replace(self._ask(server, asked), model=request.model)
            except SilentServerError as error:
                failure = lm15.TransportError(str(error))
                self._replicas.failed(server, error)
            except _ANOTHER_MAY_ANSWER as error:
                failure = error
                if isinstance(error, lm15.TransportError) or error.status in _GONE:
                    self._replicas.failed(server, error)
            tried.append(server)
        assert failure is not None
        raise failure

    def identity(self) -> dict[str, str]:
        """Which server answers."""
        return self._where

    def close(self) -> None:
        """Do nothing: the connections are the servers', which other engines ask."""

    def __deepcopy__(self, memo: dict[int, Any]) -> ServedEngine:
        return self

    def _ask(self, server: Replica, request: Request) -> Response:
        """Ask one server; load the adapter where it is not there, or not any more."""
        if self.adapter is None:
            return server.complete(replace(request, model=f"openai/{server.model('')}"))
        while True:
            loaded = self._replicas.ready(server, self.adapter)
            try:
                return server.complete(replace(request, model=f"openai/{server.model(loaded.name)}"))
            except lm15.LM15Error as error:
                unknown = isinstance(error, lm15.UnsupportedModelError)
                if not unknown and not is_unknown(error.status, str(error), loaded.name):
                    raise
            self._replicas.load_again(server, self.adapter, loaded)
