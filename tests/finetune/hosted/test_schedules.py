"""OpenAI's API under random courses of events: never a second paid job, nothing left running, nothing lost."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft.finetune.hosted.openai_api.service import OpenAIService
from pytest_dspy_ft.finetune.hosted.port import TrainingService
from tests.finetune.hosted.schedules import (
    SCHEDULES,
    Answer,
    Ask,
    Course,
    Network,
    StartedJob,
    Time,
    run_schedule,
)

OVER = ("succeeded", "failed", "cancelled")


class OpenAIServer:
    """OpenAI's API in memory, more or less of it."""

    def __init__(self, course: Course, clock: Time) -> None:
        rng = course.random
        self.course, self.clock = course, clock
        self.keeps_marks, self.filters = rng.random() < 0.8, rng.random() < 0.7
        self.page = rng.choice((1, 2, 100))
        self.copies_files = rng.random() < 0.5
        """A job goes on when its file is deleted before it has begun."""
        self.files: dict[str, str] = {}
        self.all: dict[str, dict[str, Any]] = {}
        self.ids = 0

    # --- what the schedules ask -----------------------------------------------------------------------------------

    def starts(self, ask: Ask) -> bool:
        return (ask.method, ask.path) == ("POST", "/fine_tuning/jobs")

    def service(self, network: Network) -> TrainingService:
        lm = dspy.LM("openai/a-model", api_base="http://service.test/v1", api_key="k")
        return OpenAIService(lm, network.client("/v1"))

    def jobs(self) -> list[StartedJob]:
        return [
            StartedJob(
                job["id"],
                running=job["status"] not in OVER,
                paid=job["worked"] or job["status"] not in OVER,
                model=job["fine_tuned_model"],
            )
            for job in self.all.values()
        ]

    def endpoints(self) -> list[str]:
        return []

    # --- the API --------------------------------------------------------------------------------------------------

    def answer(self, ask: Ask) -> Answer:
        match ask.method, ask.path.split("/")[1:]:
            case "POST", ["files"]:
                found = re.search(rb'filename="([^"]+)"', ask.body)
                assert found
                return 200, {"id": self.new("file", self.files, found[1].decode())}
            case "DELETE", ["files", file] if file in self.files:
                del self.files[file]
                for job in () if self.copies_files else self.all.values():
                    if job["training_file"] == file and job["status"] == "validating_files":
                        job["status"] = "failed"  # it can not read it any more
                return 200, {"id": file, "deleted": True}
            case "GET", ["files"]:
                return 200, {"data": [{"id": file, "filename": name} for file, name in self.files.items()]}
            case "POST", ["fine_tuning", "jobs"]:
                return self.start(json.loads(ask.body))
            case "GET", ["fine_tuning", "jobs"]:
                return 200, self.listed(ask.query)
            case "GET", ["fine_tuning", "jobs", job] if job in self.all:
                return 200, self.look(self.all[job])
            case "GET", ["fine_tuning", "jobs", job, "events"]:
                return 200, {"data": []}
            case "POST", ["fine_tuning", "jobs", job, "cancel"] if self.all[job]["status"] not in OVER:
                self.all[job]["status"] = "cancelled"
                return 200, self.all[job]
            case "POST", ["chat", "completions"]:
                return 200, {"choices": []}
        return 404, {"error": {"message": "not found", "code": "not_found"}}

    def new(self, kind: str, known: dict[str, Any], value: Any) -> str:
        self.ids += 1
        known[f"{kind}-{self.ids}"] = value
        return f"{kind}-{self.ids}"

    def start(self, order: dict[str, Any]) -> Answer:
        if order["training_file"] not in self.files:
            return 400, {"error": {"message": "invalid training_file", "code": "invalid_file"}}
        job = {
            "status": "validating_files",
            "created_at": int(self.clock.today()),
            "training_file": order["training_file"],
            "metadata": order["metadata"] if self.keeps_marks else None,
            "fine_tuned_model": None,
            "looks": self.course.looks,
            "worked": False,
        }
        job["id"] = self.new("ftjob", self.all, job)
        return 200, job

    def look(self, job: dict[str, Any]) -> dict[str, Any]:
        if job["status"] in OVER:
            return job
        job["status"], job["worked"] = "running", True
        if job["looks"] <= 0 and self.course.end != "hangs":
            job["status"] = self.course.end
            if job["status"] == "succeeded":
                job |= {"fine_tuned_model": f"ft:{job['id']}", "trained_tokens": 100}
            job["error"] = {"message": "the rows are bad"} if job["status"] == "failed" else None
        job["looks"] -= 1
        return job

    def listed(self, query: Any) -> dict[str, Any]:
        jobs = [j for j in self.all.values() if self.clock.today() - j["created_at"] >= self.course.list_lag][::-1]
        wanted = query.get("metadata[dspy_ft_job]")
        if self.filters and wanted:
            jobs = [job for job in jobs if (job["metadata"] or {}).get("dspy_ft_job") == wanted]
        if "after" in query:
            jobs = jobs[[job["id"] for job in jobs].index(query["after"]) + 1 :]
        return {"object": "list", "data": jobs[: self.page], "has_more": len(jobs) > self.page}


@pytest.mark.parametrize("first", range(0, SCHEDULES, 50))
def test_random_schedules(tmp_path: Path, first: int) -> None:
    for seed in range(first, first + 50):
        run_schedule(OpenAIServer, seed, tmp_path / str(seed))
