"""HTTP as the fine-tuning service on the loopback speaks it, with faults to order."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import httpx

if TYPE_CHECKING:
    from tests.finetune.hosted.server import FineTuningService

KEY = "sk-planted-1234567890"


def chat_completion(number: int, model: str, text: str) -> dict[str, Any]:
    """An answer as OpenAI's API gives it."""
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 55},
    }


@dataclass(frozen=True)
class Call:
    """One request as faults see it: its number, method and path below the API's root."""

    number: int
    method: str
    path: str

    @property
    def starts_a_job(self) -> bool:
        return self.method == "POST" and self.path == "/fine_tuning/jobs"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request.

    Kinds: ``status`` (refused before anything is done), ``drop`` (carried out, no reply), ``lost`` (neither), ``late``
    (no reply, and carried out only after ``seconds``), ``half`` (carried out, half the reply), ``slow`` (carried out,
    reply after ``seconds``), ``garbage`` (carried out, a reply that is no JSON), ``hollow`` (carried out, JSON without
    content), ``failed`` (carried out, then HTTP 500).
    """

    kind: str
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=lambda: {"message": "out of order", "code": "server_error"})
    seconds: float = 0.0


class ApiError(Exception):
    headers: Mapping[str, str] = {}

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "code": code, "param": param}}


class RedirectError(ApiError):
    """A reply that sends the caller elsewhere."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status, "look there")
        self.headers = headers


class FaultyHandler(BaseHTTPRequestHandler):
    service: FineTuningService
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and content are two writes: the second would wait 40 ms

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def _serve(self) -> None:
        service = self.service
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        path = self._path(url.path)
        headers = httpx.Headers(list(self.headers.items()))  # found whatever the case: openai 3 sends lower
        with service.lock:
            call = Call(len(service.calls), self.command, path)
            service.calls.append(call)
            told = {name: value for name, value in headers.items() if name.lower() not in ("authorization", "api-key")}
            service.seen.append(f"{self.command} {self.path} {told} {body!r}")
        fault = service.faults(call)  # not under the lock: it may start another session

        def act() -> tuple[int, Any, Mapping[str, str]]:
            try:
                self._check_key(path, headers)
                return 200, service.handle(self.command, path, dict(parse_qsl(url.query)), headers, body), {}
            except ApiError as error:
                return error.status, error.body, error.headers

        if fault is None:
            return self._reply(*act())
        if fault.kind == "status":
            return self._reply(fault.status, {"error": dict(fault.error)}, fault.headers)
        if fault.kind == "late":
            timer = threading.Timer(fault.seconds, act)
            timer.daemon = True
            service.late.append(timer)
            timer.start()
        if fault.kind in ("lost", "late"):
            return self._hang_up()
        status, reply, more = act()
        if fault.kind == "drop":
            return self._hang_up()
        if fault.kind == "failed":
            return self._reply(500, {"error": dict(fault.error)})
        if fault.kind == "slow":
            time.sleep(fault.seconds)
            return self._reply(status, reply, more)
        content = _encoded(reply)
        if fault.kind == "garbage":
            return self._send(status, content[: len(content) // 2], {})
        if fault.kind == "hollow":
            return self._send(status, b"{}", {})
        assert fault.kind == "half", fault
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        return self._hang_up()

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _serve  # noqa: N815 - the base class's names

    def _path(self, path: str) -> str:
        """A request's path below the API's root."""
        return re.sub(r"^(/v1|/openai)", "", path)

    def _check_key(self, path: str, headers: Mapping[str, str]) -> None:
        if KEY not in (headers.get("Authorization", "").removeprefix("Bearer "), headers.get("api-key")):
            given = headers.get("Authorization") or headers.get("api-key")
            raise ApiError(401, f"Incorrect API key provided: {given}", "invalid_api_key")

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def _reply(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, _encoded(content), {**(headers or {}), "Content-Type": _content_type(content)})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        with contextlib.suppress(OSError):  # whoever asked may have gone
            self.send_response(status)
            if "Content-Type" not in headers:
                self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)


def _encoded(reply: Any) -> bytes:
    """A reply as it is sent: JSON, but for one that is bytes already."""
    return reply if isinstance(reply, bytes) else json.dumps(reply).encode()


def _content_type(reply: Any) -> str:
    return "application/x-protobuf" if isinstance(reply, bytes) else "application/json"
