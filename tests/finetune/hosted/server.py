"""A fine-tuning service on the loopback: the OpenAI API over real HTTP, with faults to order.

Speaks files, fine-tuning jobs (events, checkpoints, cancel, pause, resume) and chat completions, below ``/v1`` as
OpenAI does and below ``/openai`` as Azure does. What a job learns and what a model answers is up to whoever starts it.
"""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from tests.finetune.hosted.http_faults import ApiError, Call, Fault, FaultyHandler, chat_completion

LIVE = ("validating_files", "queued", "running", "pausing", "paused")


@dataclass
class Job:
    """A job: what the API shows, and the statuses it is still to go through, one a look."""

    shown: dict[str, Any]
    statuses: list[str]
    error: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.shown["id"])


class FineTuningService:
    """The service.

    Args:
        answer: ``(model, messages) -> text`` of chat completions.
        train: ``(job, rows, service) -> model name``, run in a thread once the job is running; None: jobs go through
            ``statuses`` by themselves, a step each time somebody looks.
        statuses: What a job goes through; the last one is kept.
        faults: Asked about each request.
        keeps_metadata, filters: How much of ``metadata`` the service understands.
        idempotent: Whether it carries a repeated request of one Idempotency-Key out once.
    """

    def __init__(
        self,
        *,
        answer: Callable[[str, list[dict[str, Any]]], str] = lambda model, messages: "hello",
        train: Callable[[Job, list[Any], FineTuningService], str] | None = None,
        statuses: tuple[str, ...] = ("validating_files", "queued", "running", "running", "succeeded"),
        faults: Callable[[Call], Fault | None] = lambda call: None,
        keeps_metadata: bool = True,
        filters: bool = True,
        idempotent: bool = False,
        lists_jobs: bool = True,
    ) -> None:
        self.answer, self.train, self.faults = answer, train, faults
        self.statuses = statuses
        self.error: dict[str, Any] | None = None
        """Of jobs that fail."""
        self.keeps_metadata, self.filters, self.idempotent = keeps_metadata, filters, idempotent
        self.lists_jobs = lists_jobs
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.jobs: dict[str, Job] = {}
        self.deployments: set[str] | None = None
        """Models that answer; None: all."""
        self.calls: list[Call] = []
        self.asked: list[str] = []
        """The models that chat completions were asked of."""
        self.seen: list[str] = []
        """Every request as text, headers but the key's included."""
        self.lock = threading.RLock()
        self._replies: dict[str, dict[str, Any]] = {}
        self._ids = itertools.count(1)
        self.late: list[threading.Timer] = []
        service = self

        class Handler(FaultyHandler):
            pass

        Handler.service = service
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def address(self) -> str:
        return f"{self.root}/v1"

    def __enter__(self) -> FineTuningService:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for timer in self.late:
            timer.join(5)

    def settle(self) -> None:
        """Wait until requests that arrive late have arrived."""
        for timer in self.late:
            timer.join(5)

    def started(self) -> list[Job]:
        """The jobs that were really started."""
        return list(self.jobs.values())

    # --- the API -----------------------------------------------------------------------------------------------------

    def handle(self, method: str, path: str, query: dict[str, str], headers: Mapping[str, str], body: bytes) -> Any:
        with self.lock:
            for wanted, pattern, action in self._routes():
                if method == wanted and (match := re.fullmatch(pattern, path)):
                    return action(*match.groups(), query=query, headers=headers, body=body)
        raise ApiError(404, f"unknown path {method} {path}", "not_found")

    def _routes(self) -> list[tuple[str, str, Callable[..., Any]]]:
        job = r"/fine_tuning/jobs/([^/]+)"
        return [
            ("POST", "/files", self._upload),
            ("GET", "/files/([^/]+)", lambda id_, **_: self._file(id_)),
            ("DELETE", "/files/([^/]+)", self._delete),
            ("POST", "/fine_tuning/jobs", self._create),
            ("GET", "/fine_tuning/jobs", self._list),
            ("GET", job, lambda id_, **_: self._look(id_)),
            ("POST", f"{job}/(cancel|pause|resume)", self._steer),
            ("GET", f"{job}/events", lambda id_, **_: _page(self._job(id_).events[::-1])),
            ("GET", f"{job}/checkpoints", lambda id_, **_: _page([])),
            ("POST", "(?:/deployments/([^/]+))?/chat/completions", self._chat),
        ]

    def _upload(self, *, headers: Mapping[str, str], body: bytes, **_: Any) -> dict[str, Any]:
        head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
        form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        parts = {p.get_param("name", header="content-disposition"): p for p in form.iter_parts()}  # type: ignore[attr-defined]
        content = parts["file"].get_payload(decode=True)
        file = {
            "id": f"file-{next(self._ids)}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": parts["file"].get_filename(),
            "purpose": parts["purpose"].get_payload(decode=True).decode().strip(),
            "status": "processed",
        }
        self.files[file["id"]], self.contents[file["id"]] = file, content
        return file

    def _file(self, id_: str) -> dict[str, Any]:
        if id_ not in self.files:
            raise ApiError(404, f"No such File object: {id_}", "not_found", "id")
        return self.files[id_]

    def _delete(self, id_: str, **_: Any) -> dict[str, Any]:
        self._file(id_)
        del self.files[id_]
        return {"id": id_, "object": "file", "deleted": True}

    def _create(self, *, headers: Mapping[str, str], body: bytes, **_: Any) -> dict[str, Any]:
        order = json.loads(body)
        key = headers.get("Idempotency-Key")
        if self.idempotent and key in self._replies:
            return self._replies[key]
        for name in ("training_file", "validation_file"):
            if order.get(name) is not None and order[name] not in self.files:
                raise ApiError(400, f"invalid {name}: {order[name]}", "invalid_file", name)
        rows = self.rows(order["training_file"])
        if len(rows) < 10:
            raise ApiError(400, f"training file has {len(rows)} example(s), but must have at least 10", "small", "file")
        number = next(self._ids)
        job = Job(
            shown={
                "id": f"ftjob-{number}",
                "object": "fine_tuning.job",
                "created_at": int(time.time()),
                "error": {},
                "fine_tuned_model": None,
                "finished_at": None,
                "hyperparameters": order.get("method", {}).get("supervised", {}).get("hyperparameters", {}),
                "method": order.get("method"),
                "model": order["model"],
                "organization_id": "org-test",
                "result_files": [],
                "seed": order.get("seed", 0),
                "status": "validating_files",
                "trained_tokens": None,
                "training_file": order["training_file"],
                "validation_file": order.get("validation_file"),
                "metadata": order.get("metadata") if self.keeps_metadata else None,
                "suffix": order.get("suffix"),
            },
            statuses=list(self.statuses),
            error=self.error,
        )
        job.shown["name"] = f"ft:{order['model'].removeprefix('ft:').split(':')[0]}:test:{order.get('suffix')}:{number}"
        self.jobs[job.id] = job
        if key is not None:
            self._replies[key] = _public(job)
        if self.train is not None:
            threading.Thread(target=self._really_train, args=(job, rows), daemon=True).start()
        return _public(job)

    def _really_train(self, job: Job, rows: list[Any]) -> None:
        assert self.train is not None
        try:
            job.shown["status"] = "running"
            job.shown["name"] = self.train(job, rows, self)
            self._finish(job, "succeeded")
        except Exception as error:
            job.error = {"code": "training_failed", "message": str(error), "param": None}
            self._finish(job, "failed")

    def rows(self, file: str) -> list[Any]:
        """The rows of a file that was uploaded, also when it was deleted since."""
        return [json.loads(line) for line in self.contents[file].decode().splitlines() if line]

    def _list(self, *, query: dict[str, str], **_: Any) -> dict[str, Any]:
        if not self.lists_jobs:
            raise ApiError(404, "no such path", "not_found")
        jobs = list(self.jobs.values())[::-1]
        if self.filters:
            for name, value in query.items():
                if found := re.fullmatch(r"metadata\[(\w+)\]", name):
                    jobs = [job for job in jobs if (job.shown["metadata"] or {}).get(found[1]) == value]
        if "after" in query:
            ids = [job.id for job in jobs]
            jobs = jobs[ids.index(query["after"]) + 1 :]
        limit = int(query.get("limit", "20"))
        return _page([_public(job) for job in jobs[:limit]], more=len(jobs) > limit)

    def _job(self, id_: str) -> Job:
        if id_ not in self.jobs:
            raise ApiError(404, f"Could not find fine tune: {id_}", "fine_tune_not_found", "fine_tune_id")
        return self.jobs[id_]

    def _look(self, id_: str) -> dict[str, Any]:
        job = self._job(id_)
        if self.train is None and job.statuses and job.shown["status"] not in ("succeeded", "failed", "cancelled"):
            status = job.statuses.pop(0) if len(job.statuses) > 1 else job.statuses[0]
            if status == "running":
                self.step(job, len([e for e in job.events if e["type"] == "metrics"]) + 1, 4, 1.0)
            if status in ("succeeded", "failed", "cancelled"):
                self._finish(job, status)
            else:
                job.shown["status"] = status
        return _public(job)

    def step(self, job: Job, step: int, total: int, loss: float | None) -> None:
        """Let a job tell how far it is."""
        job.events.append(
            {
                "id": f"ftevent-{len(job.events)}",
                "object": "fine_tuning.job.event",
                "created_at": int(time.time()),
                "level": "info",
                "message": f"Step {step}/{total}: training loss={loss}",
                "data": {"step": step, "total_steps": total, "train_loss": loss},
                "type": "metrics",
            }
        )

    def _finish(self, job: Job, status: str) -> None:
        job.shown |= {"status": status, "finished_at": int(time.time())}
        if status == "succeeded":
            rows = self.rows(job.shown["training_file"])
            job.shown |= {"fine_tuned_model": job.shown["name"], "trained_tokens": 100 * len(rows)}
        elif status == "failed":
            job.shown["error"] = job.error

    def _steer(self, id_: str, what: str, **_: Any) -> dict[str, Any]:
        job = self._job(id_)
        if job.shown["status"] not in LIVE:
            raise ApiError(400, f"job {id_} is {job.shown['status']}", "invalid_state")
        job.shown["status"] = {"cancel": "cancelled", "pause": "paused", "resume": "running"}[what]
        job.statuses = [] if what == "cancel" else job.statuses
        return _public(job)

    def _chat(self, deployment: str | None, *, body: bytes, **_: Any) -> dict[str, Any]:
        request = json.loads(body)
        model = deployment or request["model"]
        if self.deployments is not None and model not in self.deployments:
            raise ApiError(404, "The API deployment for this resource does not exist.", "DeploymentNotFound")
        self.asked.append(model)
        text = self.answer(model, request["messages"])
        return chat_completion(next(self._ids), model, text)


def _public(job: Job) -> dict[str, Any]:
    return {name: value for name, value in job.shown.items() if name != "name"}


def _page(data: list[Any], more: bool = False) -> dict[str, Any]:
    return {"object": "list", "data": data, "has_more": more}


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[FineTuningService]:
    """A service that runs for the length of a block."""
    with FineTuningService(**settings) as service:
        yield service
