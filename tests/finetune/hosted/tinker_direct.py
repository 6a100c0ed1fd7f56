"""The calls of Tinker's client without the client: straight to the service on the loopback, with faults and kills.

The real one repeats a request for minutes of real time before it gives up; what is left of that is a call that fails,
carried out or not. So hundreds of courses of events take seconds, also where the client is not installed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from tests.finetune.hosted.http_faults import ApiError
from tests.finetune.hosted.tinker_server import TinkerService
from tests.finetune.hosted.world import Killed


class ByteTokenizer:
    """Tokens are bytes."""

    def apply_chat_template(self, messages: Any, add_generation_prompt: bool = False, **_: Any) -> list[int]:
        text = "".join(f"<{m['role']}>{m['content']}</s>" for m in messages)
        return list((text + "<assistant>" * add_generation_prompt).encode())


class DirectSession:
    """Stands in for ``TinkerSession``.

    Args:
        service: The service.
        fault: ``call's name -> None, "lost" or "drop"``: it fails, without being carried out or after that.
        kill: After so many calls the session is killed; None: never.
        after: Killed after the call, instead of before it.
    """

    _numbers = itertools.count(1)

    def __init__(
        self, service: TinkerService, fault: Callable[[str], str | None], kill: int | None = None, after: bool = False
    ) -> None:
        self.service, self._fault, self._kill, self._after = service, fault, kill, after
        self._session = ""
        self._models = itertools.count()

    def _call(self, name: str, act: Callable[[], Any]) -> Any:
        now = self._kill == 0
        self._kill = None if self._kill is None else self._kill - 1
        if now and not self._after:
            raise Killed
        fault = self._fault(name)
        if fault == "lost":
            raise TimeoutError
        try:
            result = act()
        except ApiError as error:
            raise LookupError(str(error)) from None
        if now:
            raise Killed
        if fault == "drop":
            raise TimeoutError
        return result

    def _ask(self, path: str, **body: Any) -> Any:
        content = json.dumps(body).encode()
        reply = self.service.handle("POST", f"/api/v1/{path}", {}, {}, content)
        return self.service.results[reply["request_id"]] if "request_id" in reply else reply

    def context_of(self, model: str) -> int | None:
        return 8192

    def runs(self) -> list[Any]:
        told = self._call("runs", lambda: self.service.handle("GET", "/api/v1/training_runs", {"limit": "100"}, {}, b""))
        return [_object({**run, "user_metadata": None}, run["user_metadata"]) for run in told["training_runs"]]

    def states(self, run: str) -> list[str]:
        path = f"/api/v1/training_runs/{run}/checkpoints"
        told = self._call("states", lambda: self.service.handle("GET", path, {}, {}, b""))["checkpoints"]
        return [c["tinker_path"] for c in told if c["checkpoint_type"] == "training"]

    def create(self, model: str, marks: Mapping[str, str], **lora: Any) -> Any:
        return self._begin("create_model", base_model=model, user_metadata=dict(marks), lora_config=dict(lora))

    def resume(self, state: str, marks: Mapping[str, str]) -> Any:
        return self._begin("load_weights", path=state, user_metadata=dict(marks))

    def _begin(self, path: str, **order: Any) -> Any:
        if not self._session:
            self._session = self._ask("create_session")["session_id"]
        seq = next(self._models)
        self._call(path, lambda: self._ask(path, session_id=self._session, model_seq_id=seq, **order))
        id_ = f"{self._session}:train:{seq}"
        return SimpleNamespace(id=id_, seq=itertools.count(1), get_tokenizer=ByteTokenizer)

    def step(self, training: Any, batch: Sequence[Any], **adam: float) -> float:
        run, data = self.service.run(training.id), [{"tokens": tokens[:-1]} for tokens, _ in batch]
        self._call("pass", lambda: self.service.pass_over(run, data))
        self._call("optim_step", lambda: self.service.trainer.optim_step(run.state, adam))
        return 1.0

    def save(self, training: Any, name: str, marks: Mapping[str, str], seconds: int) -> str:
        return self._saved("save_weights", training, path=name, user_metadata=dict(marks), overwrite=True)

    def save_result(self, training: Any, name: str, marks: Mapping[str, str]) -> str:
        return self._saved("save_weights_for_sampler", training, path=name, user_metadata=dict(marks))

    def _saved(self, path: str, training: Any, **order: Any) -> str:
        seq = next(training.seq)
        told = self._call(path, lambda: self._ask(path, model_id=training.id, seq_id=seq, **order))
        return str(told["path"])

    def delete(self, path: str) -> None:
        run, _, name = path.removeprefix("tinker://").partition("/")
        target = f"/api/v1/training_runs/{run}/checkpoints/{name}"
        self._call("delete", lambda: self.service.handle("DELETE", target, {}, {}, b""))

    def drop(self) -> None:
        self._session = ""
        self._models = itertools.count()

    def close(self) -> None:
        self.drop()


def _object(value: Any, marks: Any = None) -> Any:
    """JSON as an object with attributes, but for marks, which stay a mapping."""
    if not isinstance(value, dict):
        return value
    inner = {k: v if k == "user_metadata" else _object(v) for k, v in value.items()}
    return SimpleNamespace(**{**inner, **({} if marks is None else {"user_metadata": marks})})
