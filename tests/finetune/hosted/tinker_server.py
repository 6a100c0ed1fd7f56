"""Tinker's API on the loopback, as its client 0.38 speaks it: sessions, training runs, futures, checkpoints.

What a run learns is up to its ``trainer``; the one here writes down which batches its weights have seen, in order, so
that a test can say that none was lost and none was applied twice. ``paid`` counts the passes that were asked for.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.finetune.hosted.http_faults import KEY, ApiError, FaultyHandler
from tests.finetune.hosted.loopback import LoopbackService, Routes

Batch = list[dict[str, Any]]
"""Of data: their ``tokens``, and ``target_tokens`` and ``weights`` as arrays."""


class Trainer(Protocol):
    """The weights of training runs; a state is whatever it gives."""

    def create(self, rank: int, seed: int | None) -> Any: ...
    def forward_backward(self, state: Any, batch: Batch) -> float: ...
    def optim_step(self, state: Any, params: Mapping[str, Any]) -> None: ...
    def saved(self, state: Any) -> Any: ...


class Ledger:
    """Weights that are the list of batches which they were trained on."""

    def create(self, rank: int, seed: int | None) -> dict[str, list[Any]]:
        return {"seen": [], "gradient": []}

    def forward_backward(self, state: dict[str, list[Any]], batch: Batch) -> float:
        state["gradient"].append(tuple(tuple(datum["tokens"]) for datum in batch))
        return 1.0

    def optim_step(self, state: dict[str, list[Any]], params: Mapping[str, Any]) -> None:
        state["seen"] += [*state["gradient"]]
        state["gradient"] = []

    def saved(self, state: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return copy.deepcopy(state)


@dataclass
class Run:
    """A training run of one session."""

    id: str
    base_model: str
    rank: int
    user_metadata: dict[str, str]
    state: Any
    created: str
    checkpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    answered: dict[int, str] = field(default_factory=dict)
    """Requests that were carried out, by their number: the client repeats one whose reply it did not get."""


class TinkerHandler(FaultyHandler):
    def _path(self, path: str) -> str:
        return path

    def _check_key(self, path: str, headers: Mapping[str, str]) -> None:
        found = {name.lower(): value for name, value in headers.items()}
        given = found.get("x-api-key") or found.get("authorization", "").removeprefix("Bearer ")
        if given != f"tml-{KEY}":
            raise ApiError(401, f"Invalid API key {given}", "invalid_api_key")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


class TinkerService(LoopbackService):
    """The service.

    Args:
        trainer: What the runs learn.
        tokenizer: A folder with a tokenizer: the client loads it.
        slow: How many times a result is said not to be there yet.
        listed_after: How many looks at the list of runs pass before a fresh one is in it.
    """

    handler = TinkerHandler

    def __init__(
        self,
        *,
        trainer: Trainer | None = None,
        tokenizer: str = "",
        slow: int = 0,
        listed_after: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.trainer: Trainer = trainer or Ledger()
        self.tokenizer, self.slow, self.listed_after = tokenizer, slow, listed_after
        self.runs: dict[str, Run] = {}
        self.states: dict[str, Any] = {}
        """The weights that were saved, by their path."""
        self.results: dict[str, Any] = {}
        self.sessions: dict[str, str] = {}
        """``open`` or how it ended."""
        self.paid = 0
        """Forward and backward passes that were carried out: what the service charges for."""
        self._waits: dict[str, int] = {}
        self._looks: dict[str, int] = {}
        self._ids = itertools.count(1)

    @property
    def address(self) -> str:
        """Where models are asked; trainings are driven at :attr:`root`."""
        return f"{self.root}/oai/api/v1"

    def routes(self) -> Routes:
        api, runs = "/api/v1", "/api/v1/training_runs"
        return [
            ("POST", f"{api}/client/config", lambda **_: {"use_pyqwest_transport": False}),
            ("POST", f"{api}/client/dynamic_config", lambda **_: {}),
            ("POST", f"{api}/create_session", self._create_session),
            ("POST", f"{api}/session_heartbeat", lambda **_: {"type": "session_heartbeat"}),
            ("POST", f"{api}/sessions/([^/]+)/finish", self._finish_session),
            ("POST", f"{api}/telemetry", lambda **_: {"status": "accepted"}),
            ("GET", f"{api}/get_server_capabilities", self._capabilities),
            ("POST", f"{api}/create_model", self._create_model),
            ("POST", f"{api}/get_info", self._info),
            ("POST", f"{api}/forward_backward", self._forward_backward),
            ("POST", f"{api}/pass", self._plain_pass),
            ("POST", f"{api}/optim_step", self._optim_step),
            ("POST", f"{api}/save_weights", self._save),
            ("POST", f"{api}/save_weights_for_sampler", self._save_for_sampler),
            ("POST", f"{api}/load_weights", self._load),
            ("POST", f"{api}/retrieve_future", self._retrieve),
            ("GET", runs, self._list),
            ("GET", f"{runs}/([^/]+)", lambda id_, **_: self._shown(self.run(id_))),
            ("GET", f"{runs}/([^/]+)/checkpoints", self._checkpoints),
            ("DELETE", f"{runs}/([^/]+)/checkpoints/(.+)", self._delete_checkpoint),
            ("POST", "/oai/api/v1/chat/completions", self.chat),
        ]

    def sampled(self) -> list[str]:
        """The results that can be asked."""
        return [path for path in self.states if "/sampler_weights/" in path]

    def kept_states(self) -> list[str]:
        """Training states that take up storage."""
        return [path for path in self.states if "/weights/" in path]

    def check_callable(self, model: str) -> None:
        if model.startswith("tinker://") and model not in self.states:
            raise ApiError(404, f"no checkpoint {model}", "not_found")

    # --- sessions ----------------------------------------------------------------------------------------------------

    def _create_session(self, **_: Any) -> dict[str, Any]:
        session = f"session-{next(self._ids)}"
        self.sessions[session] = "open"
        return {"type": "create_session", "session_id": session}

    def _finish_session(self, id_: str, *, body: bytes, **_: Any) -> dict[str, Any]:
        self.sessions[id_] = str(json.loads(body)["reason"]["type"])
        return {}

    def _capabilities(self, **_: Any) -> dict[str, Any]:
        return {"supported_models": [{"model_name": "small", "max_context_length": 8192, "trainable": True}]}

    # --- runs --------------------------------------------------------------------------------------------------------

    def run(self, id_: str) -> Run:
        if id_ not in self.runs:
            raise ApiError(404, f"no training run {id_}", "not_found")
        return self.runs[id_]

    def _new_run(self, order: dict[str, Any], rank: int, state: Any) -> Run:
        id_ = f"{order['session_id']}:train:{order['model_seq_id']}"
        base, marks = order.get("base_model") or "small", order.get("user_metadata") or {}
        self.runs[id_] = run = Run(id_, base, rank, marks, state, now())
        return run

    def _create_model(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        order = json.loads(body)
        lora = order.get("lora_config") or {}
        id_ = f"{order['session_id']}:train:{order['model_seq_id']}"
        if id_ not in self.runs:
            state = self.trainer.create(lora.get("rank", 32), lora.get("seed"))
            self._new_run(order, lora.get("rank", 32), state)
        return self._future(self.runs[id_], 0, {"type": "create_model", "model_id": id_})

    def _info(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        run = self.run(json.loads(body)["model_id"])
        return {
            "type": "get_info",
            "model_data": {"arch": "llama", "model_name": run.base_model, "tokenizer_id": self.tokenizer},
            "model_id": run.id,
            "is_lora": True,
            "lora_rank": run.rank,
            "model_name": run.base_model,
        }

    def _future(self, run: Run, seq: int, result: Any) -> dict[str, Any]:
        request = f"request-{next(self._ids)}"
        run.answered[seq] = request
        self.results[request] = result
        return {"request_id": request, "model_id": run.id}

    def _again(self, run: Run, seq: int) -> dict[str, Any] | None:
        done = run.answered.get(seq)
        return None if done is None else {"request_id": done, "model_id": run.id}

    def _retrieve(self, *, body: bytes, **_: Any) -> Any:
        request = json.loads(body)["request_id"]
        if request not in self.results:
            raise ApiError(410, f"no request {request}", "gone")
        waited = self._waits.get(request, 0)
        if waited < self.slow:
            self._waits[request] = waited + 1
            return {"type": "try_again", "request_id": request, "queue_state": "active"}
        return self.results[request]

    def _forward_backward(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        import numpy as np
        from tinker.proto import tinker_public_pb2 as wire

        order = wire.ForwardBackwardRequest()
        order.ParseFromString(body)
        run = self.run(order.model_id)
        if done := self._again(run, order.seq_id):
            return done
        kinds = {wire.DTYPE_FLOAT32: np.float32, wire.DTYPE_INT64: np.int64}
        batch: Batch = []
        for datum in order.data:
            tokens = [int(t) for c in datum.model_input for t in np.frombuffer(c.encoded_text.tokens, dtype=np.int32)]
            tensors = {n: np.frombuffer(t.dense, dtype=kinds[t.dtype]) for n, t in datum.loss_fn_inputs.items()}
            batch.append({"tokens": tokens, **tensors})
        loss = self.pass_over(run, batch)
        result = wire.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord", metrics={"loss:sum": loss})
        return self._future(run, order.seq_id, result.SerializeToString())

    def _plain_pass(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        """A pass in JSON, for those who do not speak the client's protocol."""
        order = json.loads(body)
        run = self.run(order["model_id"])
        if done := self._again(run, order["seq_id"]):
            return done
        return self._future(run, order["seq_id"], {"loss": self.pass_over(run, order["batch"])})

    def pass_over(self, run: Run, batch: Batch) -> float:
        """A forward and backward pass: it is paid for."""
        self.paid += 1
        return self.trainer.forward_backward(run.state, batch)

    def _optim_step(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        order = json.loads(body)
        run = self.run(order["model_id"])
        if done := self._again(run, order["seq_id"]):
            return done
        self.trainer.optim_step(run.state, order.get("optim_params") or order.get("adam_params") or {})
        return self._future(run, order["seq_id"], {"metrics": {}})

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoint(self, order: dict[str, Any], kind: str, folder: str, answer: str) -> dict[str, Any]:
        run = self.run(order["model_id"])
        if done := self._again(run, order["seq_id"]):
            return done
        name = f"{folder}/{order['path']}"
        path = f"tinker://{run.id}/{name}"
        if path in self.states and not order.get("overwrite"):
            raise ApiError(409, f"checkpoint {path} exists", "already_exists")
        self.states[path] = self.trainer.saved(run.state)
        run.checkpoints[name] = {
            "checkpoint_id": name,
            "checkpoint_type": kind,
            "time": now(),
            "tinker_path": path,
            "user_metadata": order.get("user_metadata"),
        }
        return self._future(run, order["seq_id"], {"path": path, "type": answer})

    def _save(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        return self._checkpoint(json.loads(body), "training", "weights", "save_weights")

    def _save_for_sampler(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        return self._checkpoint(json.loads(body), "sampler", "sampler_weights", "save_weights_for_sampler")

    def _load(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        order = json.loads(body)
        if order["path"] not in self.states:
            raise ApiError(404, f"no checkpoint {order['path']}", "not_found")
        id_ = f"{order['session_id']}:train:{order['model_seq_id']}"
        if id_ not in self.runs:
            source = self.run(order["path"].removeprefix("tinker://").partition("/")[0])
            order["base_model"] = source.base_model
            self._new_run(order, source.rank, self.trainer.saved(self.states[order["path"]]))
        return self._future(self.runs[id_], 0, {"type": "load_weights", "path": order["path"]})

    def _checkpoints(self, id_: str, **_: Any) -> dict[str, Any]:
        return {"checkpoints": list(self.run(id_).checkpoints.values())}

    def _delete_checkpoint(self, id_: str, name: str, **_: Any) -> dict[str, Any]:
        if self.run(id_).checkpoints.pop(name, None) is None:
            raise ApiError(404, f"no checkpoint {name}", "not_found")
        del self.states[f"tinker://{id_}/{name}"]
        return {}

    def _shown(self, run: Run) -> dict[str, Any]:
        last: dict[str, dict[str, Any]] = {c["checkpoint_type"]: c for c in run.checkpoints.values()}
        return {
            "training_run_id": run.id,
            "base_model": run.base_model,
            "model_owner": "me",
            "is_lora": True,
            "lora_rank": run.rank,
            "last_request_time": run.created,
            "last_checkpoint": last.get("training"),
            "last_sampler_checkpoint": last.get("sampler"),
            "user_metadata": run.user_metadata,
        }

    def _list(self, *, query: dict[str, str], **_: Any) -> dict[str, Any]:
        limit, offset = int(query.get("limit", "20")), int(query.get("offset", "0"))
        listed = []
        for id_, run in reversed(self.runs.items()):
            self._looks[id_] = self._looks.get(id_, 0) + 1
            if self._looks[id_] > self.listed_after:
                listed.append(self._shown(run))
        page = {"offset": offset, "limit": limit, "total_count": len(listed)}
        return {"training_runs": listed[offset : offset + limit], "cursor": page}


@contextlib.contextmanager
def serving_tinker(**settings: Any) -> Iterator[TinkerService]:
    """A service that runs for the length of a block."""
    with TinkerService(**settings) as service:
        yield service
