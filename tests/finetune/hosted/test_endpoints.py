"""Endpoints that cost by the hour: started when a model is called, released when it is not, whatever happens."""

from __future__ import annotations

import random
import sys
import threading
import types
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Ladder, Stage
from pytest_dspy_ft.errors import EndpointWarning, HostedError
from pytest_dspy_ft.finetune.hosted import registry
from pytest_dspy_ft.finetune.hosted.endpoints import Endpoints
from pytest_dspy_ft.finetune.hosted.provider import HostedProvider
from tests.finetune.hosted.hourly import HourlyServer, HourlyService
from tests.finetune.hosted.schedules import SCHEDULES, Answer, Ask, Course, Network, Time, abandon, run_schedule
from tests.finetune.hosted.server import serving
from tests.finetune.hosted.world import Killed, right
from tests.finetune.programs import parity
from tests.scripted import CHAT, numbers, reply

ENDPOINT = {"service": "hourly", "address": "http://hourly.test", "job": "job-1", "model": "m", "name": "dspy-ft-x"}


def calm(seed: int = 0) -> Course:
    course = Course(seed)
    course.end, course.rate, course.looks, course.list_lag = "succeeded", 0.0, 1, 0.0
    return course


@pytest.mark.parametrize("first", range(0, SCHEDULES, 50))
def test_random_schedules(tmp_path: Path, first: int) -> None:
    for seed in range(first, first + 50):
        run_schedule(HourlyServer, seed, tmp_path / str(seed))


def test_it_is_used_by_many_and_released_when_idle(tmp_path: Path) -> None:
    clock = Time()
    server = HourlyServer(calm(), clock)
    service = server.service(Network(server, calm(), clock))
    endpoints = Endpoints(tmp_path, clock=clock, services=lambda lm, kwargs: service)
    with endpoints.use(None, ENDPOINT), endpoints.use(None, ENDPOINT):
        clock.sleep(1000, threading.Event())
        endpoints.release_idle()
        assert len(server.up) == 1
    endpoints.release_idle()
    assert len(server.up) == 1, "it may be called again any moment"
    clock.sleep(200, threading.Event())
    endpoints.release_idle()
    assert not server.up
    with endpoints.use(None, ENDPOINT):
        assert len(server.up) == 1
    endpoints.close()
    assert (server.up, len(server.ever), list(tmp_path.iterdir())) == ({}, 2, [])


def test_an_endpoint_in_use_is_left_alone_and_one_of_a_killed_session_is_released(tmp_path: Path) -> None:
    clock = Time()
    server = HourlyServer(calm(), clock)

    def services(kill: Any = None) -> Any:
        return lambda lm, kwargs: server.service(Network(server, calm(), clock, kill))

    one, other = (Endpoints(tmp_path, clock=clock, services=services()) for _ in range(2))
    with one.use(None, ENDPOINT):
        other.release_left([None])
        assert len(server.up) == 1
    abandon(one)  # the process is gone
    other.release_left([None])
    assert not server.up
    killed = Endpoints(tmp_path, clock=clock, services=services((0, True)))
    with pytest.raises(Killed), killed.use(None, ENDPOINT):
        raise AssertionError("it was killed when it had asked for it")
    assert len(server.up) == 1
    with pytest.warns(EndpointWarning, match="no LM here has its key: stop it there"):
        other.release_left([])
    assert len(server.up) == 1
    other.release_left([None])
    assert not server.up


def test_what_cannot_be_released_is_said_and_tried_again_by_the_next_session(tmp_path: Path) -> None:
    clock = Time()
    server = HourlyServer(calm(), clock)
    network = Network(server, calm(), clock)
    endpoints = Endpoints(tmp_path, clock=clock, services=lambda lm, kwargs: server.service(network))
    with endpoints.use(None, ENDPOINT):
        pass
    network.ask = lambda ask: (503, b"", {})  # type: ignore[method-assign]
    with pytest.warns(EndpointWarning, match="may still run, and cost: releasing endpoint dspy-ft-x-"):
        endpoints.close()
    after = Endpoints(tmp_path, clock=clock, services=lambda lm, kw: server.service(Network(server, calm(), clock)))
    after.release_left([None])
    assert not server.up
    assert not list(tmp_path.glob("*.json"))


# --- by way of a ladder -----------------------------------------------------------------------------------------------


@pytest.fixture
def hourly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HourlyServer:
    """The service, installed as another package would bring it."""
    clock = Time()
    server = HourlyServer(calm(), clock)
    vendor = types.ModuleType("hourly_vendor")
    vendor.claims = lambda model, address: model.startswith("hourly/")  # type: ignore[attr-defined]
    vendor.service = lambda lm, http_client=None: HourlyService(  # type: ignore[attr-defined]
        Network(server, calm(), clock), server.address
    )
    monkeypatch.setitem(sys.modules, "hourly_vendor", vendor)
    package = tmp_path / "site" / "hourly-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: hourly\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[{registry.GROUP}]\nhourly = hourly_vendor\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("HOURLY_KEY", "sk-planted-1234567890")
    monkeypatch.setattr("pytest_dspy_ft.finetune.hosted.endpoints.Clock", lambda: clock)
    registry._vendors.cache_clear()
    return server


def experiment(clock: Time) -> Experiment:
    provider = HostedProvider(clock=clock, jitter=random.Random(0))
    lm = dspy.LM("hourly/base", provider=provider, cache=False, api_key="k")
    stages = [Stage("finetuned", LabeledFinetune(metric=right))]
    data = Dataset.from_examples(numbers(40))
    program = dspy.Predict("text -> label")
    return Experiment("numbers", program=program, dataset=data, metric=right, lm=lm, adapter=CHAT, stages=stages)


def ladder(store: Path, clock: Time) -> Ladder:
    return Ladder(experiment(clock), store)


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    return reply(label=parity(messages[-1]["content"].split("[[ ## text ## ]]")[-1].split()[0]))


def test_a_stage_is_trained_there_kept_and_answers_only_while_it_is_asked(tmp_path: Path, hourly: HourlyServer) -> None:
    with serving(answer=answer) as service:
        hourly.address = service.address
        with ladder(tmp_path / "store", hourly.clock) as first:
            built = first.build("finetuned")
            assert (built.record.lm, hourly.ever) == ("hourly/tuned-job-1", [])
            first.evaluate("finetuned", "dev")
            assert len(hourly.up) == 1
        assert not hourly.up, "the ladder is closed"
        with ladder(tmp_path / "store", hourly.clock) as second:
            assert second.build("finetuned").record.status == "loaded"
            assert second.evaluate("finetuned", "dev").loaded
            assert len(hourly.ever) == 1, "nothing is called, nothing is started"
            second.evaluate("finetuned", "train")
            assert set(service.asked) == {"tuned-job-1"}
        assert (len(hourly.ever), hourly.up, len(hourly.all)) == (2, {}, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_it_is_released_when_an_evaluation_ends_badly(
    tmp_path: Path, hourly: HourlyServer, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        assert hourly.up
        raise error

    monkeypatch.setattr("pytest_dspy_ft.ladder.measuring.evaluate_repeatedly", fails)
    with serving(answer=answer) as service:
        hourly.address = service.address
        with pytest.raises(error), ladder(tmp_path / "store", hourly.clock) as one:
            one.evaluate("finetuned", "dev")
    assert not hourly.up


SESSION = """
    import pytest
    from tests.finetune.hosted import hourly, test_endpoints

    @pytest.fixture
    def dspy_experiment():
        return test_endpoints.experiment(hourly.MADE[-1].clock)

    @pytest.mark.dspy_gate("finetuned >= 90%")
    def test_gate():
        assert len(hourly.MADE[-1].up) == 1

    def test_that_fails():
        assert len(hourly.MADE[-1].up) == 0, "it is still up"
"""


def test_a_pytest_session_releases_it_at_its_end(pytester: pytest.Pytester, hourly: HourlyServer) -> None:
    pytester.makepyfile(SESSION)
    with serving(answer=answer) as service:
        hourly.address = service.address
        arguments = ("--dspy-store=store", "--dspy-stage=all", "-p", "no:cacheprovider")
        result = pytester.runpytest_inprocess(*arguments)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*it is still up*"])
    assert (len(hourly.ever), hourly.up) == (1, {})


def test_an_endpoint_that_does_not_come_up_is_an_error_and_is_released(tmp_path: Path, hourly: HourlyServer) -> None:
    original = hourly.answer

    def never_ready(ask: Ask) -> Answer:
        return (200, {"ready": False}) if ask.path == "/endpoints" and original(ask) else original(ask)

    hourly.answer = never_ready  # type: ignore[method-assign]
    service = hourly.service(Network(hourly, calm(), hourly.clock))
    endpoints = Endpoints(tmp_path / "e", clock=hourly.clock, services=lambda lm, kwargs: service)
    words = "does not answer after 15 min, and was released"
    with pytest.raises(HostedError, match=words), endpoints.use(None, ENDPOINT):
        raise AssertionError("it does not come up")
    assert (len(hourly.ever), hourly.up) == (1, {})
