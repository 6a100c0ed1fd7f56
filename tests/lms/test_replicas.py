"""Several servers of one model: calls spread, servers that die or restart, processes that share no adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.lms.serving import Serving
from tests.lms.chat import Answer, Body, failure, serving
from tests.lms.model_server import ModelServer
from tests.lms.served_world import ladder, rule


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPY_CACHEDIR", str(tmp_path / "dspy_cache"))
    monkeypatch.setenv("DSPY_SERVE_API_KEY", "sk-right")
    return tmp_path


def served(*servers: ModelServer, **settings: Any) -> Serving:
    return Serving([server.address for server in servers], sleep=lambda seconds: None, **settings)


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_an_adapter_is_loaded_on_every_server_and_each_takes_calls(dialect: str) -> None:
    with (
        serving(ModelServer, dialect=dialect, rule=rule()) as a,
        serving(ModelServer, dialect=dialect, rule=rule()) as b,
    ):
        with served(a, b) as group:
            one = ladder(group)
            assert one.evaluate("tuned").score == 1.0
            assert len(a.loaded[0]) == len(b.loaded[0]) == 1
            assert min(len(a.completions), len(b.completions)) >= 1
            assert len(a.completions) + len(b.completions) == one.evaluate("tuned").n
            assert one.record().cautions == ()
        assert a.loaded == b.loaded == [{}]


def test_of_several_servers_neither_number_nor_order_nor_address_is_in_the_key() -> None:
    with serving(ModelServer, rule=rule()) as a, serving(ModelServer, rule=rule()) as b, served(a, b) as group:
        one = ladder(group)
        first = one.evaluate("tuned")
    nobody = ["http://c:1/v1", "http://d:1/v1", "http://e:1/v1"]
    for addresses in (nobody, nobody[::-1], nobody[:2]):
        again = ladder(Serving(addresses)).evaluate("tuned")
        assert again.loaded
        assert again.key == first.key
    assert Serving(["http://gpu:8000/v1", "http://gpu:8000/v1/"]).identity() == Serving("http://gpu:8000/v1").identity()


def test_one_address_alone_keeps_the_key_that_it_has_always_had() -> None:
    assert Serving("http://gpu:8000/v1").identity() == {"address": "http://gpu:8000", "model": ""}
    with_login = Serving("https://me:secret-word@gpu/team/v1#base")
    assert with_login.identity() == {"address": "https://gpu/team", "model": "base"}


def test_all_servers_have_one_base_model() -> None:
    with pytest.raises(ServingError, match="one base model, and these are named: a, b"):
        Serving(["http://x/v1#a", "http://y/v1#b"])
    with serving(ModelServer) as a, serving(ModelServer, models={"other"}) as b, served(a, b) as group:
        with pytest.raises(ServingError, match=r"one base model, and these do not: base at .*, other at "):
            ladder(group).evaluate("baseline")
        assert a.calls() == b.calls() == []
    with (
        serving(ModelServer, rule=rule()) as a,
        serving(ModelServer, rule=lambda body: "hm") as b,
        served(a, b) as group,
    ):
        one = ladder(group)
        one.evaluate("baseline")
        (caution,) = [text for text in one.record().cautions if "answer one prompt differently" in text]
        assert "another dtype, or other weights" in caution


def test_a_server_that_dies_in_the_middle_leaves_its_calls_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_dspy_ft.lms.replica.DOWN_SECONDS", 600.0)
    with serving(ModelServer, rule=rule()) as a, serving(ModelServer, rule=rule()) as b, served(a, b) as group:

        def dies(body: Body, number: int) -> Answer | None:
            b.dead = b.dead or len(b.completions) > 1
            return (0, {}, {}) if b.dead else None

        b.faults = dies
        one = ladder(group)
        result = one.evaluate("tuned", on="train")
        assert (result.score, result.errors) == (1.0, 0)
        assert b.dead
        (said,) = [text for text in one.record().cautions if "stopped answering in the middle" in text]
        assert b.address in said
        asked = len(b.spoken_to)
        assert one.evaluate("tuned", on="test").score == 1.0
        assert len(b.spoken_to) == asked, "it is left alone for a while"

        def back(body: Body, number: int) -> Answer | None:
            return None

        b.dead, b.faults = False, back
        group._replicas.servers[1].down_until = 0.001
        assert one.evaluate("tuned", on="dev").score == 1.0
        assert len(b.spoken_to) > asked, "and asked again later"


def test_a_restarted_server_is_given_its_adapter_again() -> None:
    with serving(ModelServer, rule=rule()) as a, served(a) as group:

        def restarts(body: Body, number: int) -> Answer | None:
            if len(a.completions) == 2:
                a.restart()
            return None

        a.faults = restarts
        one = ladder(group)
        result = one.evaluate("tuned")
        assert (result.score, result.errors) == (1.0, 0)
        assert any("loaded again" in text for text in one.record().cautions)
        assert len(a.calls("/v1/load_lora_adapter")) in (2, 3)
    assert a.loaded == [{}]


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_every_process_of_a_server_is_given_the_adapter(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_dspy_ft.lms.replicas.CLOSE_SECONDS", 60.0)  # on a busy machine, too
    with serving(ModelServer, dialect=dialect, rule=rule(), processes=3) as a:
        with served(a) as group:
            one = ladder(group)
            assert one.evaluate("tuned").score == 1.0
            assert all(len(process) == 1 for process in a.loaded)
            (said,) = one.record().cautions
            assert "--api-server-count" in said
            assert "--dp-size" in said
        assert a.loaded == [{}, {}, {}]


def test_an_adapter_that_not_all_processes_take_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_dspy_ft.lms.replica.LOADS", 4)
    with serving(ModelServer, rule=rule(), processes=2, sticky=True) as a, served(a) as group:
        one = ladder(group)
        with pytest.raises(ServingError, match=r"asked 4 times to load.*--api-server-count above 1"):
            one.evaluate("tuned")
        assert a.completions == []


def test_an_adapter_that_is_lost_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_dspy_ft.lms.replicas.AGAIN", 2)
    with serving(ModelServer, rule=rule()) as a, served(a) as group:

        def forgets(body: Body, number: int) -> Answer | None:
            if "messages" in body and not body.get("logprobs") and body["model"] != "base":
                return failure(400, f"LoRA adapter {body['model']} has never been loaded.")
            return None

        a.faults = forgets
        one = ladder(group)
        with pytest.raises(ServingError, match=r"loaded the adapter .* 2 times and does not know it"):
            one.evaluate("tuned")


def test_an_overloaded_server_leaves_a_call_to_another() -> None:
    with serving(ModelServer, rule=rule()) as a, serving(ModelServer, rule=rule()) as b, served(a, b) as group:
        a.faults = lambda body, number: failure(429) if "messages" in body and not body.get("logprobs") else None
        result = ladder(group).evaluate("tuned")
        assert (result.score, result.errors) == (1.0, 0)
        assert len(b.completions) == result.n
