"""A loopback server that answers as OpenAI-compatible ones do: chat completions, responses, and LoRA adapters.

It speaks HTTP, checks keys, keeps what it was sent, and fails as it is told to. What it answers is up to a rule.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.scripted import fields_of, reply

S = TypeVar("S", bound="ChatServer")
Body = dict[str, Any]
Answer = tuple[int, Mapping[str, str], Body | str]
"""Status, headers and body; a text is sent as it is."""


def parity(body: Body) -> str:
    """Answers whether the number that is asked about is even, in ChatAdapter's format."""
    number = int(fields_of(last_text(body))["text"])
    return reply(label="even" if number % 2 == 0 else "odd")


def last_text(body: Body) -> str:
    """The last message's text, of either API."""
    content = (body.get("messages") or body["input"])[-1]["content"]
    return content if isinstance(content, str) else str(content[0]["text"])


def failure(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    """An error as the API words it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, {"error": {"message": message, "type": "error", "param": None, "code": code}}


@dataclass
class ChatServer:
    """What the server does, and what was asked of it."""

    rule: Callable[[Body], str] = parity
    faults: Callable[[Body, int], Answer | None] = lambda body, number: None
    """What happens instead of an answer to a request, by its body and number; None: nothing."""
    keys: frozenset[str] = frozenset({"sk-right"})
    models: set[str] = field(default_factory=lambda: {"base"})
    dialect: str = "vllm"
    """How adapters are loaded: ``vllm``, ``sglang`` or ``none``."""
    requests: list[tuple[str, Body]] = field(default_factory=list)
    """Path and body of every request."""
    headers: list[httpx.Headers] = field(default_factory=list)
    adapters: dict[str, str] = field(default_factory=dict)
    address: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def calls(self, path: str = "/v1/chat/completions") -> list[Body]:
        """Bodies of the requests to a path."""
        return [body for where, body in self.requests if where == path]

    def answer(self, path: str, headers: Mapping[str, str], body: Body) -> Answer:
        with self._lock:
            number = len(self.requests)
            self.requests.append((path, body))
            self.headers.append(httpx.Headers(list(headers.items())))
        if self.keys and headers.get("Authorization", "").removeprefix("Bearer ") not in self.keys:
            given = headers.get("Authorization", "").removeprefix("Bearer ")
            return failure(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
        if (fault := self.faults(body, number)) is not None:
            return fault
        if path == "/v1/chat/completions":
            return self._known(body) or (200, {}, _completion(body, self.rule(body)))
        if path == "/v1/responses":
            return self._known(body) or (200, {}, _response(body, self.rule(body)))
        prefix = {"vllm": "/v1", "sglang": ""}.get(self.dialect)
        if path == f"{prefix}/load_lora_adapter":
            return self._load(body)
        if path == f"{prefix}/unload_lora_adapter":
            return self._unload(body)
        return 404, {}, {"detail": "Not Found"}

    def listed(self, headers: Mapping[str, str]) -> Answer:
        """The models, as ``GET /v1/models`` lists them."""
        if self.keys and headers.get("Authorization", "").removeprefix("Bearer ") not in self.keys:
            return failure(401, "Unauthorized")
        models = [{"id": name, "object": "model", "root": name, "parent": None} for name in sorted(self.models)]
        adapters = [{"id": name, "object": "model", "parent": "base"} for name in self.adapters]
        return 200, {}, {"object": "list", "data": [*models, *adapters]}

    def _known(self, body: Body) -> Answer | None:
        loaded = set(self.adapters) if self.dialect == "vllm" else {f"base:{name}" for name in self.adapters}
        if body["model"] in self.models | loaded:
            return None
        return failure(404, f"The model `{body['model']}` does not exist", "model_not_found")

    def _load(self, body: Body) -> Answer:
        name, path = body["lora_name"], Path(body["lora_path"])
        if not (path / "adapter_config.json").is_file():
            return self._refuse(f"No adapter found for {path}", 404)
        if name in self.adapters:
            return self._refuse(f"The lora adapter '{name}' has already been loaded.", 400)
        self.adapters[name] = str(path)
        if self.dialect == "vllm":
            return 200, {}, f"Success: LoRA adapter '{name}' added successfully."
        return 200, {}, {"success": True, "error_message": "", "loaded_adapters": self.adapters}

    def _unload(self, body: Body) -> Answer:
        if self.adapters.pop(body["lora_name"], None) is None:
            return self._refuse(f"The lora adapter '{body['lora_name']}' cannot be found.", 404)
        if self.dialect == "vllm":
            return 200, {}, f"Success: LoRA adapter '{body['lora_name']}' removed successfully."
        return 200, {}, {"success": True, "error_message": "", "loaded_adapters": self.adapters}

    def _refuse(self, message: str, status: int) -> Answer:
        if self.dialect == "vllm":
            return failure(status, message)
        return 400, {}, {"success": False, "error_message": message, "loaded_adapters": self.adapters}


def _completion(body: Body, text: str) -> Body:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34},
    }


def _response(body: Body, text: str) -> Body:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": content}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": body["model"],
        "output": [message],
        "usage": {"input_tokens": 30, "output_tokens": 4, "total_tokens": 34},
    }


@contextlib.contextmanager
def serving(kind: type[S] = ChatServer, **settings: Any) -> Iterator[S]:  # type: ignore[assignment]
    """The server, running on a free port of this machine."""
    state = kind(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            status, headers, answer = state.answer(self.path, self.headers, body)  # type: ignore[arg-type]
            payload = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            if status == 0:  # hang up without a word
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")  # nothing is left open where a client never closes
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def do_GET(self) -> None:
            status, headers, answer = state.listed(self.headers)  # type: ignore[arg-type]
            payload = json.dumps(answer).encode()
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # many threads ask at once

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
