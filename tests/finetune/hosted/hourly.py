"""A made-up service whose results answer from endpoints that cost by the hour, and its adapter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_dspy_ft.finetune.hosted.port import (
    JOB_MARK,
    Deployment,
    FailureMeaning,
    JobRequest,
    NotServedYet,
    RemoteJob,
    Served,
    TrainingService,
    TrainingSettings,
    UnreadableReplyError,
)
from pytest_dspy_ft.finetune.hosted.states import state_of
from tests.finetune.hosted.schedules import Answer, Ask, Course, LostError, Network, StartedJob, Time

MADE: list[HourlyServer] = []
"""The servers that were made, for sessions within this process."""


class RefusedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class HourlyServer:
    """Jobs that are done at the third look, and endpoints that take a while to come up."""

    address = "http://answers.test/v1"

    def __init__(self, course: Course, clock: Time) -> None:
        self.course, self.clock = course, clock
        self.all: dict[str, dict[str, Any]] = {}
        self.up: dict[str, float] = {}
        """Endpoints by name, with the time at which they answer."""
        self.ever: list[str] = []
        MADE.append(self)

    def starts(self, ask: Ask) -> bool:
        return ask.method == "POST" and ask.path in ("/jobs", "/endpoints")

    def service(self, network: Network) -> TrainingService:
        return HourlyService(network, self.address)

    def jobs(self) -> list[StartedJob]:
        live = ("PENDING", "RUNNING")
        return [
            StartedJob(id_, running=j["state"] in live, paid=j["state"] in live or j["worked"], model=j["model"])
            for id_, j in self.all.items()
        ]

    def endpoints(self) -> list[str]:
        return list(self.up)

    def answer(self, ask: Ask) -> Answer:
        body = json.loads(ask.body or b"{}")
        match ask.method, ask.path.split("/")[1:]:
            case "POST", ["jobs"]:
                id_ = f"job-{len(self.all) + 1}"
                self.all[id_] = {"id": id_, "state": "PENDING", "looks": self.course.looks, "worked": False, **body}
                self.all[id_] |= {"model": None, "made": self.clock.today()}
                return 200, self.all[id_]
            case "GET", ["jobs"]:
                lag = self.course.list_lag
                return 200, {"jobs": [j for j in self.all.values() if self.clock.today() - j["made"] >= lag]}
            case "GET", ["jobs", job]:
                return 200, self.look(self.all[job])
            case "DELETE", ["jobs", job]:
                self.all[job]["state"] = "CANCELLED"
                return 200, self.all[job]
            case "POST", ["endpoints"]:
                if body["name"] not in self.up:
                    self.ever.append(body["name"])
                    self.up[body["name"]] = self.clock.today() + 90.0
                return 200, {"ready": self.up[body["name"]] <= self.clock.today()}
            case "DELETE", ["endpoints", name]:
                return 200, {"gone": self.up.pop(name, None) is not None}
        return 404, {}

    def look(self, job: dict[str, Any]) -> dict[str, Any]:
        if job["state"] in ("PENDING", "RUNNING"):
            job |= {"state": "RUNNING", "worked": True, "looks": job["looks"] - 1}
            if job["looks"] < 0 and self.course.end != "hangs":
                job["state"] = {"succeeded": "SUCCESS", "failed": "ERROR", "cancelled": "CANCELED"}[self.course.end]
                job["model"] = f"tuned-{job['id']}" if self.course.end == "succeeded" else None
        return job


class HourlyService(TrainingService):
    """The adapter, over a network."""

    name = "hourly"
    by_the_hour = True

    def __init__(self, network: Any, answers_at: str) -> None:
        self.address = "http://hourly.test"
        self._network, self._answers_at = network, answers_at

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        status, content, _ = self._network.ask(Ask(method, path, {}, {}, json.dumps(body or {}).encode()))
        if status >= 400:
            raise RefusedError(status)
        reply = json.loads(content)
        if not isinstance(reply, dict):
            raise UnreadableReplyError(str(reply))
        return reply

    def _job(self, reply: Any) -> RemoteJob:
        state = state_of(reply["state"])
        return RemoteJob(
            reply["id"], state or "running", reply["state"], state is not None, reply["model"], reply["marks"]
        )

    def settings(self, train_kwargs: Mapping[str, Any]) -> TrainingSettings:
        return TrainingSettings.from_kwargs(train_kwargs)

    def upload(self, name: str, rows: Sequence[Any]) -> str:
        return name

    def start(self, order: JobRequest, marks: Mapping[str, str], training: str, validation: str | None) -> RemoteJob:
        return self._job(self._ask("POST", "/jobs", {"marks": dict(marks)}))

    def job(self, job: str) -> RemoteJob | None:
        return self._job(self._ask("GET", f"/jobs/{job}"))

    def find(self, marks: Mapping[str, str], files: Iterable[str]) -> list[RemoteJob] | None:
        jobs = [self._job(reply) for reply in self._ask("GET", "/jobs")["jobs"]]
        return [job for job in jobs if job.marks[JOB_MARK] == marks[JOB_MARK]]

    def cancel(self, job: str) -> None:
        self._ask("DELETE", f"/jobs/{job}")

    def serve(self, job: RemoteJob, deployment: Deployment) -> Served:
        if not self._ask("POST", "/endpoints", {"name": deployment.name})["ready"]:
            raise NotServedYet("it is coming up")
        return Served(
            f"openai/{job.model}", {"api_base": self._answers_at, "api_key_variable": "HOURLY_KEY"}, deployment.name
        )

    def release(self, served: Served) -> bool:
        return bool(self._ask("DELETE", f"/endpoints/{served.release}")["gone"])

    def meaning(self, error: BaseException) -> FailureMeaning | None:
        if isinstance(error, LostError):
            return "in_flight"
        if isinstance(error, RefusedError):
            return (
                "not_done"
                if error.status == 429
                else "in_flight"
                if error.status in (408, *range(500, 600))
                else "final"
            )
        return None
