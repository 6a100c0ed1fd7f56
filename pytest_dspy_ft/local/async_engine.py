"""The embedded LM for code that awaits: requests wait in threads, so that they share batches like all others."""

from __future__ import annotations

import asyncio
from typing import Any

from dspy import lm15

from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.inference.reply_grammar import asked_grammar


class AsyncLocalEngine:
    """What ``dspy.LM(..., engine=engine, async_engine=AsyncLocalEngine(engine))`` awaits.

    Args:
        engine: The engine that answers.
    """

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Answer one request, as the engine does."""
        grammar = asked_grammar(request.config)  # here, where the adapter's call can be seen
        return await asyncio.to_thread(self.engine.complete_in, request, grammar)

    def dump_state(self) -> dict[str, Any]:
        """Return JSON data from which `load_state` finds the engine again."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> AsyncLocalEngine:
        """Return the counterpart of the engine whose state this is."""
        return cls(LocalEngine.load_state(state))

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncLocalEngine:
        return self
