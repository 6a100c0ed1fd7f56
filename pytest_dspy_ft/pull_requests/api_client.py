"""Requests to a code host's REST API: with a token, with patience, and failures in words."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import httpx

from pytest_dspy_ft.errors import CommentError
from pytest_dspy_ft.pull_requests.host import UnansweredError
from pytest_dspy_ft.redaction import redact, remember_secret
from pytest_dspy_ft.text import duration, short_line
from pytest_dspy_ft.version import __version__

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
PAUSE_OF_A_LIMIT = 60.0
"""GitHub asks for so long a pause where it refuses by its secondary limit and names no time."""
REQUEST_TIMEOUT = 30.0
PER_PAGE = 100

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class RefusedRequestError(CommentError):
    """The host understood a request and refused it.

    Attributes:
        status: The HTTP status.
        said: What the host said, on one line.
    """

    def __init__(self, what: str, status: int, said: str) -> None:
        super().__init__(f"{what}: HTTP {status}" + (f", {said}" if said else ""))
        self.status, self.said = status, said


class ApiClient:
    """Makes requests, again where that may help, for as long as patience lasts.

    Args:
        base: The API's address, such as ``https://api.github.com``.
        token: Sent in a header, and hidden wherever the host echoes it.
        headers: By which the token is sent, with ``TOKEN`` in its place, and others.
        patience: Seconds that all requests may wait, together.
    """

    def __init__(
        self,
        base: str,
        token: str,
        headers: Mapping[str, str],
        patience: float,
    ) -> None:
        remember_secret(token)
        self.base = base.rstrip("/")
        sent = {"User-Agent": f"pytest-dspy-ft/{__version__}"}
        sent |= {name: value.replace("TOKEN", token) for name, value in headers.items()}
        self._left = patience
        self._failed = 0
        # No redirects are followed: they turn what writes into what reads.
        self._client = httpx.Client(timeout=REQUEST_TIMEOUT, headers=sent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._client.close()

    def request(
        self,
        method: Method,
        path: str,
        *,
        content: Mapping[str, Any] | None = None,
        query: Mapping[str, str | int] | None = None,
        repeatable: bool = True,
    ) -> Any:
        """Make a request; gives the JSON of the answer, None where there is none.

        Args:
            method: The HTTP method.
            path: Below the API's address, or a whole address.
            content: Sent as JSON.
            query: The address's query.
            repeatable: False for what must not be done twice: where nobody knows whether it was done, that is said.

        Raises:
            UnansweredError: Of a request that is not repeatable; the pause after it is over.
            RefusedRequestError: If the host refused it.
            CommentError: If there was no answer for as long as patience lasted.
        """
        return self._answer(method, path, content=content, query=query, repeatable=repeatable)[0]

    def pages(self, path: str, query: Mapping[str, str | int] | None = None) -> Iterator[Any]:
        """All entries of a list that comes in pages.

        Raises:
            CommentError: As :meth:`request`.
        """
        page = 1
        while True:
            asked = {**(query or {}), "per_page": PER_PAGE, "page": page}
            entries, response = self._answer("GET", path, query=asked)
            if not isinstance(entries, list):
                raise CommentError(f"GET {path}: the answer is no list")
            yield from entries
            if "next" not in response.links:  # the address of the next page is never followed: the token goes nowhere
                return
            page += 1

    def _answer(
        self,
        method: Method,
        path: str,
        *,
        content: Mapping[str, Any] | None = None,
        query: Mapping[str, str | int] | None = None,
        repeatable: bool = True,
    ) -> tuple[Any, httpx.Response]:
        address = path if path.startswith("http") else f"{self.base}{path}"
        what = f"{method} {httpx.URL(address).copy_with(query=None)}"
        while True:
            asked: float | None = None
            try:
                response = self._client.request(method, address, json=content, params=query)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise CommentError(f"{what}: {error}") from None
            except httpx.TransportError as error:
                problem = f"{what}: {type(error).__name__}: {redact(short_line(str(error)))}"
                done = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            else:
                if response.is_success:
                    if (read := _json_of(response)) is not None or response.status_code == 204:
                        return read, response
                    problem, done = f"{what}: HTTP {response.status_code}, and no JSON", True
                else:
                    problem = str(refused := _refusal(what, response))
                    asked = _asked_pause(response)
                    done = response.status_code >= 500
                    if not done and asked is None:
                        raise refused
            self._wait(problem, asked)
            if done and not repeatable:
                raise UnansweredError(problem)

    def _wait(self, problem: str, asked: float | None) -> None:
        """Let time pass after a failure.

        Raises:
            CommentError: If that would be longer than patience lasts.
        """
        pause = asked
        if pause is None:
            pause = min(FIRST_PAUSE * 2.0**self._failed, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        self._failed += 1
        if pause > self._left:
            wait = f", which asks to wait {duration(pause)}" if asked is not None else ""
            raise CommentError(f"{problem}{wait}; given up after {self._failed} tries")
        self._left -= max(pause, 0.01)  # pauses of nothing come to an end, too
        time.sleep(pause)


def _json_of(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _refusal(what: str, response: httpx.Response) -> RefusedRequestError:
    """A refusal in the host's words: GitHub says ``message``, with ``errors``; GitLab ``message`` or ``error``."""
    said = _json_of(response)
    if isinstance(said, dict):
        parts = [said.get("message") or said.get("error") or "", *(said.get("errors") or [])]
        text = "; ".join(_said(part) for part in parts if part)
    else:
        text = "" if "<html" in response.text[:500].lower() else response.text
    return RefusedRequestError(what, response.status_code, redact(short_line(text, 300)))


def _said(part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("message"), str):
        return str(part["message"])
    return part if isinstance(part, str) else json.dumps(part)


def _asked_pause(response: httpx.Response) -> float | None:
    """Seconds to wait before a refused request is made again; None where that would not help.

    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    """
    limited = response.status_code in (403, 429) and (
        response.status_code == 429
        or "retry-after" in response.headers
        or response.headers.get("x-ratelimit-remaining") == "0"
        or "rate limit" in response.text[:2000].lower()
    )
    if not limited and response.status_code < 500:
        return None
    if (seconds := _number(response.headers.get("retry-after"))) is not None:
        return seconds
    if limited and response.headers.get("x-ratelimit-remaining") == "0":
        reset = _number(response.headers.get("x-ratelimit-reset"))
        return PAUSE_OF_A_LIMIT if reset is None else max(reset - time.time(), 1.0)
    return PAUSE_OF_A_LIMIT if limited else None


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
