"""What every service on the loopback has in common: a real HTTP server, its faults, and what was asked of it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from http.server import ThreadingHTTPServer
from typing import Any, Self

from tests.finetune.hosted.http_faults import ApiError, Call, Fault, FaultyHandler, chat_completion

Routes = list[tuple[str, str, Callable[..., Any]]]


class LoopbackService:
    """A service; each kind says its routes.

    Args:
        answer: ``(model, messages) -> text`` of chat completions.
        faults: Asked about each request.
    """

    handler: type[FaultyHandler] = FaultyHandler

    def __init__(
        self,
        *,
        answer: Callable[[str, list[dict[str, Any]]], str] = lambda model, messages: "hello",
        faults: Callable[[Call], Fault | None] = lambda call: None,
    ) -> None:
        self.answer, self.faults = answer, faults
        self.calls: list[Call] = []
        self.asked: list[str] = []
        """The models that chat completions were asked of."""
        self.seen: list[str] = []
        self.late: list[threading.Timer] = []
        self.lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None

    @property
    def root(self) -> str:
        return "http://service.test" if self._server is None else f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        handler = type("Handler", (self.handler,), {"service": self})
        self._server = server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self.settle()

    def settle(self) -> None:
        """Wait until requests that arrive late have arrived."""
        for timer in self.late:
            timer.join(5)

    def handle(self, method: str, path: str, query: dict[str, str], headers: Mapping[str, str], body: bytes) -> Any:
        with self.lock:
            for wanted, pattern, action in self.routes():
                if method == wanted and (match := re.fullmatch(pattern, path)):
                    return action(*match.groups(), query=query, headers=headers, body=body)
        raise ApiError(404, f"unknown path {method} {path}", "not_found")

    def routes(self) -> Routes:
        raise NotImplementedError

    def chat(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        """A chat completion of a model that answers."""
        request = json.loads(body)
        model = request["model"]
        self.check_callable(model)
        self.asked.append(model)
        text = self.answer(model, request["messages"])
        return chat_completion(len(self.calls), model, text)

    def check_callable(self, model: str) -> None:
        """Refuse a model that is served nowhere."""
