"""OpenAI's API on the loopback as Nebius and Crusoe speak it: results in checkpoints, which are made callable apart."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.finetune.hosted.http_faults import ApiError
from tests.finetune.hosted.server import FineTuningService

Routes = list[tuple[str, str, Callable[..., Any]]]
PROJECT = "proj-crusoe"


class DialectFineTuning(FineTuningService):
    """What both have in common: no marks are kept, no filter is known, a job names no model, but its checkpoints do."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"keeps_metadata": False, "filters": False, **settings})
        self._numbers = itertools.count(1)

    def _routes(self) -> Routes:
        checkpoints = ("GET", r"/fine_tuning/jobs/([^/]+)/checkpoints", self._checkpoints)
        return [checkpoints, ("GET", "/files", self._listed_files), *self._more_routes(), *super()._routes()]

    def _more_routes(self) -> Routes:
        raise NotImplementedError

    def _listed_files(self, **_: Any) -> dict[str, Any]:
        return {"object": "list", "data": list(self.files.values()), "has_more": False}

    def _checkpoints(self, id_: str, **_: Any) -> dict[str, Any]:
        job = self._job(id_)
        if job.shown["status"] != "succeeded":
            return {"object": "list", "data": [], "has_more": False}
        steps = [self.checkpoint(id_, step) for step in (4, 8)]
        return {"object": "list", "data": steps[::-1], "has_more": False}

    def checkpoint(self, job: str, step: int) -> dict[str, Any]:
        return {"id": f"ftckpt-{job}-{step}", "step_number": step, "fine_tuning_job_id": job}

    def job_of(self, checkpoint: str) -> Any:
        """The job that a checkpoint is the last one of."""
        found = [job for id_, job in self.jobs.items() if checkpoint.endswith(f"ftckpt-{id_}-8")]
        if not found:
            raise ApiError(404, f"no such checkpoint {checkpoint}", "not_found")
        return found[0]

    def _finish(self, job: Any, status: str) -> None:
        super()._finish(job, status)
        job.shown["fine_tuned_model"] = None


class NebiusFineTuning(DialectFineTuning):
    """Nebius: hyperparameters at the top, then a model of one's own is made of a checkpoint.

    Args:
        statuses_of_models: What such a model goes through, a step a look.
    """

    def __init__(self, *, statuses_of_models: tuple[str, ...] = ("validating", "active"), **settings: Any) -> None:
        super().__init__(**settings)
        self.statuses_of_models = statuses_of_models
        self.models: list[dict[str, Any]] = []

    def _create(self, *, body: bytes, **more: Any) -> dict[str, Any]:
        order = json.loads(body)
        if "method" in order:
            raise ApiError(422, "extra inputs are not permitted: method", "extra_forbidden", "method")
        created = super()._create(body=body, **more)
        self.jobs[created["id"]].shown["hyperparameters"] = order["hyperparameters"]
        return created

    def _more_routes(self) -> Routes:
        return [("GET", "/v0/models", self._list_models), ("POST", "/v0/models", self._make_model)]

    def _make_model(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        order = json.loads(body)
        job = self.job_of(order["source"].partition(":")[2])
        name = f"{order['base_model']}-LoRa:{order['name']}-{next(self._numbers)}"
        self.models.append({**order, "name": name, "trained": job.shown["name"], "left": list(self.statuses_of_models)})
        self.models[-1]["status"] = "validating"
        return self.models[-1]

    def _list_models(self, **_: Any) -> list[dict[str, Any]]:
        for model in self.models:
            model["status"] = model["left"].pop(0) if len(model["left"]) > 1 else model["left"][0]
        return self.models

    def _chat(self, deployment: str | None, *, body: bytes, **more: Any) -> dict[str, Any]:
        request = json.loads(body)
        if ":" in request["model"]:
            made = [m for m in self.models if m["name"] == request["model"] and m["status"] == "active"]
            if not made:
                raise ApiError(404, f"no model {request['model']}", "not_found")
            body = json.dumps({**request, "model": made[0]["trained"]}).encode()
        return super()._chat(deployment, body=body, **more)


class CrusoeFineTuning(DialectFineTuning):
    """Crusoe: a checkpoint is a model of its own (``ftmodel-...``), asked once it is loaded as an adapter.

    Args:
        statuses_of_adapters: What an adapter goes through, a step a look.
    """

    def __init__(self, *, statuses_of_adapters: tuple[str, ...] = ("loading", "ready"), **settings: Any) -> None:
        super().__init__(**settings)
        self.statuses_of_adapters = statuses_of_adapters
        self.adapters: list[dict[str, Any]] = []
        self.prices: list[dict[str, Any]] = []

    def _more_routes(self) -> Routes:
        adapters = f"/projects/{PROJECT}/foundry/loras"
        return [
            ("GET", adapters, self._list_adapters),
            ("POST", adapters, self._load),
        ]

    def checkpoint(self, job: str, step: int) -> dict[str, Any]:
        return {**super().checkpoint(job, step), "fine_tuned_model_id": f"ftmodel-ftckpt-{job}-{step}"}

    def _list_adapters(self, **_: Any) -> dict[str, Any]:
        for adapter in self.adapters:
            adapter["status"] = adapter["left"].pop(0) if len(adapter["left"]) > 1 else adapter["left"][0]
        return {"lora_adapters": self.adapters}

    def _load(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        model = json.loads(body)["model_id"]
        job = self.job_of(model.removeprefix("ftmodel-"))
        adapter = {
            "id": f"lora-{next(self._numbers)}",
            "model_id": model,
            "status": "pending",
            "trained": job.shown["name"],
            "left": list(self.statuses_of_adapters),
        }
        self.adapters.append(adapter)
        return adapter

    def _chat(self, deployment: str | None, *, body: bytes, **more: Any) -> dict[str, Any]:
        request = json.loads(body)
        if request["model"].startswith("ftmodel-"):
            ready = [a for a in self.adapters if a["model_id"] == request["model"] and a["status"] == "ready"]
            if not ready:
                raise ApiError(404, f"adapter {request['model']} is not loaded", "not_found")
            body = json.dumps({**request, "model": ready[0]["trained"]}).encode()
        return super()._chat(deployment, body=body, **more)


@contextlib.contextmanager
def serving_nebius(**settings: Any) -> Iterator[NebiusFineTuning]:
    """A service that runs for the length of a block."""
    with NebiusFineTuning(**settings) as service:
        yield service


@contextlib.contextmanager
def serving_crusoe(**settings: Any) -> Iterator[CrusoeFineTuning]:
    """A service that runs for the length of a block."""
    with CrusoeFineTuning(**settings) as service:
        yield service
