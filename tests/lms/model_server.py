"""A loopback server of a model and its adapters, as vLLM and SGLang are: processes, restarts, admin keys, faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from dspy import lm15

from tests.lms.chat import Answer, Body, ChatServer, _completion, failure


@dataclass
class ModelServer(ChatServer):
    """Each request reaches one of its processes, by chance; what one of them has loaded, the others do not know."""

    processes: int = 1
    admin_keys: frozenset[str] = frozenset()
    """Who may load and unload; empty: whoever may ask."""
    silent: bool = False
    """Whatever model is asked for, the base model answers."""
    dead: bool = False
    """It hangs up without a word."""
    slow: float = 0.0
    """Seconds that unloading takes."""
    logprobs: Callable[[str], list[float]] | None = None
    """Log probabilities that a model gives, by the name that is asked for; None: it tells none."""
    redirect: str = ""
    sticky: bool = False
    """All that loads reaches the first process."""
    loaded: list[dict[str, str]] = field(default_factory=list)
    """By process: the folder of each adapter."""
    spoken_to: list[tuple[str, str]] = field(default_factory=list)
    """Path and ``Authorization`` of every request."""
    _random: Random = field(default_factory=lambda: Random(0))
    _state: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.loaded = [{} for _ in range(self.processes)]

    def restart(self) -> None:
        """Forget all adapters."""
        for process in self.loaded:
            process.clear()

    @property
    def completions(self) -> list[Body]:
        """What it was asked, without probes for probabilities."""
        return [body for body in self.calls() if not body.get("logprobs")]

    def listed(self, headers: Mapping[str, str]) -> Answer:
        if self.dead:
            return 0, {}, {}
        if self.redirect:
            return 307, {"Location": self.redirect}, {}
        if (refused := self._refused(headers, self.keys)) is not None:
            return refused
        models = [{"id": name, "root": name, "parent": None} for name in sorted(self.models)]
        return 200, {}, {"data": [*models, *({"id": name, "parent": "base"} for name in self._process())]}

    def answer(self, path: str, headers: Mapping[str, str], body: Body) -> Answer:
        with self._state:
            number = len(self.requests)
            self.requests.append((path, body))
            self.spoken_to.append((path, _authorization(headers)))
            process = self.loaded[0] if self.sticky and "lora_path" in body else self._process()
        loads = path.endswith("load_lora_adapter")
        if self.dead:
            return 0, {}, {}
        if (refused := self._refused(headers, (loads and self.admin_keys) or self.keys)) is not None:
            return refused
        if (fault := self.faults(body, number)) is not None:
            return fault
        if path == "/v1/chat/completions":
            return self._completed(process, body)
        if not loads or path != f"{'/v1' if self.dialect == 'vllm' else ''}/{path.rsplit('/', 1)[1]}":
            return 404, {}, {"detail": "Not Found"}
        with self._state:
            self.adapters = process
            if "lora_path" in body:
                return self._load(body)
            time.sleep(self.slow)
            return self._unload(body)

    def _completed(self, process: Mapping[str, str], body: Body) -> Answer:
        name = body["model"].removeprefix("base:")
        if name not in self.models and name not in process and not self.silent:
            return failure(404, f"The model `{name}` does not exist.")
        if name not in process or self.silent:
            body = {**body, "model": "base"}
        answer = _completion(body, self.rule({**body, "folder": process.get(body["model"].removeprefix("base:"))}))
        if body.get("logprobs") and self.logprobs is not None:
            numbers = self.logprobs(body["model"])
            answer["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": number} for number in numbers]}
        return 200, {}, answer

    def _process(self) -> dict[str, str]:
        with self._state:
            return self._random.choice(self.loaded)

    @staticmethod
    def _refused(headers: Mapping[str, str], keys: frozenset[str]) -> Answer | None:
        given = _authorization(headers)
        if not keys or given.removeprefix("Bearer ") in keys:
            return None
        return failure(401, f"Unauthorized: {given}")


def _authorization(headers: Mapping[str, str]) -> str:
    return next((value for name, value in headers.items() if name.lower() == "authorization"), "")


def answered_by(engine: Any, base: str) -> Callable[[Body], str]:
    """A rule: an engine of this process answers as a server of its model would."""

    def rule(body: Body) -> str:
        model = base
        if body["folder"]:
            name = Path(body["folder"]).name.replace("+", "-")
            engine.add_adapter(name, Path(body["folder"]))
            model = f"{base}+{name}"
        (system, *said) = [(message["role"], message["content"]) for message in body["messages"]]
        messages = tuple((lm15.Message.user if role == "user" else lm15.Message.assistant)(text) for role, text in said)
        config = lm15.Config(max_tokens=body.get("max_tokens") or body["max_completion_tokens"], temperature=0.0)
        request = lm15.Request(model=model, messages=messages, system=system[1], config=config)
        return str(engine.complete(request).text)

    return rule
