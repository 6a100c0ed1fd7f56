"""Whatever networks, vendors and kills do: the right result or one clear error, one job at most, nothing lost."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.errors import DspyFtError, HostedError, JobPendingError
from tests.finetune.hosted.http_faults import KEY, Call, Fault
from tests.finetune.hosted.server import FineTuningService, serving
from tests.finetune.hosted.world import Killed, VirtualClock, build, close_connections, hosted_lm


def only_job(service: FineTuningService) -> Any:
    [job] = service.started()
    return job


def check(built: Any, service: FineTuningService) -> None:
    """The stage runs on the model of the one job that there was."""
    job = only_job(service)
    assert job.shown["status"] == "succeeded"
    assert built.program.predictors()[0].lm.model == f"openai/{job.shown['fine_tuned_model']}"
    [training] = built.record.training
    assert training.job == job.id
    assert training.trained_tokens == job.shown["trained_tokens"]


# --- one by one -----------------------------------------------------------------------------------------------------

FAULTS = {
    "429": Fault("status", 429, {"Retry-After": "7"}, {"message": "slow down", "code": "rate_limit_exceeded"}),
    "408": Fault("status", 408),
    "409": Fault("status", 409),
    "500": Fault("status", 500),
    "503": Fault("status", 503),
    "failed": Fault("failed"),
    "lost": Fault("lost"),
    "drop": Fault("drop"),
    "half": Fault("half"),
    "late": Fault("late", seconds=0.05),
    "slow": Fault("slow", seconds=0.5),
    "garbage": Fault("garbage"),
    "hollow": Fault("hollow"),
}
PLACES = {
    "upload": lambda call: call.method == "POST" and call.path == "/files",
    "start": lambda call: call.starts_a_job,
    "list": lambda call: call.method == "GET" and call.path == "/fine_tuning/jobs",
    "look": lambda call: call.method == "GET" and call.path.startswith("/fine_tuning/jobs/ftjob"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_changes_nothing(tmp_path: Path, fault: str, place: str) -> None:
    left = [2]

    def faults(call: Call) -> Fault | None:
        if PLACES[place](call) and left[0]:
            left[0] -= 1
            return FAULTS[fault]
        return None

    with serving(faults=faults) as service:
        check(build(tmp_path / "store", hosted_lm(service, timeout=0.25)), service)
        service.settle()
        only_job(service)
    assert left[0] < 2, "the fault was met (once, where it was carried out nevertheless)"


def test_a_storm_is_waited_out_for_as_long_as_the_service_asks(tmp_path: Path) -> None:
    clock = VirtualClock()
    with serving(faults=lambda call: FAULTS["429"] if call.number < 6 else None) as service:
        check(build(tmp_path / "store", hosted_lm(service, clock=clock)), service)
    assert [7.0 <= pause <= 7.7 for pause in clock.slept[:6]] == [True] * 6


@pytest.mark.parametrize("status", [400, 401, 403, 404])
@pytest.mark.parametrize("place", ["upload", "start"])
def test_a_refusal_is_not_repeated(tmp_path: Path, status: int, place: str) -> None:
    refusal = Fault("status", status, error={"message": "not like this", "code": "why_not", "param": "model"})
    met = []

    def faults(call: Call) -> Fault | None:
        if PLACES[place](call):
            met.append(call)
            return refusal
        return None

    with serving(faults=faults) as service:
        with pytest.raises(HostedError, match=f"HTTP {status}, code why_not, param model: not like this; ") as caught:
            build(tmp_path / "store", hosted_lm(service))
        assert "stage 'finetuned'" in str(caught.value)
        assert len(met) == 1
        assert not service.started()
        service.faults = lambda call: None
        check(build(tmp_path / "store", hosted_lm(service)), service)


def test_an_empty_account_is_no_rate_limit(tmp_path: Path) -> None:
    empty = Fault("status", 429, error={"message": "exceeded your quota", "code": "insufficient_quota"})
    clock = VirtualClock()
    with (
        serving(faults=lambda call: empty) as service,
        pytest.raises(HostedError, match="no credit left"),
    ):
        build(tmp_path / "store", hosted_lm(service, clock=clock))
    assert not clock.slept


def test_a_service_that_asks_for_hours_is_not_waited_for(tmp_path: Path) -> None:
    clock = VirtualClock()
    busy = Fault("status", 429, {"Retry-After": "7200"}, {"message": "come back later"})
    with serving(faults=lambda call: busy) as service, pytest.raises(HostedError, match="asks to wait 2 h"):
        build(tmp_path / "store", hosted_lm(service, clock=clock))
    assert not clock.slept


@pytest.mark.parametrize("place", PLACES)
def test_a_service_that_stays_down_is_given_up_with_words_and_found_again_later(tmp_path: Path, place: str) -> None:
    with serving(faults=lambda call: FAULTS["503"] if PLACES[place](call) else None) as service:
        with pytest.raises(HostedError, match=r"HTTP 503.*out of order; it was tried again.*run again later"):
            build(tmp_path / "store", hosted_lm(service))
        service.faults = lambda call: None
        check(build(tmp_path / "store", hosted_lm(service)), service)


def test_a_failed_job_shows_code_message_and_parameter(tmp_path: Path) -> None:
    error = {"code": "exceeded_quota", "message": "Row 3 is empty", "param": "training_file"}
    with serving(statuses=("running", "failed")) as service:
        service.error = error
        for _ in range(2):
            with pytest.raises(HostedError) as caught:
                build(tmp_path / "store", hosted_lm(service))
            for words in ("Row 3 is empty", "exceeded_quota", "training_file", "--dspy-rebuild=finetuned", "ftjob-"):
                assert words in str(caught.value)
            only_job(service)
        service.statuses = ("succeeded",)
        built = build(tmp_path / "store", hosted_lm(service), ladder={"rebuild": ["finetuned"]})
        failed, succeeded = service.started()
        assert built.record.training[0].job == succeeded.id
        assert failed.shown["metadata"]["dspy_ft_job"] == succeeded.shown["metadata"]["dspy_ft_job"]


def test_a_job_cancelled_elsewhere_is_an_error_that_says_so(tmp_path: Path) -> None:
    with serving(statuses=("running", "cancelled")) as service:
        with pytest.raises(HostedError, match=r"was cancelled there; --dspy-rebuild=finetuned"):
            build(tmp_path / "store", hosted_lm(service))
        only_job(service)


def test_a_job_that_hangs_is_left_running_and_found_by_the_next_session(tmp_path: Path) -> None:
    with serving(statuses=("running",)) as service:
        lm = hosted_lm(service)
        with pytest.raises(JobPendingError, match=r"still 'running' after .* goes on at .* same command finds it") as e:
            build(tmp_path / "store", lm, ladder={"job_timeout": 3600})
        job = only_job(service)
        assert f"/fine_tuning/jobs/{job.id}/cancel" in str(e.value)
        assert job.shown["status"] == "running"
        job.statuses = ["succeeded"]
        built = build(tmp_path / "store", hosted_lm(service))
        check(built, service)
        assert built.record.training[0].resumed


def test_every_status_is_lived_with(tmp_path: Path) -> None:
    statuses = ("validating_files", "queued", "running", "pausing", "paused", "resuming", "no_such_status", "running")
    with serving(statuses=(*statuses, "succeeded")) as service:
        check(build(tmp_path / "store", hosted_lm(service)), service)


# --- killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before_it_is_sent", "after_the_reply"])
@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("keeps_metadata", [True, False], ids=["marks", "no_marks"])
def test_killed_at_each_request(tmp_path: Path, at: int, after: bool, keeps_metadata: bool) -> None:
    with serving(keeps_metadata=keeps_metadata) as service:
        try:
            build(tmp_path / "store", hosted_lm(service, kill_at=at, kill_after=after))
        except Killed:
            pass
        else:
            assert at > 8, "there were fewer requests than that"
        check(build(tmp_path / "store", hosted_lm(service)), service)


# --- mixed ----------------------------------------------------------------------------------------------------------

SCHEDULES = 40
"""Over real connections, with whole ladders; ``test_schedules.py`` runs more of them in memory."""
ENDS = {
    "succeeded": "",
    "failed": "failed: the rows are bad, code bad_rows",
    "cancelled": "was cancelled there",
    "hangs": "goes on at",
}


class Schedule:
    """One random course of events."""

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        self.end = rng.choices(list(ENDS), (7, 1, 1, 1))[0]
        self.rate = rng.choice((0.0, 0.1, 0.2, 0.35))
        self.kinds = rng.sample([k for k in FAULTS if k != "slow"], rng.randint(1, 6))
        self.storm = 0
        self.kills = [(rng.randint(0, 12), rng.random() < 0.5) for _ in range(rng.choice((0, 0, 1, 2, 4)))]
        middle = rng.choices(("queued", "running", "paused", "pausing", "strange"), k=rng.randint(0, 5))
        self.service = {
            "statuses": ("validating_files", *middle, "running" if self.end == "hangs" else self.end),
            "keeps_metadata": rng.random() < 0.8,
            "filters": rng.random() < 0.7,
            "idempotent": rng.random() < 0.3,
            "faults": self.fault,
        }
        self.calm = False

    def fault(self, call: Call) -> Fault | None:
        if self.calm:
            return None
        if self.storm:
            self.storm -= 1
            return FAULTS["429"]
        # The request that starts the job is where a mistake would cost money.
        if self.random.random() < self.rate * (2 if call.starts_a_job else 1):
            kind = self.random.choice(self.kinds)
            if kind == "429":
                self.storm = self.random.choice((1, 3, 6, 15))
            return FAULTS[kind]
        return None


@pytest.mark.parametrize("first", range(0, SCHEDULES, 20))
def test_random_schedules(tmp_path: Path, first: int) -> None:
    for seed in range(first, first + 20):
        run_schedule(Schedule(seed), tmp_path / str(seed), seed)
        close_connections()


def run_schedule(schedule: Schedule, store: Path, seed: int) -> None:
    told = f"schedule {seed}: {schedule.end}, {schedule.kinds} at {schedule.rate}, kills {schedule.kills}"
    with serving(**schedule.service) as service:
        service.error = {"code": "bad_rows", "message": "the rows are bad", "param": None}
        outcome: Any = None
        for session, (at, after) in enumerate([*schedule.kills, (None, False), (None, False)]):
            schedule.calm = session == len(schedule.kills) + 1  # whatever happened, it finds what is there
            if schedule.calm and outcome is not None and not isinstance(outcome, Exception):
                break
            lm = hosted_lm(service, kill_at=at, kill_after=after, seed=seed + session, timeout=0.5)
            try:
                outcome = build(store, lm, ladder={"job_timeout": 400})
            except Killed:
                continue
            except DspyFtError as error:
                outcome = error
                text = str(error)
                assert "stage 'finetuned'" in text, told
                assert KEY not in text, told
                clear = ("run again", "failed: the rows are bad", "was cancelled there", "goes on at", "mend what it")
                assert any(words in text for words in clear), f"{told}: {text}"
            service.settle()
            assert len(service.started()) <= 1, told
        service.settle()
        assert len(service.started()) == 1, told
        if schedule.end == "succeeded":
            assert not isinstance(outcome, Exception), f"{told}: {outcome}"
            check(outcome, service)
        else:
            assert isinstance(outcome, HostedError), told
            assert ENDS[schedule.end] in str(outcome), f"{told}: {outcome}"


def test_nothing_written_down_holds_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("dspy").setLevel(logging.DEBUG)

    def faults(call: Call) -> Fault | None:
        if call.number == 2:  # a service that echoes what it was sent
            return Fault("status", 500, error={"message": f"bad token {KEY}", "code": KEY})
        return None

    with serving(faults=faults) as service:
        check(build(tmp_path / "store", hosted_lm(service)), service)
        wrong = "sk-wrong-and-secret-0987654321"
        with pytest.raises(HostedError) as caught:
            build(tmp_path / "other", hosted_lm(service, api_key=wrong))
        assert "401" in str(caught.value)
        assert "api_key of the LM" in str(caught.value)
        texts = [str(caught.value), repr(caught.value), caplog.text, *service.seen]
        texts += [path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file()]
        assert len(texts) > 10
        for secret in (KEY, wrong):
            assert not [text for text in texts if secret in text]
        assert caught.value.__cause__ is None, "a cause would be printed with the request in it"
    entries = [json.loads(path.read_text()) for path in (tmp_path / "store" / "jobs").rglob("job-*.json")]
    assert [entry["address"] for entry in entries] == [service.address]
