"""Evaluating models of this machine on an OpenAI-compatible server: vLLM's or SGLang's, reached by its address.

The base model runs there already; a LoRA trained here is loaded from the store's folder, which both must see under one
path, when it is first evaluated, and unloaded at the end. Training and the collection of traces stay here.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from dspy.lm15 import Request, Response, RouterConfig

from pytest_dspy_ft.constants import CLOSING_MARKER
from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.insides.engines import LM15Engine, timeouts_for
from pytest_dspy_ft.lms.resolve import is_local
from pytest_dspy_ft.redaction import plain_address, redact, remember_password, remember_secret

KEY_VARIABLE = "DSPY_SERVE_API_KEY"
DEFAULT_MAX_TOKENS = 256
"""As the local engine has it, where an LM does not say."""
CONCURRENCY = 32
LOAD_SECONDS = 300.0


class Serving:
    """A server that answers for models of this machine. Use it as a context, or call :meth:`close` at the end.

    Args:
        address: Its address, such as ``http://gpu:8000/v1``; ``#MODEL`` at its end names the base model, where the
            server has several.

    Raises:
        ServingError: If that is no address.
    """

    def __init__(self, address: str) -> None:
        remember_password(address)
        address, _, self._named = address.partition("#")
        if not address.startswith(("http://", "https://")):
            raise ServingError(f"{address!r} is no address of a server; http://HOST:PORT/v1 is needed")
        self.address = address.rstrip("/")
        self._root = self.address.removesuffix("/v1")
        self._key = os.environ.get(KEY_VARIABLE) or "none"
        remember_secret(self._key)
        self._lock = threading.Lock()
        self._base: str | None = None
        self._sglang = False
        self._loaded: dict[Path, str] = {}

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def identity(self) -> dict[str, str]:
        """Part of the key of an evaluation made there: its numbers differ from those made here."""
        return {"address": str(plain_address(self._root)), "model": self._named}

    def served(self, lm: Any) -> Any:
        """The LM, answering from the server; one that does not run on this machine stays as it is.

        Raises:
            ServingError: If the server is not there, has not the base model, or does not load the adapter.
        """
        if not is_local(lm) or isinstance(lm.engine, ServedEngine):
            return lm
        adapter = lm.model.partition("+")[2]
        name = self.load(Path(lm.engine.adapter_path(adapter)), adapter) if adapter else self.base_model()
        return lm.copy(engine=ServedEngine(self.address, self._key, name, self.identity()))

    def base_model(self) -> str:
        """The server's name for its base model.

        Raises:
            ServingError: If it cannot be told.
        """
        with self._lock:
            if self._base is None:
                self._base = self._named or self._only_model()
            return self._base

    def load(self, folder: Path, adapter: str) -> str:
        """Load a LoRA folder, once, and give the model name that asks for it.

        Args:
            folder: As peft writes them; the server reads it under the same path.
            adapter: Its name here.

        Raises:
            ServingError: If the server does not load it.
        """
        base = self.base_model()
        with self._lock:
            if folder not in self._loaded:
                # A name of our own: other sessions may evaluate, and unload, the same adapter at the same time.
                name = f"dspy-ft-{adapter[:24]}-{uuid.uuid4().hex[:8]}"
                self._load(folder, name)
                self._loaded[folder] = name
            name = self._loaded[folder]
        return f"{base}:{name}" if self._sglang else name

    def close(self) -> None:
        """Unload what was loaded; a server that is gone has unloaded it by itself."""
        with self._lock:
            prefix = self._root if self._sglang else f"{self._root}/v1"
            for name in self._loaded.values():
                with contextlib.suppress(httpx.HTTPError):
                    self._post(f"{prefix}/unload_lora_adapter", {"lora_name": name})
            self._loaded.clear()

    def _only_model(self) -> str:
        url = f"{self.address}/models"
        try:
            answer = httpx.get(url, headers=self._headers(), timeout=30.0)
            answer.raise_for_status()
            models = [model for model in answer.json()["data"] if not model.get("parent")]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ServingError(
                f"no OpenAI-compatible server answers at {url}: {redact(str(problem))}; its address ends in /v1"
                + (f"; its key is read from {KEY_VARIABLE}" if "401" in str(problem) else "")
            ) from None
        names = [str(model["id"]) for model in models]
        if len(names) != 1:
            listed = ", ".join(names) or "none"
            raise ServingError(
                f"the server at {self.address} has not one base model but: {listed}; name it: {self.address}#MODEL"
            )
        return names[0]

    def _load(self, folder: Path, name: str) -> None:
        body = {"lora_name": name, "lora_path": str(folder.resolve())}
        refusals = []
        for sglang, url in ((False, f"{self._root}/v1/load_lora_adapter"), (True, f"{self._root}/load_lora_adapter")):
            try:
                answer = self._post(url, body)
            except httpx.HTTPError as problem:
                raise ServingError(f"the server at {self.address} does not answer: {redact(str(problem))}") from None
            said = redact(answer.text[:300])
            if answer.is_success and '"success":false' not in answer.text.replace(" ", "").lower():
                self._sglang = sglang
                return
            if answer.status_code != 404 or _speaks_of_adapter(answer):
                raise ServingError(
                    f"the server at {self.address} did not load the adapter {folder}: HTTP {answer.status_code}: "
                    f"{said}\n  it reads the adapter under that path: the store (--dspy-store) must lie where both "
                    "see it; the rank of the LoRA must not be above its --max-lora-rank"
                )
            refusals.append(url)
        raise ServingError(
            f"the server at {self.address} loads no LoRA (404 at {' and '.join(refusals)}): start vLLM with "
            "--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, SGLang with --enable-lora, "
            "--max-lora-rank and --lora-target-modules"
        )

    def _post(self, url: str, body: Mapping[str, Any]) -> httpx.Response:
        return httpx.post(url, json=body, headers=self._headers(), timeout=LOAD_SECONDS)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"}


class ServedEngine:
    """An engine for ``dspy.LM`` that asks a server for what a model of this machine would answer.

    Args:
        address: The server's.
        key: Its key.
        name: What it calls the model.
        where: Its identity.
    """

    preferred_concurrency = CONCURRENCY

    def __init__(self, address: str, key: str, name: str, where: Mapping[str, str]) -> None:
        self._where = dict(where)
        self._name = f"openai/{name}"
        provider = LM15Engine(RouterConfig(env={})).resolve(self._name).provider
        timeouts = timeouts_for(LOAD_SECONDS)
        config = RouterConfig(api_keys={provider: key}, base_urls={provider: address}, timeouts=timeouts)
        self._engine = LM15Engine(config)

    def complete(self, request: Request) -> Response:
        """Answer one request, with the local engine's ways to end a reply."""
        config = request.config
        config = replace(
            config,
            max_tokens=config.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=0.0 if config.temperature is None else config.temperature,  # greedy, as here
            stop=(*config.stop, CLOSING_MARKER),  # a small model runs on past it
        )
        response: Response = self._engine.complete(replace(request, model=self._name, config=config))
        return replace(response, model=request.model)

    def identity(self) -> dict[str, str]:
        """Which server answers."""
        return self._where

    def close(self) -> None:
        """Close the connections."""
        self._engine.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> ServedEngine:
        return self


def _speaks_of_adapter(answer: httpx.Response) -> bool:
    """True for a 404 about the adapter's files, as vLLM answers, rather than about the route."""
    try:
        return "detail" not in answer.json()  # what FastAPI says of an unknown route
    except (ValueError, TypeError):
        return False
