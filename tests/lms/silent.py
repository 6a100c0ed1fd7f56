"""A loopback server that takes requests and keeps quiet, or says a word now and then; and one that answers at last."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.lms.chat import parity

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"


@dataclass
class QuietServer:
    """How requests are treated, by their number: ``silent``, ``stalls``, ``drips`` or ``answers``."""

    manner: Callable[[int], str]
    rule: Callable[[dict[str, Any]], str] = parity
    requests: list[dict[str, Any]] = field(default_factory=list)
    answered: int = 0
    address: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    """Set at the end; whoever is kept waiting waits for it."""
    may_answer: threading.Event = field(default_factory=threading.Event)
    """What is treated ``in a moment`` is answered when this is set."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            body = _body(connection)
            with self._lock:
                number = len(self.requests)
                self.requests.append(body)
            manner = self.manner(number)
            if manner == "stalls":
                connection.sendall(HEAD + b"Content-Length: 500\r\n\r\n")
            if manner == "drips":
                connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
                while not self.over.wait(0.05):
                    connection.sendall(b"1\r\n \r\n")
            if manner == "in a moment":
                self.may_answer.wait(30)
            elif manner != "answers":
                self.over.wait(30)
                return
            message = {"role": "assistant", "content": self.rule(body)}
            usage = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            content = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
            text = json.dumps({**content, "choices": choices, "usage": usage}).encode()
            connection.sendall(HEAD + f"Content-Length: {len(text)}\r\n\r\n".encode() + text)
            self.answered += 1


def _body(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < int(lengths[0]):
        body += _received(connection)
    found: dict[str, Any] = json.loads(body)
    return found


def _received(connection: socket.socket) -> bytes:
    """What came, at least one byte; one that only looks whether somebody listens closes the connection."""
    if not (data := connection.recv(65536)):
        raise ConnectionAbortedError
    return data


@contextlib.contextmanager
def quiet(manner: str | Callable[[int], str]) -> Iterator[QuietServer]:
    """The server, running on a free port of this machine."""
    state = QuietServer(manner if callable(manner) else lambda number: manner)
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    state.address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=state.serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield state
    finally:
        state.over.set()
        state.may_answer.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
