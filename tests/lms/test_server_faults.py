"""What goes wrong with servers, in words; keys that go to nobody else; adapters that are unloaded come what may."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.lms.serving import Serving
from pytest_dspy_ft.store.loaded_adapters import LoadedAdapters
from pytest_dspy_ft.store.store import Store
from tests.lms.chat import Answer, Body, failure, serving
from tests.lms.model_server import ModelServer
from tests.lms.served_world import ladder, rule

ADMIN = "admin-key-of-sglang"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPY_CACHEDIR", str(tmp_path / "dspy_cache"))
    monkeypatch.setenv("DSPY_SERVE_API_KEY", "sk-right")
    return tmp_path


@contextlib.contextmanager
def server(**settings: Any) -> Iterator[tuple[ModelServer, Serving]]:
    pauses: list[float] = []
    with serving(ModelServer, **{"rule": rule(), **settings}) as state:
        with Serving(state.address, sleep=pauses.append) as group:
            yield state, group
        assert not pauses or pauses == sorted(pauses)


def refusal(group: Serving) -> str:
    one = ladder(group)
    one.build("tuned")
    with pytest.raises(ServingError) as caught:
        one.evaluate("tuned")
    return str(caught.value)


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_the_admin_key_loads_and_unloads_and_goes_nowhere_else(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPY_SERVE_ADMIN_KEY", ADMIN)
    with server(dialect=dialect, admin_keys=frozenset({ADMIN})) as (state, group):
        assert ladder(group).evaluate("tuned").score == 1.0
    assert state.loaded == [{}]
    for path, authorization in state.spoken_to:
        assert authorization == f"Bearer {ADMIN if 'lora' in path else 'sk-right'}"
    assert not [file for file in Path("store").rglob("*.*") if file.is_file() and ADMIN in file.read_text("latin-1")]


def test_a_server_that_wants_an_admin_key_says_which_variable() -> None:
    with server(admin_keys=frozenset({ADMIN})) as (_, group):
        said = refusal(group)
    assert "HTTP 401" in said
    assert "DSPY_SERVE_ADMIN_KEY" in said
    assert "sk-right" not in said


def test_a_server_that_fails_itself_is_asked_again() -> None:
    failures = iter([failure(500), failure(503)])
    with server(faults=lambda body, n: next(failures, None) if "lora_path" in body else None) as (state, group):
        assert ladder(group).evaluate("tuned").score == 1.0
        assert len(state.calls("/v1/load_lora_adapter")) == 3
    with server(faults=lambda body, n: failure(500, "out of memory") if "lora_path" in body else None) as (_, group):
        said = refusal(group)
    assert "HTTP 500" in said
    assert "out of memory" in said
    assert "asked 3 times" in said


def test_what_a_failing_server_has_loaded_after_all_is_taken() -> None:
    with server() as (state, group):

        def fails_late(body: Body, number: int) -> Answer | None:
            if "lora_path" in body and not state.loaded[0]:
                state.loaded[0][body["lora_name"]] = body["lora_path"]
                return failure(504, "the gateway waited too long")
            return None

        state.faults = fails_late
        assert ladder(group).evaluate("tuned").score == 1.0


def test_a_name_that_is_taken_is_given_up_for_another() -> None:
    with server() as (state, group):

        def taken(body: Body, number: int) -> Answer | None:
            if "lora_path" in body and len(state.calls("/v1/load_lora_adapter")) == 1:
                state.loaded[0][body["lora_name"]] = "/somebody/elses"
            return None

        state.faults = taken
        assert ladder(group).evaluate("tuned").score == 1.0
    assert list(state.loaded[0].values()) == ["/somebody/elses"], "another's is not unloaded"


def test_a_key_does_not_follow_a_redirect() -> None:
    with serving(ModelServer) as elsewhere, server(redirect=f"{elsewhere.address}/models") as (_, group):
        said = refusal(group)
        assert f"redirects to {elsewhere.address}/models" in said
        assert elsewhere.spoken_to == []


def test_a_login_in_the_address_is_sent_and_not_shown() -> None:
    with serving(ModelServer, rule=rule(), keys=frozenset({"Basic bWU6cGFzcy13b3JkLTE="})) as state:
        address = state.address.replace("http://", "http://me:pass-word-1@")
        with Serving(address) as group:
            one = ladder(group)
            assert one.evaluate("tuned").score == 1.0
            assert "pass-word-1" not in group.address
        assert len(state.completions) == one.evaluate("tuned").n
    texts = [file.read_text("latin-1") for file in Path("store").rglob("*") if file.is_file()]
    assert not [text for text in texts if "pass-word-1" in text or "bWU6cGFzcy13b3JkLTE" in text]


@pytest.mark.parametrize(
    "address",
    ["http://", "ftp://x/v1", "http://h:port/v1", "http://u:long-secret@h:99999/v1", "http://h/v1?api_key=abcdefgh"],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ServingError) as caught:
        Serving(address)
    assert "server" in str(caught.value)
    assert "long-secret" not in str(caught.value)
    assert "abcdefgh" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_adapters_are_unloaded_when_a_session_is_interrupted(error: type[BaseException]) -> None:
    with serving(ModelServer, rule=rule()) as state:

        def session() -> None:
            with Serving(state.address) as group:
                ladder(group).evaluate("tuned")
                assert state.loaded != [{}]
                raise error

        with pytest.raises(error):
            session()
        assert state.loaded == [{}]
    assert list(Path("store/served").iterdir()) == []


def test_the_end_is_short_and_what_may_be_left_is_unloaded_by_the_next_session() -> None:
    with serving(ModelServer, rule=rule()) as state:
        with Serving(state.address) as group:
            ladder(group).evaluate("tuned")
            state.slow = 8.0
            started = time.monotonic()
        assert time.monotonic() - started < 7
        assert len(list(Path("store/served").glob("*.json"))) == 1
        state.slow = 0.0
        with Serving(state.address) as group:
            one = ladder(group)
            one.evaluate("tuned", on="test")
            assert any("a session that was killed had left" in text for text in one.record().cautions)
        assert state.loaded == [{}]
    assert list(Path("store/served").glob("*.json")) == []


def test_only_what_killed_sessions_left_is_unloaded() -> None:
    with serving(ModelServer, rule=rule()) as state:
        living, killed = LoadedAdapters(Store("store")), LoadedAdapters(Store("store"))
        living.note(state.address, "dspy-ft-living-1")
        killed.note(state.address, "dspy-ft-left-1")
        killed.note("http://another:1/v1", "dspy-ft-left-2")
        killed.note(state.address, "of-somebody")
        killed.close()  # as the system does with the lock of a killed process
        state.loaded[0].update(dict.fromkeys(["dspy-ft-living-1", "dspy-ft-left-1", "of-somebody"], "/x"))
        with Serving(state.address) as group:
            ladder(group).evaluate("tuned")
        assert set(state.loaded[0]) == {"dspy-ft-living-1", "of-somebody"}
        asked: list[str] = []
        LoadedAdapters(Store("store")).clear_left_behind("http://another:1/v1", lambda name: bool(asked.append(name)))
        assert asked == ["dspy-ft-left-2"], "what lies on another server is left for a session that uses that"
        living.close()


def test_the_longest_wait_for_an_answer_may_be_set() -> None:
    with serving(ModelServer, rule=rule()) as state:
        state.faults = lambda body, number: time.sleep(3) if "messages" in body else None  # type: ignore[func-returns-value]
        with Serving(state.address, timeout=0.5) as group:
            one = ladder(group)
            one.build("tuned")
            with pytest.raises(ServingError, match=r"does not answer within 0\.5 s"):
                one.evaluate("tuned")
