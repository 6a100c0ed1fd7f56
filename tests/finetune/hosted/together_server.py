"""Together's API on the loopback, as its client 3.1 speaks it: files, fine-tunes, limits, prices, dedicated endpoints.

An endpoint's deployment costs from its first moment to its deletion: :meth:`TogetherService.running` are those that
cost now, and :attr:`TogetherService.deployed` all that ever did.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.finetune.hosted.http_faults import ApiError, FaultyHandler, RedirectError
from tests.finetune.hosted.loopback import LoopbackService, Routes

PROJECT = "proj-1"
SLUG = "acme"
OVER = ("completed", "error", "cancelled")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


@dataclass
class Tuning:
    """A job: what the API shows, and the statuses it is still to go through, one a look."""

    shown: dict[str, Any]
    statuses: list[str]
    events: list[dict[str, Any]] = field(default_factory=list)


class TogetherHandler(FaultyHandler):
    def _path(self, path: str) -> str:
        return path

    def _check_key(self, path: str, headers: Mapping[str, str]) -> None:
        if not path.startswith("/storage/"):  # a presigned address
            super()._check_key(path, headers)


class TogetherService(LoopbackService):
    """The service.

    Args:
        train: ``(job, rows) -> None``, run in a thread; None: jobs go through ``statuses``, a step a look.
        statuses: What a job goes through.
        price: US dollars that the service estimates for any job; None: it has no estimate.
        states: What a deployment goes through, a step a look; the last is kept.
        listed_after: How many looks at the list of jobs, or endpoints, pass before a fresh one is in it.
    """

    handler = TogetherHandler

    def __init__(
        self,
        *,
        train: Callable[[Tuning, list[Any]], None] | None = None,
        statuses: tuple[str, ...] = ("pending", "queued", "running", "compressing", "uploading", "completed"),
        price: float | None = 1.5,
        states: tuple[str, ...] = ("PROVISIONING", "PROVISIONING", "READY"),
        listed_after: int = 0,
        configs: tuple[str, ...] = ("cr_1",),
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.train, self.statuses, self.price, self.states = train, statuses, price, states
        self.listed_after, self.configs = listed_after, configs
        self.error = ""
        """Of jobs that fail."""
        self.contents: dict[str, bytes] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, Tuning] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.deployments: dict[str, dict[str, Any]] = {}
        self.deployed: list[dict[str, Any]] = []
        self._looks: dict[str, int] = {}
        self._ids = itertools.count(1)

    @property
    def address(self) -> str:
        return f"{self.root}/v1"

    def started(self) -> list[Tuning]:
        """The jobs that were really started."""
        return list(self.jobs.values())

    def running(self) -> list[dict[str, Any]]:
        """The deployments that cost by the hour now."""
        return [d for d in self.deployments.values() if d["autoscaling"].get("maxReplicas") != 0]

    def rows(self, file: str) -> list[Any]:
        return [json.loads(line) for line in self.contents[file].decode().splitlines() if line]

    def routes(self) -> Routes:
        tunes, v2 = "/v1/fine-tunes", f"/v2/projects/{PROJECT}"
        one = rf"{v2}/endpoints/([^/]+)"
        return [
            ("POST", "/v1/files", self._ask_to_upload),
            ("PUT", "/storage/([^/]+)", self._store),
            ("POST", "/v1/files/([^/]+)/preprocess", lambda id_, **_: self._file(id_)),
            ("GET", "/v1/files/([^/]+)", lambda id_, **_: self._file(id_)),
            ("DELETE", "/v1/files/([^/]+)", self._delete_file),
            ("GET", f"{tunes}/models/limits", self._limits),
            ("POST", f"{tunes}/estimate-price", self._estimate),
            ("POST", tunes, self._create),
            ("GET", tunes, self._list),
            ("GET", f"{tunes}/([^/]+)", lambda id_, **_: self._look(id_)),
            ("GET", f"{tunes}/([^/]+)/events", lambda id_, **_: {"data": self._job(id_).events}),
            ("POST", f"{tunes}/([^/]+)/cancel", self._cancel),
            ("GET", "/v3/whoami", lambda **_: {"type": "project_api_key", "project": {"id": PROJECT, "slug": SLUG}}),
            ("GET", f"{v2}/models", self._models),
            ("GET", f"{v2}/configs", self._configs),
            ("POST", f"{v2}/endpoints", self._create_endpoint),
            ("GET", f"{v2}/endpoints", self._list_endpoints),
            ("GET", one, lambda id_, **_: self._endpoint(id_)),
            ("PATCH", one, self._route),
            ("DELETE", one, self._delete_endpoint),
            ("POST", f"{one}/deployments", self._deploy),
            ("GET", f"{one}/deployments/([^/]+)", lambda _e, id_, **_: self._watch(id_)),
            ("PATCH", f"{one}/deployments/([^/]+)", self._scale),
            ("DELETE", f"{one}/deployments/([^/]+)", self._delete_deployment),
            ("POST", "/v1/chat/completions", self.chat),
        ]

    # --- files -------------------------------------------------------------------------------------------------------

    def _ask_to_upload(self, *, body: bytes, **_: Any) -> None:
        id_ = f"file-{next(self._ids)}"
        self.files[id_] = {
            "id": id_,
            "object": "file",
            "filename": "train.jsonl",
            "bytes": 0,
            "created_at": 1,
            "purpose": "fine-tune",
            "FileType": "jsonl",
            "processing_status": "COMPLETED",
        }
        raise RedirectError(302, {"Location": f"{self.root}/storage/{id_}", "X-Together-File-Id": id_})

    def _store(self, id_: str, *, body: bytes, **_: Any) -> dict[str, Any]:
        self.contents[id_] = body
        self._file(id_)["bytes"] = len(body)
        return {}

    def _file(self, id_: str) -> dict[str, Any]:
        if id_ not in self.files:
            raise ApiError(404, f"file {id_} not found", "not_found")
        return self.files[id_]

    def _delete_file(self, id_: str, **_: Any) -> dict[str, Any]:
        self._file(id_)
        del self.files[id_]
        return {"id": id_, "deleted": True}

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _limits(self, *, query: dict[str, str], **_: Any) -> dict[str, Any]:
        return {
            "model_name": query["model_name"],
            "max_num_epochs": 20,
            "max_num_evals": 100,
            "max_num_checkpoints": 10,
            "min_learning_rate": 1e-8,
            "max_learning_rate": 0.01,
            "min_max_seq_length": 1,
            "max_seq_length_sft": 8192,
            "max_seq_length_dpo": 4096,
            "default_gradient_accumulation_steps": 1,
            "merge_output_lora": True,
            "supports_full_training": True,
            "supports_reasoning": False,
            "supports_tools": True,
            "supports_vision": False,
            "lora_training": {
                "default_rank": 8,
                "max_rank": 64,
                "min_batch_size": 1,
                "max_batch_size": 64,
                "max_batch_size_dpo": 16,
                "target_modules": ["all-linear"],
            },
        }

    def _estimate(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        self._file(json.loads(body)["training_file"])
        if self.price is None:
            return {"estimation_available": False, "unavailable_reason": "train_file_not_validated"}
        return {"estimation_available": True, "allowed_to_proceed": True, "estimated_total_price": self.price}

    def _create(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        order = json.loads(body)
        for name in ("training_file", "validation_file"):
            if order.get(name) and order[name] not in self.files:
                raise ApiError(400, f"{name} {order[name]} not found", "invalid_file")
        if len(str(order.get("suffix") or "")) > 40:
            raise ApiError(400, "suffix is longer than 40 characters", "invalid_suffix")
        id_ = f"ft-{next(self._ids)}"
        name = f"{SLUG}/{order['model'].split('/')[-1]}-{order.get('suffix')}-{id_}"
        shown = {
            **{
                k: order.get(k) for k in ("model", "suffix", "training_file", "n_epochs", "learning_rate", "batch_size")
            },
            "validation_file": order.get("validation_file") or "",
            "training_type": order.get("training_type"),
            "random_seed": order.get("random_seed"),
            "id": id_,
            "object": "fine-tune",
            "status": "pending",
            "created_at": now(),
            "updated_at": now(),
            "user_id": "user-1",
            "model_output_name": name,
            "adapter_output_name": None,
            "events": [],
        }
        self.jobs[id_] = job = Tuning(shown, list(self.statuses))
        if self.train is not None:
            rows = self.rows(order["training_file"])
            threading.Thread(target=self._really_train, args=(job, rows), daemon=True).start()
        return shown

    def _really_train(self, job: Tuning, rows: list[Any]) -> None:
        assert self.train is not None
        try:
            job.shown["status"] = "running"
            self.train(job, rows)
            self._finish(job, "completed")
        except Exception as error:
            self.error = str(error)
            self._finish(job, "error")

    def _finish(self, job: Tuning, status: str) -> None:
        job.shown |= {"status": status, "updated_at": now()}
        if status == "completed":
            job.shown |= {"token_count": 1000, "total_price": 1_500_000_000}
        if status == "error":
            job.events.append({"message": self.error, "type": "job_error", "object": "fine-tune-event"})

    def _list(self, **_: Any) -> dict[str, Any]:
        return {"data": [job.shown for id_, job in self.jobs.items() if self._is_listed(id_)]}

    def _is_listed(self, id_: str) -> bool:
        self._looks[id_] = self._looks.get(id_, 0) + 1
        return self._looks[id_] > self.listed_after

    def _job(self, id_: str) -> Tuning:
        if id_ not in self.jobs:
            raise ApiError(404, f"fine-tune {id_} not found", "not_found")
        return self.jobs[id_]

    def _look(self, id_: str) -> dict[str, Any]:
        job = self._job(id_)
        if self.train is None and job.statuses and job.shown["status"] not in OVER:
            status = job.statuses.pop(0)
            if status in OVER:
                self._finish(job, status)
            job.shown["status"] = status
        return job.shown

    def _cancel(self, id_: str, **_: Any) -> dict[str, Any]:
        job = self._job(id_)
        if job.shown["status"] in OVER:
            raise ApiError(400, f"job {id_} is over", "invalid_state")
        job.shown["status"], job.statuses = "cancelled", []
        return job.shown

    # --- endpoints ---------------------------------------------------------------------------------------------------

    def _models(self, **_: Any) -> dict[str, Any]:
        done = [j.shown for j in self.jobs.values() if j.shown["status"] == "completed"]
        return {
            "data": [
                {
                    "id": f"ml_{shown['id']}",
                    "name": shown["model_output_name"],
                    "projectId": PROJECT,
                    "organizationId": "org-1",
                    "baseModelId": "ml_base",
                    "visibility": "VISIBILITY_PRIVATE",
                    "weights": {"type": "WEIGHTS_TYPE_ADAPTER"},
                }
                for shown in done
            ]
        }

    def _configs(self, **_: Any) -> dict[str, Any]:
        return {"data": [{"id": id_, "projectId": "proj-together", "selectors": []} for id_ in self.configs]}

    def _create_endpoint(self, *, body: bytes, **_: Any) -> dict[str, Any]:
        name = f"{SLUG}/{json.loads(body)['name']}"
        if any(endpoint["name"] == name for endpoint in self.endpoints.values()):
            raise ApiError(409, f"endpoint {name} exists", "already_exists")
        id_ = f"ep_{next(self._ids)}"
        self.endpoints[id_] = {
            "id": id_,
            "name": name,
            "projectId": PROJECT,
            "createdAt": now(),
            "updatedAt": now(),
            "endpointType": "ENDPOINT_TYPE_DEDICATED",
            "etag": "1",
            "visibility": "VISIBILITY_PRIVATE",
            "trafficSplit": [],
        }
        return self._endpoint(id_)

    def _endpoint(self, id_: str) -> dict[str, Any]:
        if id_ not in self.endpoints:
            raise ApiError(404, f"endpoint {id_} not found", "not_found")
        mine = [d for d in self.deployments.values() if d["endpointId"] == id_]
        return {**self.endpoints[id_], "deployments": [{**d, "state": d["status"]["state"]} for d in mine]}

    def _list_endpoints(self, **_: Any) -> dict[str, Any]:
        return {"data": [self._endpoint(id_) for id_ in self.endpoints if self._is_listed(id_)]}

    def _route(self, id_: str, *, body: bytes, **_: Any) -> dict[str, Any]:
        self._endpoint(id_)
        self.endpoints[id_]["trafficSplit"] = json.loads(body)["trafficSplit"]
        return self._endpoint(id_)

    def _delete_endpoint(self, id_: str, **_: Any) -> dict[str, Any]:
        if self._endpoint(id_)["deployments"]:
            raise ApiError(409, f"endpoint {id_} has deployments", "failed_precondition")
        del self.endpoints[id_]
        return {}

    def _deploy(self, endpoint: str, *, body: bytes, **_: Any) -> dict[str, Any]:
        order = json.loads(body)
        name = f"{self._endpoint(endpoint)['name']}/{order['name']}"
        if any(d["name"] == name for d in self.deployments.values()):
            raise ApiError(409, f"deployment {name} exists", "already_exists")
        id_ = f"dep_{next(self._ids)}"
        self.deployments[id_] = deployment = {
            **order,
            "id": id_,
            "name": name,
            "endpointId": endpoint,
            "projectId": PROJECT,
            "hardware": "1x H100",
            "status": {"state": "DEPLOYMENT_STATE_PROVISIONING", "message": ""},
            "states": list(self.states),
        }
        self.deployed.append(deployment)
        return deployment

    def _deployment(self, id_: str) -> dict[str, Any]:
        if id_ not in self.deployments:
            raise ApiError(404, f"deployment {id_} not found", "not_found")
        return self.deployments[id_]

    def _watch(self, id_: str) -> dict[str, Any]:
        deployment = self._deployment(id_)
        states = deployment["states"]
        state = states.pop(0) if len(states) > 1 else states[0]
        deployment["status"] = {"state": f"DEPLOYMENT_STATE_{state}", "message": "out of H100" * (state == "FAILED")}
        return deployment

    def _scale(self, _endpoint: str, id_: str, *, body: bytes, **_: Any) -> dict[str, Any]:
        deployment = self._deployment(id_)
        deployment["autoscaling"] = json.loads(body)["autoscaling"]
        if deployment["autoscaling"]["maxReplicas"]:
            deployment["states"] = ["PROVISIONING", "READY"]
        return deployment

    def _delete_deployment(self, endpoint: str, id_: str, **_: Any) -> dict[str, Any]:
        self._deployment(id_)
        if any(part["deploymentId"] == id_ for part in self.endpoints[endpoint]["trafficSplit"]):
            raise ApiError(409, f"deployment {id_} receives traffic", "failed_precondition")
        if self.deployments[id_]["autoscaling"].get("maxReplicas") != 0:
            raise ApiError(409, f"deployment {id_} has replicas: scale it to 0 first", "failed_precondition")
        del self.deployments[id_]
        return {}

    def check_callable(self, model: str) -> None:
        if not model.startswith(f"{SLUG}/"):
            return
        endpoint = next((e for e in self.endpoints.values() if e["name"] == model), None)
        ready = endpoint and any(
            self.deployments.get(part["deploymentId"], {}).get("status", {}).get("state") == "DEPLOYMENT_STATE_READY"
            for part in endpoint["trafficSplit"]
        )
        if not ready:
            raise ApiError(404, f"no endpoint answers as {model}", "model_not_available")


@contextlib.contextmanager
def serving_together(**settings: Any) -> Iterator[TogetherService]:
    """A service that runs for the length of a block."""
    with TogetherService(**settings) as service:
        yield service
