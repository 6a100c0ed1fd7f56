"""One server that answers for models of this machine: its models, its adapters, and what goes wrong with it."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from dspy.lm15 import Request, Response

from pytest_dspy_ft.constants import CLOSING_MARKER
from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.insides.engines import engine_at
from pytest_dspy_ft.lms.adapter_probe import MAX_TOKENS, Probe, ProbeReply, clean
from pytest_dspy_ft.lms.server_address import ServerAddress
from pytest_dspy_ft.redaction import redact, remember_secret
from pytest_dspy_ft.text import shorten

KEY_VARIABLE = "DSPY_SERVE_API_KEY"
ADMIN_KEY_VARIABLE = "DSPY_SERVE_ADMIN_KEY"
LOAD_SECONDS = 300.0
ASK_SECONDS = 30.0
DOWN_SECONDS = 30.0
"""How long a server that stopped answering is left alone, where others answer."""
LOOKS = 6
"""How often a list is asked for: each time over a connection of its own, which may reach another process."""
MANY_LOOKS = 24
"""The same, where a server is known to have several."""
LOADS = 24
"""How often an adapter is loaded until all processes of a server have it."""
PAUSES = (0.0, 1.0, 3.0)
"""Seconds before each attempt to load, where a server says that it failed itself."""

SEVERAL_PROCESSES = (
    "it has several processes, and loads an adapter in one of them at a time: vLLM with --api-server-count above 1, "
    "SGLang with --dp-size above 1, or a balancer before several servers; start it with 1, and give several servers by "
    "an own --dspy-serve each"
)

_TAKEN = re.compile(r"already (been )?loaded|already exists|conflicts with", re.IGNORECASE)


_UNKNOWN = re.compile(r"not exist|not found|cannot be found|never been loaded|not loaded|unknown", re.IGNORECASE)


def is_unknown(status: int | None, said: str, name: str) -> bool:
    """True where a server says that it does not know an adapter, in vLLM's words or in SGLang's."""
    return status in (400, 404) and (name in said or "lora" in said.lower()) and bool(_UNKNOWN.search(said))


class SilentServerError(ServingError):
    """A server does not answer at all: it may be back later, and another one may answer."""


class LostAdapterError(ServingError):
    """A server, or one of its processes, does not know an adapter that it has loaded."""


class RefusedProbeError(ServingError):
    """A server refuses a probe prompt, such as one that is too long for it."""


@dataclass(frozen=True)
class LoadedAs:
    """An adapter as a server has it."""

    name: str
    number: int
    """Of the loading: another one after it was loaded again."""


class Replica:
    """A server, as vLLM and SGLang are asked. Safe to use from many threads.

    Args:
        address: Where it is.
        timeout: Seconds that one call may take.
        sleep: Waits between attempts to load.

    Attributes:
        down_until: The moment until which it is left alone, by ``time.monotonic``; 0 for one that answers.
        several: It was seen to have several processes that do not share adapters.
        probed: What its base model said to probes.
        adapters: What is loaded for this session, by its name here.
        loading: Held while an adapter is loaded.
        in_flight: Calls under way.
    """

    def __init__(self, address: ServerAddress, timeout: float, sleep: Callable[[float], None]) -> None:
        self.address = address
        self._key = os.environ.get(KEY_VARIABLE) or "none"
        self._admin_key = os.environ.get(ADMIN_KEY_VARIABLE) or self._key
        remember_secret(self._key)
        remember_secret(self._admin_key)
        self._sleep = sleep
        self._timeout = timeout
        self._base = address.model
        self._sglang: bool | None = None
        self._engine: Any = None
        self._lock = threading.Lock()
        self.loading = threading.RLock()
        self.in_flight = 0
        self.down_until = 0.0
        self.several = False
        self.probed: dict[Probe, ProbeReply] = {}
        self.adapters: dict[str, LoadedAs] = {}

    def __str__(self) -> str:
        return self.address.url

    # --- calls -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """A call that is under way there."""
        with self._lock:
            self.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1

    def complete(self, request: Request) -> Response:
        """Answer a request whose model is one that the server knows."""
        with self._lock:
            if self._engine is None:
                self._engine = engine_at(
                    "openai/any", self.address.url, self._key, self._timeout, login=self.address.login
                )
        response: Response = self._engine.complete(request)
        self.down_until = 0.0
        return response

    def is_gone(self) -> bool:
        """True where it does not even list its models: a single call may fail for other reasons."""
        try:
            return self._send("GET", f"{self.address.url}/models", seconds=5.0).status_code >= 500
        except ServingError:
            return True

    def leave_alone(self) -> None:
        """Send it nothing for a while."""
        self.down_until = time.monotonic() + DOWN_SECONDS

    def model(self, adapter: str) -> str:
        """What a request has to name for an adapter; for the base model where that is empty."""
        base = self.base_model()
        return base if not adapter else f"{base}:{adapter}" if self._sglang else adapter

    def probe(self, adapter: str, probe: Probe) -> ProbeReply:
        """Ask a model for a short reply, over a connection of its own.

        Raises:
            ServingError: If it does not answer.
        """
        body = {
            "model": self.model(adapter),
            "messages": [{"role": role, "content": text} for role, text in probe],
            "temperature": 0.0,
            "max_tokens": MAX_TOKENS,
            "stop": [CLOSING_MARKER],
        }
        path = f"{self.address.url}/chat/completions"
        answer = self._send("POST", path, {**body, "logprobs": True}, seconds=self._timeout)
        if answer.status_code in (400, 422, 501):  # it tells no probabilities
            answer = self._send("POST", path, body, seconds=self._timeout)
        if adapter and is_unknown(answer.status_code, answer.text, adapter):
            raise LostAdapterError(f"the server at {self} does not know its adapter: {_status(answer)}")
        if not answer.is_success:
            kind = RefusedProbeError if answer.status_code in (400, 413, 422) else ServingError
            raise kind(f"the server at {self} does not answer a probe prompt: {_status(answer)}")
        try:
            choice = answer.json()["choices"][0]
            tokens = (choice.get("logprobs") or {}).get("content") or ()
            text = clean(choice["message"]["content"] or "")
            return ProbeReply(text, tuple(float(token["logprob"]) for token in tokens))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise ServingError(
                f"the server at {self} answers a probe prompt with no chat completion: {_said(answer)}"
            ) from None

    def base_says(self, probe: Probe) -> ProbeReply:
        """What the base model says to a probe; it is asked once.

        Raises:
            ServingError: If it does not answer.
        """
        if probe not in self.probed:
            self.probed[probe] = self.probe("", probe)
        return self.probed[probe]

    # --- models ------------------------------------------------------------------------------------------------------

    def base_model(self) -> str:
        """The server's name for its base model.

        Raises:
            ServingError: If it cannot be told.
        """
        if self._base:
            return self._base
        with self.loading:
            if not self._base:
                names = [str(model["id"]) for model in self._models() if not model.get("parent")]
                if len(names) != 1:
                    listed = ", ".join(names) or "none"
                    raise ServingError(
                        f"the server at {self} has not one base model but: {listed}; name it: {self}#MODEL"
                    )
                self._base = names[0]
            return self._base

    def lists(self, adapter: str) -> bool:
        """True where the process that is asked knows an adapter."""
        return any(str(model.get("id")) in (adapter, f"{self._base}:{adapter}") for model in self._models())

    def _models(self) -> list[dict[str, Any]]:
        url = f"{self.address.url}/models"
        try:
            answer = self._send("GET", url, seconds=ASK_SECONDS)
            if not answer.is_success:
                raise ServingError(_status(answer))
            models = answer.json()["data"]
            if not all(isinstance(model, dict) and "id" in model for model in models):
                raise ValueError("what it lists are no models")
            return list(models)
        except (ServingError, ValueError, KeyError, TypeError) as problem:
            kind = SilentServerError if isinstance(problem, SilentServerError) else ServingError
            key = f"; its key is read from {KEY_VARIABLE}" if re.search("HTTP 40[13]", str(problem)) else ""
            raise kind(
                f"no OpenAI-compatible server answers at {url}: {shorten(str(problem), 300)}; start it, or mend the "
                f"address of --dspy-serve, which ends in /v1{key}"
            ) from None

    # --- adapters ----------------------------------------------------------------------------------------------------

    def load(self, folder: Path, name: str, *, again: bool = False) -> bool:
        """Load an adapter until every process of the server has it.

        Args:
            folder: As peft writes them; the server reads it under the same path.
            name: What it is called there.
            again: Some of the processes may have it.

        Returns:
            False where the server has another adapter of this name.

        Raises:
            ServingError: If the server does not load it, or only in some of its processes.
        """
        self.base_model()
        if not self._loaded(folder, name, again):
            return False
        for _ in range(LOADS):
            if self._listed_everywhere(name):
                return True
            self.several = True
            self._post(("load", folder, name))
        raise ServingError(
            f"the server at {self} was asked {LOADS} times to load the adapter {folder}, and still not all of it knows "
            f"the adapter: {SEVERAL_PROCESSES}"
        )

    def unload(self, name: str, seconds: float = ASK_SECONDS) -> bool:
        """Unload an adapter from every process; False where the server does not answer."""
        try:
            for _ in range(LOADS):
                answer = self._post(("unload", None, name), seconds)
                if answer.status_code >= 500 or answer.status_code in (401, 403):
                    return False
                if not any(self.lists(name) for _ in range(MANY_LOOKS if self.several else 1)):
                    return True
        except ServingError:
            return False
        return False

    def _listed_everywhere(self, name: str) -> bool:
        """True where each process that is asked knows an adapter, or the server is one that lists none."""
        looks = [self.lists(name)]
        while looks[-1] and len(looks) < (MANY_LOOKS if self.several else LOOKS):
            looks.append(self.lists(name))
        if looks[-1]:
            return True
        # Older SGLang lists no adapters.
        return self._sglang is True and len(looks) == 1 and not any(self.lists(name) for _ in range(LOOKS))

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def _loaded(self, folder: Path, name: str, again: bool) -> bool:
        """Load it once, again where the server failed itself; False where the name is taken."""
        answer = None
        for attempt, pause in enumerate(PAUSES):
            if pause:
                self._sleep(pause)
            answer = self._post(("load", folder, name))
            said = answer.text[:2000]
            if answer.is_success and not re.search(r'"success"\s*:\s*false', said, re.IGNORECASE):
                return True
            if answer.status_code < 500 and _TAKEN.search(said):
                return again or attempt > 0  # what failed before had loaded it after all
            if answer.status_code < 500 and answer.status_code not in (408, 425, 429):
                break
        assert answer is not None
        raise ServingError(self._refusal(answer, folder))

    def _post(self, order: tuple[str, Path | None, str], seconds: float = LOAD_SECONDS) -> httpx.Response:
        """Load or unload, in vLLM's way or in SGLang's: whichever of the two routes the server has."""
        verb, folder, name = order
        body = {"lora_name": name, **({"lora_path": str(folder.resolve())} if folder else {})}
        ways = (False, True) if self._sglang is None else (self._sglang,)
        for sglang in ways:
            url = f"{self.address.root if sglang else f'{self.address.root}/v1'}/{verb}_lora_adapter"
            answer = self._send("POST", url, body, seconds=seconds, admin=True)
            if answer.status_code not in (404, 405) or _speaks_of_adapter(answer):
                self._sglang = sglang
                return answer
        if verb == "unload":
            return answer
        raise ServingError(
            f"the server at {self} loads no LoRA (404 at {self.address.root}/v1/load_lora_adapter and "
            f"{self.address.root}/load_lora_adapter): start vLLM with --enable-lora and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, SGLang with --enable-lora, --max-lora-rank and "
            "--lora-target-modules"
        )

    def _refusal(self, answer: httpx.Response, folder: Path) -> str:
        what = f"the server at {self} did not load the adapter {folder}: {_status(answer)}"
        if answer.status_code in (401, 403):
            return (
                f"{what}\n  the key for loading is read from {ADMIN_KEY_VARIABLE} (SGLang's --admin-api-key), without "
                f"it that in {KEY_VARIABLE}"
            )
        if answer.status_code >= 500:
            return f"{what}\n  it was asked {len(PAUSES)} times; its log says more"
        return (
            f"{what}\n  it reads the adapter under that path: the store (--dspy-store) must lie where both see it; the "
            "rank of the LoRA must not be above its --max-lora-rank"
        )

    # --- requests ----------------------------------------------------------------------------------------------------

    def _send(
        self, method: str, url: str, body: Mapping[str, Any] | None = None, *, seconds: float, admin: bool = False
    ) -> httpx.Response:
        """One request, over a connection of its own.

        Raises:
            ServingError: If no answer comes, or one that sends it elsewhere: a key goes to nobody but the server.
        """
        key = self._admin_key if admin else self._key
        headers = {"Authorization": self.address.login or f"Bearer {key}"}
        limits = httpx.Timeout(seconds, connect=min(seconds, 10.0))
        try:
            answer = httpx.request(method, url, json=body, headers=headers, timeout=limits)
        except httpx.TimeoutException:
            raise SilentServerError(f"the server at {self} does not answer within {seconds:g} s ({url})") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as problem:
            raise SilentServerError(f"the server at {self} does not answer: {redact(str(problem))}") from None
        if answer.is_redirect:
            raise ServingError(
                f"the server at {self} redirects to {redact(answer.headers.get('location', 'nowhere'))}: "
                "--dspy-serve takes the address that answers"
            )
        return answer


def _status(answer: httpx.Response) -> str:
    return f"HTTP {answer.status_code}: {_said(answer)}"


def _said(answer: httpx.Response) -> str:
    return redact(" ".join(answer.text[:300].split())) or answer.reason_phrase


def _speaks_of_adapter(answer: httpx.Response) -> bool:
    """True for a 404 about the adapter's files, as vLLM answers, rather than about the route."""
    try:
        content = answer.json()
    except ValueError:
        return False
    return isinstance(content, dict) and "detail" not in content  # what FastAPI says of an unknown route
