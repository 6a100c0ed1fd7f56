"""Each service under random courses of events: one paid job at most, nothing lost, nothing left running."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from pytest_dspy_ft.finetune.hosted.openai_api.crusoe import CrusoeService
from pytest_dspy_ft.finetune.hosted.openai_api.nebius import NebiusService
from pytest_dspy_ft.finetune.hosted.port import GENERATION_MARK, JOB_MARK, TrainingService
from pytest_dspy_ft.finetune.hosted.tinker_api.service import ID_MARK
from pytest_dspy_ft.finetune.hosted.tinker_api.service import TinkerService as TinkerAdapter
from pytest_dspy_ft.finetune.hosted.together_api.service import TogetherService as TogetherAdapter
from tests.finetune.hosted.dialect_servers import PROJECT, CrusoeFineTuning, NebiusFineTuning
from tests.finetune.hosted.http_faults import ApiError
from tests.finetune.hosted.schedules import SCHEDULES, Answer, Ask, Course, Network, StartedJob, Time, run_schedule
from tests.finetune.hosted.tinker_direct import DirectSession
from tests.finetune.hosted.tinker_server import TinkerService
from tests.finetune.hosted.together_server import TogetherService

EACH = 50
OVER = ("succeeded", "failed", "cancelled", "completed", "error")


def lm_of(model: str, address: str) -> Any:
    return SimpleNamespace(model=model, kwargs={"api_base": address, "api_key": "tml-key"})


class InMemory:
    """A service of the tests as one of a schedule: asked directly, its lists late by the clock."""

    made: Any

    def __init__(self, course: Course, clock: Time, **settings: Any) -> None:
        self.course, self.clock = course, clock
        self.made = self.make(course, **settings)
        self.created: dict[str, float] = {}

    def make(self, course: Course, **settings: Any) -> Any:
        raise NotImplementedError

    def answer(self, ask: Ask) -> Answer:
        try:
            return 200, self.made.handle(ask.method, ask.path, dict(ask.query), _headers(ask), ask.body)
        except ApiError as error:
            return error.status, {**error.body, **{name.lower(): value for name, value in error.headers.items()}}

    def is_listed(self, id_: str) -> bool:
        began = self.created.setdefault(id_, self.clock.time)
        return self.clock.time - began >= self.course.list_lag

    def starts(self, ask: Ask) -> bool:
        return ask.method == "POST" and ask.path in ("/fine_tuning/jobs", "/v1/fine-tunes")

    def jobs(self) -> list[StartedJob]:
        return [
            StartedJob(
                str(job.shown["id"]),
                running=job.shown["status"] not in OVER,
                paid=job.shown["status"] != "cancelled" or "worked" in job.shown,
                model=self.model_of(job),
            )
            for job in self.made.started()
        ]

    def model_of(self, job: Any) -> str:
        raise NotImplementedError

    def endpoints(self) -> list[str]:
        return []

    def statuses(self, course: Course, words: Mapping[str, str]) -> tuple[str, ...]:
        end = "running" if course.end == "hangs" else course.end
        return (*["running"] * (course.looks + 1), words.get(end, end))


def _headers(ask: Ask) -> dict[str, str]:
    return {"Content-Type" if name == "content-type" else name: value for name, value in ask.headers.items()}


# --- OpenAI's dialects ----------------------------------------------------------------------------------------------


class Dialect(InMemory):
    kind: Any
    adapter: Any

    def make(self, course: Course, **settings: Any) -> Any:
        rng = course.random
        server = type("Lagging", (_Lagging, self.kind), {"schedule": self})
        made = server(statuses=self.statuses(course, {}), keeps_metadata=rng.random() < 0.3)
        made.error = {"message": "the rows are bad"}
        made._server.server_close()  # it is asked directly
        return made

    def service(self, network: Network) -> TrainingService:
        lm = lm_of("openai/a-model", "http://service.test/v1")
        service: TrainingService = self.adapter(lm, network.client("/v1"))
        return service


class _Lagging:
    """A list that shows a job only after a while, and jobs that note that they worked."""

    schedule: Dialect

    def _create(self, **more: Any) -> Any:
        created = super()._create(**more)  # type: ignore[misc]
        self.schedule.is_listed(created["id"])
        return created

    def _look(self, id_: str) -> Any:
        shown = super()._look(id_)  # type: ignore[misc]
        if shown["status"] == "running":
            self.jobs[id_].shown["worked"] = True  # type: ignore[attr-defined]
        return shown

    def _list(self, **more: Any) -> Any:
        page = super()._list(**more)  # type: ignore[misc]
        return {**page, "data": [job for job in page["data"] if self.schedule.is_listed(job["id"])]}


class NebiusSchedule(Dialect):
    kind, adapter = NebiusFineTuning, NebiusService

    def model_of(self, job: Any) -> str:
        made = [m for m in self.made.models if m["source"].startswith(f"{job.id}:")]
        return str(made[0]["name"]) if made else ""


class CrusoeSchedule(Dialect):
    kind, adapter = CrusoeFineTuning, CrusoeService

    def model_of(self, job: Any) -> str:
        return f"ftmodel-ftckpt-{job.id}-8"


# --- Together -------------------------------------------------------------------------------------------------------


class TogetherSchedule(InMemory):
    def make(self, course: Course, **settings: Any) -> Any:
        rng = course.random
        states = (*["PROVISIONING"] * rng.randint(0, 4), rng.choice(("READY", "READY", "STOPPED")))
        words = {"succeeded": "completed", "failed": "error"}
        schedule = self

        class Lagging(TogetherService):
            def _is_listed(self, id_: str) -> bool:
                return schedule.is_listed(id_)

            def _create(self, **more: Any) -> Any:
                created = super()._create(**more)
                schedule.is_listed(created["id"])
                return created

            def _create_endpoint(self, **more: Any) -> Any:
                created = super()._create_endpoint(**more)
                schedule.is_listed(created["id"])
                return created

            def _look(self, id_: str) -> Any:
                shown = super()._look(id_)
                if shown["status"] == "running":
                    shown["worked"] = True
                return shown

        made = Lagging(statuses=self.statuses(course, words), states=states)
        made.error = "the rows are bad"
        return made

    def service(self, network: Network) -> TrainingService:
        lm = lm_of("together_ai/a-model", "http://service.test/v1")
        return TogetherAdapter(lm, httpx.Client(transport=Redirecting(network)))

    def model_of(self, job: Any) -> str:
        return str(job.shown["model_output_name"])

    def endpoints(self) -> list[str]:
        return [deployment["id"] for deployment in self.made.running()]

    def starts(self, ask: Ask) -> bool:
        return super().starts(ask) or (ask.method in ("POST", "DELETE") and "/endpoints" in ask.path)


class Redirecting(httpx.BaseTransport):
    """A network whose answers may send elsewhere: what they say of it stands in their headers."""

    def __init__(self, network: Network) -> None:
        self._inner = network.transport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response: httpx.Response = self._inner.handle_request(request)
        if response.status_code != 302:
            response.headers["Content-Type"] = "application/json"
            return response
        try:
            told = json.loads(response.content)
            headers = {name: told[name] for name in ("location", "x-together-file-id")}
        except (ValueError, KeyError, TypeError):
            headers = {}
        return httpx.Response(302, headers=headers, request=request)


# --- Tinker ---------------------------------------------------------------------------------------------------------


class TinkerSchedule(InMemory):
    def make(self, course: Course, **settings: Any) -> Any:
        course.end = "succeeded"  # there is no job at the service that could end otherwise
        schedule = self

        class Lagging(TinkerService):
            def _new_run(self, *run: Any) -> Any:
                made = super()._new_run(*run)
                schedule.is_listed(made.id)
                return made

            def _list(self, **more: Any) -> Any:
                page = super()._list(**more)
                runs = [run for run in page["training_runs"] if schedule.is_listed(run["training_run_id"])]
                return {**page, "training_runs": runs}

            def _create_model(self, **more: Any) -> Any:
                return self.results[super()._create_model(**more)["request_id"]]

            def _load(self, **more: Any) -> Any:
                return {"model_id": super()._load(**more)["model_id"]}

        return Lagging()

    def service(self, network: Network) -> TrainingService:
        service = TinkerAdapter(lm_of("openai/a-model", "http://service.test/oai/api/v1"))
        service.connect = lambda address, key: DirectSession(network)  # type: ignore[method-assign,assignment,return-value]
        return service

    def starts(self, ask: Ask) -> bool:
        return ask.path.endswith(("/pass", "/save_weights", "/save_weights_for_sampler"))

    def jobs(self) -> list[StartedJob]:
        ids = {run.user_metadata[ID_MARK] for run in self.made.runs.values() if run.state["seen"]}
        return [StartedJob(id_, running=False, paid=True, model="") for id_ in sorted(ids)]


SHAPES = {"nebius": NebiusSchedule, "crusoe": CrusoeSchedule, "together": TogetherSchedule}


@pytest.mark.parametrize("first", range(0, SCHEDULES, EACH))
@pytest.mark.parametrize("shape", SHAPES)
def test_jobs_are_paid_once(tmp_path: Path, shape: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if shape == "together":
        pytest.importorskip("together")
    monkeypatch.setenv("CRUSOE_PROJECT_ID", PROJECT)
    for seed in range(first, first + EACH):
        run_schedule(SHAPES[shape], seed, tmp_path / str(seed))


SAVE_EVERY, STEPS = 2, 10
"""20 rows in batches of 4, twice."""


@pytest.mark.parametrize("first", range(0, SCHEDULES, EACH))
def test_steps_are_paid_once_but_for_the_last_piece(tmp_path: Path, first: int) -> None:
    settings = {"service": "tinker", "n_epochs": 2, "batch_size": 4, "save_every": SAVE_EVERY}
    for seed in range(first, first + EACH):
        server: Any = run_schedule(TinkerSchedule, seed, tmp_path / str(seed), settings)
        service = server.made
        results = [service.states[path]["seen"] for path in service.sampled()]
        assert results, server.course
        assert all(seen == results[0] for seen in results), f"{server.course}: results that differ"
        assert len(results[0]) == STEPS, f"{server.course}: steps were lost or made twice"
        assert len({str(batch) for batch in results[0]}) == STEPS, server.course
        marks = {run.user_metadata[JOB_MARK] for run in service.runs.values()}
        assert len(marks) == 1, server.course
        assert {run.user_metadata[GENERATION_MARK] for run in service.runs.values()} == {"1"}, server.course
        begun = len(service.runs)  # each goes on from the newest state, and may pay for what came after that again
        assert service.paid <= STEPS + (begun - 1) * SAVE_EVERY, f"{server.course}: {service.paid} passes, {begun} runs"
