"""Random courses of events at each service: one paid job at most, nothing lost, nothing left running."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.errors import DspyFtError, HostedError
from pytest_dspy_ft.finetune.hosted.port import Deployment, NotServedYet, RemoteJob, Served
from pytest_dspy_ft.finetune.hosted.retries import RetryingCaller
from pytest_dspy_ft.finetune.hosted.tinker_api.batches import order_of_rows
from pytest_dspy_ft.finetune.hosted.tinker_api.service import TinkerService as TinkerAdapter
from pytest_dspy_ft.lms.patience import Backoff
from tests.finetune.hosted.dialect_servers import serving_crusoe, serving_nebius
from tests.finetune.hosted.http_faults import KEY, Call, Fault
from tests.finetune.hosted.tinker_direct import DirectSession
from tests.finetune.hosted.tinker_server import serving_tinker
from tests.finetune.hosted.together_server import serving_together
from tests.finetune.hosted.world import Killed, VirtualClock, build, close_connections, hosted_lm

SCHEDULES, EACH = 200, int(__import__("os").environ.get("EACH", "50"))
FAULTS = {
    "429": Fault("status", 429, {"Retry-After": "7"}, {"message": "slow down", "code": "rate_limit_exceeded"}),
    "408": Fault("status", 408),
    "500": Fault("status", 500),
    "502": Fault("status", 502),
    "failed": Fault("failed"),
    "lost": Fault("lost"),
    "drop": Fault("drop"),
    "half": Fault("half"),
    "late": Fault("late", seconds=0.02),
    "garbage": Fault("garbage"),
    "hollow": Fault("hollow"),
}
CLEAR = ("run again", "failed: the rows are bad", "was cancelled", "goes on at", "mend what it", "asks again")


class Weather:
    """The faults of one course of events, more of them where a mistake would cost money."""

    def __init__(self, seed: int, costly: Callable[[Call], bool]) -> None:
        self.random = rng = random.Random(seed)
        self.rate = rng.choice((0.0, 0.1, 0.2, 0.35))
        self.kinds = rng.sample(list(FAULTS), rng.randint(1, 6))
        self.kills = [(rng.randint(0, 16), rng.random() < 0.5) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
        self.storm, self.calm = 0, False
        self._costly = costly

    def __call__(self, call: Call) -> Fault | None:
        if self.calm:
            return None
        if self.storm:
            self.storm -= 1
            return FAULTS["429"]
        if self.random.random() < self.rate * (2 if self._costly(call) else 1):
            kind = self.random.choice(self.kinds)
            self.storm = self.random.choice((1, 3, 6, 15)) if kind == "429" else 0
            return FAULTS[kind]
        return None


def sessions(
    weather: Weather, service: Any, session: Callable[[int | None, bool, int], Any], told: str
) -> Any:
    """One session after the other, killed as the weather says; the last one in calm."""
    outcome: Any = None
    plans = [*weather.kills, (None, False), (None, False)]
    for number, (at, after) in enumerate(plans):
        weather.calm = number == len(plans) - 1
        if weather.calm and outcome is not None and not isinstance(outcome, Exception):
            break
        try:
            outcome = session(at, after, number)
        except Killed:
            continue
        except DspyFtError as error:
            outcome, text = error, str(error)
            assert KEY not in text, told
            assert any(words in text for words in CLEAR), f"{told}: {text}"
        service.settle()
    return outcome


# --- services that drive their jobs themselves ----------------------------------------------------------------------

ENDS = {"succeeded": "", "failed": "failed: the rows are bad", "cancelled": "was cancelled there", "hangs": "goes on at"}


def openai_like(serving: Any, name: str) -> Any:
    def serve(end: str, rng: random.Random) -> tuple[Any, Callable[..., Any]]:
        statuses = ("queued", "running", "running" if end == "hangs" else end)
        service = serving(statuses=statuses, idempotent=rng.random() < 0.3, keeps_metadata=rng.random() < 0.3)
        return service, lambda served, **more: (hosted_lm(served, **more), {"service": name})

    return serve


def together(end: str, rng: random.Random) -> tuple[Any, Callable[..., Any]]:
    words = {"succeeded": "completed", "failed": "error", "hangs": "running"}
    statuses = ("queued", "running", "compressing", words.get(end, end))
    service = serving_together(statuses=statuses, listed_after=rng.choice((0, 0, 1, 3)))
    lm = {"model": "together_ai/meta/small", "api_key": KEY}
    return service, lambda served, **more: (hosted_lm(None, api_base=served.address, **lm, **more), {})


SHAPES = {
    "nebius": openai_like(serving_nebius, "nebius"),
    "crusoe": openai_like(serving_crusoe, "crusoe"),
    "together": together,
}


def starts_a_job(call: Call) -> bool:
    return call.method == "POST" and call.path in ("/fine_tuning/jobs", "/v1/fine-tunes")


@pytest.mark.parametrize("first", range(0, SCHEDULES, EACH))
@pytest.mark.parametrize("shape", SHAPES)
def test_jobs_are_paid_once(tmp_path: Path, shape: str, first: int) -> None:
    if shape == "together":
        pytest.importorskip("together")
    for seed in range(first, first + EACH):
        rng = random.Random(-seed)
        end = rng.choices(list(ENDS), (7, 1, 1, 1))[0]
        weather = Weather(seed, starts_a_job)
        told = f"{shape} {seed}: {end}, {weather.kinds} at {weather.rate}, kills {weather.kills}"
        serving, lm_of = SHAPES[shape](end, rng)
        with serving as service:
            service.faults = weather
            service.error = "the rows are bad" if shape == "together" else {"message": "the rows are bad"}

            def session(at: int | None, after: bool, number: int) -> Any:
                lm, settings = lm_of(service, kill_at=at, kill_after=after, seed=number, timeout=0.5)  # noqa: B023
                built = build(
                    tmp_path / str(seed),  # noqa: B023
                    lm,
                    train_kwargs=settings,
                    ladder={"job_timeout": 400},
                )
                close_connections()
                return built

            outcome = sessions(weather, service, session, told)
            assert len(service.started()) == 1, told
            if end == "succeeded":
                assert not isinstance(outcome, Exception), f"{told}: {outcome}"
                assert outcome.record.training[0].job == service.started()[0].shown["id"], told
            else:
                assert isinstance(outcome, HostedError), told
                assert ENDS[end] in str(outcome), f"{told}: {outcome}"
        close_connections()


# --- endpoints that cost by the hour --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, SCHEDULES, EACH))
def test_no_endpoint_is_left_running(first: int) -> None:
    """Whatever happened while it was asked for, also by a session that was killed: its name is enough to release it."""
    pytest.importorskip("together")
    from pytest_dspy_ft.finetune.hosted.together_api.service import TogetherService

    for seed in range(first, first + EACH):
        rng = random.Random(-seed)
        weather = Weather(seed, lambda call: call.method in ("POST", "DELETE"))
        states = (*["PROVISIONING"] * rng.randint(0, 3), rng.choice(("READY", "READY", "FAILED", "STOPPED", "SCALING")))
        told = f"endpoint {seed}: {states}, {weather.kinds} at {weather.rate}, kills {weather.kills}"
        with serving_together(states=states, listed_after=rng.choice((0, 0, 1, 2)), faults=weather) as service:
            service._create(body=b'{"model": "m", "training_file": null}')
            [job] = service.started()
            service._finish(job, "completed")
            result = RemoteJob(job.shown["id"], "succeeded", model=job.shown["model_output_name"])
            served = False
            for number, (at, after) in enumerate([*weather.kills, (None, False)]):
                lm = hosted_lm(
                    None,
                    model="together_ai/m",
                    api_base=service.address,
                    api_key=KEY,
                    kill_at=at,
                    kill_after=after,
                    timeout=0.5,
                )
                adapter = TogetherService(lm, lm.provider._http_client)
                call = RetryingCaller(
                    adapter, VirtualClock(), random.Random(number), threading.Event(), Backoff(rounds=9, first=1.0)
                )
                try:
                    for _ in range(6):
                        try:
                            call("serving", lambda: adapter.serve(result, Deployment("dspy-ft-x")))  # noqa: B023
                            served = True
                            break
                        except NotServedYet:
                            continue
                except (Killed, HostedError):
                    pass
                close_connections()
            weather.calm = True
            service.settle()
            lm = hosted_lm(None, model="together_ai/m", api_base=service.address, api_key=KEY)
            adapter = TogetherService(lm, lm.provider._http_client)
            call = RetryingCaller(adapter, VirtualClock(), rng, threading.Event(), Backoff(rounds=9, first=1.0))
            call("releasing", lambda: adapter.release(Served("", release="dspy-ft-x")))  # noqa: B023
            assert not service.running(), told
            assert not service.endpoints, told
            assert served or states[-1] != "READY" or weather.rate > 0 or weather.kills, told
        close_connections()


# --- a loop that is driven from here --------------------------------------------------------------------------------

SAVE_EVERY = 2


@pytest.mark.parametrize("first", range(0, SCHEDULES, EACH))
def test_steps_are_paid_once_but_for_the_last_piece(
    tmp_path: Path, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"service": "tinker", "n_epochs": 2, "batch_size": 4, "save_every": SAVE_EVERY}
    orders: list[Any] = []
    monkeypatch.setattr("pytest_dspy_ft.finetune.hosted.tinker_api.service.vendor_client", lambda *names: None)
    monkeypatch.setattr(
        "pytest_dspy_ft.finetune.hosted.tinker_api.service.order_of_rows",
        lambda order: (orders.append(order), order_of_rows(order))[1],
    )
    for seed in range(first, first + EACH):
        rng = random.Random(seed)
        rate, kills = rng.choice((0.0, 0.05, 0.15)), [rng.randint(0, 30) for _ in range(rng.choice((0, 1, 2, 3)))]
        told, failures, calm = f"tinker {seed}: {rate}, kills {kills}", 0, False

        def fault(name: str) -> str | None:
            nonlocal failures
            if calm or rng.random() >= rate:  # noqa: B023
                return None
            failures += 1
            return rng.choice(("lost", "drop"))  # noqa: B023

        with serving_tinker(listed_after=rng.choice((0, 0, 1, 2))) as service:
            outcome: Any = None
            for at in [*kills, None, None]:
                calm = at is None and outcome is not None
                if calm and not isinstance(outcome, Exception):
                    break
                session = DirectSession(service, fault, at, rng.random() < 0.5)
                monkeypatch.setattr(TinkerAdapter, "connect", staticmethod(lambda *where: session))  # noqa: B023
                lm = hosted_lm(None, model="openai/small", api_base=service.address, api_key=f"tml-{KEY}")
                try:
                    outcome = build(tmp_path / str(seed), lm, train_kwargs=settings)
                except Killed:
                    continue
                except DspyFtError as error:
                    outcome = error
                    assert KEY not in str(error), told
            assert not isinstance(outcome, Exception), f"{told}: {outcome}"
            model = outcome.program.predictors()[0].lm.model.removeprefix("openai/")
            assert model in service.sampled(), told
            seen, steps = service.states[model]["seen"], order_of_rows(orders[-1])
            assert len(seen) == len(steps), f"{told}: steps were lost or made twice"
            assert len({str(batch) for batch in seen}) == len(seen), told
            again = (len(kills) + failures) * SAVE_EVERY
            assert service.paid <= len(steps) + again, f"{told}: {service.paid} passes for {len(steps)} steps"
        close_connections()
