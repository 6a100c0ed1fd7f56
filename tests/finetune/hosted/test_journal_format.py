"""What an earlier version wrote down and asked a service for: a job that is paid for must be found by it again."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest

from pytest_dspy_ft.checksums import value_checksum
from pytest_dspy_ft.errors import HostedError, JobPendingError
from pytest_dspy_ft.finetune.hosted.journal import Journal, TrainingJobContext
from pytest_dspy_ft.finetune.hosted.provider import HostedProvider, HostedTrainingJob
from pytest_dspy_ft.records.build import BootstrapRecord
from tests.finetune.hosted.world import VirtualClock

ADDRESS = "https://tuning.example.org/v1"
STAGE_KEY = "5f" * 16
ROWS = [
    {"messages": [{"role": "user", "content": f"Frage {n}: größer?"}, {"role": "assistant", "content": str(n % 2)}]}
    for n in range(12)
]
SETTINGS = {"n_epochs": 2, "seed": 7, "validation_min_rows": 12, "collection": 1}

MARK = "278780a147495af9a7d1bb9d2610282b"
JOB_FILE = "job-278780a147495af9-1.json"
JOB = """{
 "address": "https://tuning.example.org/v1",
 "created": "2026-11-25T14:42:59Z",
 "fine_tuned_model": null,
 "generation": 1,
 "job": "ftjob-1",
 "model": "gpt-4o-mini",
 "number": 1,
 "order": "278780a147495af9a7d1bb9d2610282b",
 "requests": 1,
 "resumed": false,
 "rows": 11,
 "session": "session-1",
 "status": "running",
 "trained_tokens": null,
 "training_file": "file-1",
 "unsettled": false,
 "validation_file": "file-2",
 "withdrawn_files": []
}
"""
COLLECTION_FILE = "collection-abababababababab-1.json"
COLLECTION = """{
 "bootstrap": {
  "accept": null,
  "examples": [],
  "failures": [],
  "kept": 1,
  "minimum": 10,
  "predictors": [],
  "raised": 0,
  "rejected": 1,
  "remedies": [],
  "rows": {},
  "scores": [],
  "teacher": "baseline",
  "unparsed": 0
 },
 "created": "2026-11-25T14:43:00Z",
 "number": 1,
 "rebuild": false,
 "rows": [
  [
   "predict",
   {
    "messages": [
     {
      "content": "Frage 0: größer?",
      "role": "user"
     },
     {
      "content": "0",
      "role": "assistant"
     }
    ]
   }
  ]
 ],
 "session": "session-1"
}
"""
START = (
    '{"model":"gpt-4o-mini","training_file":"file-1","metadata":{"dspy_ft_job":"278780a147495af9a7d1bb9d2610282b",'
    '"dspy_ft_generation":"1","dspy_ft_stage_key":"5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f","dspy_ft_experiment":"numbers",'
    '"dspy_ft_stage":"finetuned"},"method":{"type":"supervised","supervised":{"hyperparameters":{"n_epochs":2}}},'
    '"seed":7,"suffix":"numbers-finetuned","validation_file":"file-2"}'
)


class ScriptedService:
    """Answers as the API does, with one job in whatever status; keeps the requests."""

    def __init__(self, status: str, jobs: list[dict[str, Any]] | None = None) -> None:
        self.job = {"id": "ftjob-1", "object": "fine_tuning.job", "status": status, "fine_tuned_model": "ft:tuned"}
        self.jobs = jobs or []
        self.requests: list[httpx.Request] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        match request.method, request.url.path.removeprefix("/v1"):
            case "POST", "/files":
                return httpx.Response(200, json={"id": f"file-{len(self.posted('/files'))}", "status": "processed"})
            case "GET", "/fine_tuning/jobs":
                return httpx.Response(200, json={"object": "list", "data": self.jobs, "has_more": False})
            case "GET", path if path.endswith("/events"):
                return httpx.Response(200, json={"object": "list", "data": [], "has_more": False})
        return httpx.Response(200, json=self.job)

    def posted(self, path: str) -> list[httpx.Request]:
        return [request for request in self.requests if request.method == "POST" and request.url.path == f"/v1{path}"]


def train(service: ScriptedService, folder: Path, session: str = "session-2") -> tuple[str, HostedTrainingJob]:
    with httpx.Client(transport=httpx.MockTransport(service.answer)) as http_client:
        provider = HostedProvider(clock=VirtualClock(), http_client=http_client)
        lm = dspy.LM("openai/gpt-4o-mini", api_base=ADDRESS, api_key="k", provider=provider)
        context = TrainingJobContext("numbers", "finetuned", STAGE_KEY, Journal(folder, session), seed=3, timeout=10)
        job = HostedTrainingJob()
        return provider.bound(lm, context).finetune(job, lm.model, ROWS, "chat", SETTINGS), job


def undated(text: str) -> str:
    """Without the time of day, and without the checksum, which entries of before do not have."""
    return re.sub(r' "checksum": "[0-9a-f]{64}",\n', "", re.sub(r'"created": "[^"]*"', '"created": ""', text))


def test_a_job_that_an_earlier_version_wrote_down_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / JOB_FILE).write_text(JOB, "utf-8")
    service = ScriptedService("succeeded")
    model, job = train(service, tmp_path)
    assert model == "openai/ft:tuned"
    assert job.entry is not None
    assert (job.entry.job, job.entry.resumed) == ("ftjob-1", True)
    assert [request.url.path for request in service.requests if request.method != "GET"] == ["/v1/chat/completions"]
    assert [path.name for path in tmp_path.iterdir()] == [JOB_FILE]


def test_a_request_whose_outcome_an_earlier_version_did_not_know_is_looked_for_by_its_marks(tmp_path: Path) -> None:
    entry = {**json.loads(JOB), "job": None, "status": "", "unsettled": True}
    (tmp_path / JOB_FILE).write_text(json.dumps(entry), "utf-8")
    marks = {"dspy_ft_job": MARK, "dspy_ft_generation": "1"}
    service = ScriptedService("succeeded")
    service.jobs = [{**service.job, "training_file": "file-1", "metadata": marks}]
    _, job = train(service, tmp_path)
    assert job.entry is not None
    assert job.entry.resumed
    assert [request.url.path for request in service.requests if request.method != "GET"] == ["/v1/chat/completions"]
    assert service.requests[0].url.query == f"limit=100&metadata%5Bdspy_ft_job%5D={MARK}".encode()


def test_what_is_written_down_and_sent_is_what_it_was(tmp_path: Path) -> None:
    service = ScriptedService("running")
    service.job["fine_tuned_model"] = None
    with pytest.raises(JobPendingError):
        train(service, tmp_path, session="session-1")
    assert undated((tmp_path / JOB_FILE).read_text("utf-8")) == undated(JOB)
    [start] = service.posted("/fine_tuning/jobs")
    assert start.content.decode() == START
    assert start.headers["Idempotency-Key"] == f"dspy-ft-{MARK}-1-file-1"
    training, validation = (request.content.decode() for request in service.posted("/files"))
    assert 'filename="dspy-5f5f5f5f5f5f-278780a14749-train.jsonl"' in training
    assert 'filename="dspy-5f5f5f5f5f5f-278780a14749-valid.jsonl"' in validation
    held_out = '{"messages": [{"role": "user", "content": "Frage 5: größer?"}, {"role": "assistant", "content": "1"}]}'
    assert f"\r\n\r\n{held_out}\n\r\n" in validation
    assert held_out not in training


def test_collected_rows_of_an_earlier_version_are_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / COLLECTION_FILE).write_text(COLLECTION, "utf-8")
    kept = Journal(tmp_path, "session-2").collection("ab" * 16)
    assert kept is not None
    assert [(name, dict(row)) for name, row in kept.rows] == [("predict", ROWS[0])]
    record = BootstrapRecord(teacher="baseline", accept=None, minimum=10, kept=1, rejected=1, unparsed=0, raised=0)
    assert kept.bootstrap == record
    Journal(tmp_path / "new", "session-1").add_collection("ab" * 16, record, [("predict", ROWS[0])])
    written = undated((tmp_path / "new" / COLLECTION_FILE).read_text("utf-8"))
    assert written.replace(' "footprint": null,\n', "") == undated(COLLECTION)


@pytest.mark.parametrize(
    "damage", ['"ftjob-1"->"ftjob-0"', '"rows": 11->"rows": 13', "truncated", "a folder", "a list"]
)
def test_a_damaged_entry_never_orders_a_second_job(tmp_path: Path, damage: str) -> None:
    service = ScriptedService("succeeded")
    train(service, tmp_path, session="session-1")
    path = tmp_path / JOB_FILE
    old, arrow, new = damage.partition("->")
    text = path.read_text("utf-8")
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_text(text.replace(old, new) if arrow else "[]" if damage == "a list" else text[:200], "utf-8")
    for session in ("session-2", "session-3"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(HostedError, match="delete the file"):  # as long as it lies there
                train(service, tmp_path, session=session)
        said = [str(w.message) for w in caught if "is damaged" in str(w.message)]
        assert len(said) == (1 if session == "session-2" else 0)
        assert len(service.posted("/fine_tuning/jobs")) == 1
    marks = {"dspy_ft_job": MARK, "dspy_ft_generation": "1"}
    service.jobs = [{**service.job, "training_file": "file-1", "metadata": marks}]
    assert train(service, tmp_path)[0] == "openai/ft:tuned", "found by its marks"
    assert len(service.posted("/fine_tuning/jobs")) == 1


def test_a_newer_versions_entry_is_not_taken_for_damage(tmp_path: Path) -> None:
    folder = tmp_path / STAGE_KEY
    entry = {**json.loads(JOB), "something_new": 1}
    owner = {"stage_key": STAGE_KEY, "file": JOB_FILE}
    folder.mkdir()
    (folder / JOB_FILE).write_text(json.dumps({**entry, "checksum": value_checksum(owner, entry)}), "utf-8")
    service = ScriptedService("succeeded")
    with pytest.raises(HostedError, match="another version"):
        train(service, folder)
    assert service.requests == []
    assert [path.name for path in folder.iterdir()] == [JOB_FILE]
