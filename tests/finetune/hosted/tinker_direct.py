"""The calls of Tinker's client without the client: straight to the service of the tests, through a network with faults.

The real one repeats a request for minutes of real time before it gives up; what is left of that is a call that fails,
carried out or not. So hundreds of courses of events take seconds, also where the client is not installed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from tests.finetune.hosted.schedules import Ask, LostError, Network

API = "/api/v1"


class ByteTokenizer:
    """Tokens are bytes."""

    def apply_chat_template(self, messages: Any, add_generation_prompt: bool = False, **_: Any) -> list[int]:
        text = "".join(f"<{m['role']}>{m['content']}</s>" for m in messages)
        return list((text + "<assistant>" * add_generation_prompt).encode())


class DirectSession:
    """Stands in for ``TinkerSession``."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._session = ""
        self._models = itertools.count()

    def _ask(self, method: str, where: str, query: Mapping[str, str] | None = None, **body: Any) -> Any:
        """The reply to one request.

        Raises:
            TimeoutError: None came, or it told of a fault that may pass.
            ValueError: It cannot be read.
            PermissionError: It is a refusal.
        """
        try:
            ask = Ask(method, API + where, dict(query or {}), {}, json.dumps(body).encode())
            status, content, _ = self._network.ask(ask)
        except LostError:
            raise TimeoutError from None
        if status in (408, 429) or status >= 500:
            raise TimeoutError
        reply = json.loads(content)
        if status >= 400:
            raise PermissionError(str(reply))
        return reply

    def context_of(self, model: str) -> int | None:
        return 8192

    def runs(self) -> list[Any]:
        told = self._ask("GET", "/training_runs", {"limit": "100"})
        return [_object({**run, "user_metadata": None}, run["user_metadata"]) for run in told["training_runs"]]

    def states(self, run: str) -> list[str]:
        told = self._ask("GET", f"/training_runs/{run}/checkpoints")["checkpoints"]
        return [c["tinker_path"] for c in told if c["checkpoint_type"] == "training"]

    def create(self, model: str, marks: Mapping[str, str], **lora: Any) -> Any:
        return self._begin("/create_model", base_model=model, user_metadata=dict(marks), lora_config=dict(lora))

    def resume(self, state: str, marks: Mapping[str, str]) -> Any:
        return self._begin("/load_weights", path=state, user_metadata=dict(marks))

    def _begin(self, where: str, **order: Any) -> Any:
        if not self._session:
            self._session = self._ask("POST", "/create_session")["session_id"]
        seq = next(self._models)
        id_ = self._ask("POST", where, session_id=self._session, model_seq_id=seq, **order)["model_id"]
        return SimpleNamespace(id=id_, seq=itertools.count(1), get_tokenizer=ByteTokenizer)

    def step(self, training: Any, batch: Sequence[Any], **adam: float) -> float:
        data = [{"tokens": tokens[:-1]} for tokens, _ in batch]
        self._asked(training, "/pass", batch=data)
        self._asked(training, "/optim_step", optim_params=adam)
        return 1.0

    def save(self, training: Any, name: str, marks: Mapping[str, str], seconds: int) -> str:
        return self._saved(training, "/save_weights", path=name, user_metadata=dict(marks), overwrite=True)

    def save_result(self, training: Any, name: str, marks: Mapping[str, str]) -> str:
        return self._saved(training, "/save_weights_for_sampler", path=name, user_metadata=dict(marks))

    def _saved(self, training: Any, where: str, **order: Any) -> str:
        request = self._asked(training, where, **order)["request_id"]
        return str(self._ask("POST", "/retrieve_future", request_id=request)["path"])

    def _asked(self, training: Any, where: str, **order: Any) -> Any:
        reply = self._ask("POST", where, model_id=training.id, seq_id=next(training.seq), **order)
        return {"request_id": reply["request_id"]}

    def delete(self, path: str) -> None:
        run, _, name = path.removeprefix("tinker://").partition("/")
        self._ask("DELETE", f"/training_runs/{run}/checkpoints/{name}")

    def drop(self) -> None:
        self._session = ""

    def close(self) -> None:
        self.drop()


def _object(value: Any, marks: Any = None) -> Any:
    """JSON as an object with attributes, but for marks, which stay a mapping."""
    if not isinstance(value, dict):
        return value
    inner = {k: v if k == "user_metadata" else _object(v) for k, v in value.items()}
    return SimpleNamespace(**{**inner, **({} if marks is None else {"user_metadata": marks})})
