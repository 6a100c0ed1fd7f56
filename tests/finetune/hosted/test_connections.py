"""Connections that fail, by the client's own classes, whichever library it stands on."""

from __future__ import annotations

import socket
from pathlib import Path

import dspy
import openai
import pytest

from pytest_dspy_ft.errors import BuildError
from pytest_dspy_ft.finetune.hosted.openai_api.service import OpenAIService
from tests.finetune.hosted.http_faults import Fault
from tests.finetune.hosted.server import serving
from tests.finetune.hosted.world import VirtualClock, build, hosted_lm


def meaning_at(address: str) -> str | None:
    """The meaning of what the client raises, with connections of its own."""
    service = OpenAIService(dspy.LM("openai/m", api_base=address, api_key="sk-planted-1234567890", timeout=2))
    try:
        with pytest.raises(openai.OpenAIError) as caught:
            service.job("job-1")
        return service.meaning(caught.value)
    finally:
        service.close()


def test_a_refused_connection_was_never_made() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert meaning_at(address) == "not_done"


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        (Fault("lost"), "in_flight"),
        (Fault("drop"), "in_flight"),
        (Fault("half"), "in_flight"),
        (Fault("status", 502), "in_flight"),
        (Fault("status", 408), "in_flight"),
        (Fault("status", 429), "not_done"),
        (Fault("status", 400), "final"),
        (Fault("status", 501), "final"),
    ],
)
def test_a_broken_connection_and_a_gateway_that_gave_up_may_have_been_carried_out(fault: Fault, meaning: str) -> None:
    with serving(faults=lambda call: fault) as service:
        assert meaning_at(service.address) == meaning


def test_a_service_that_nobody_listens_at_is_found_before_anything_is_started(tmp_path: Path) -> None:
    clock = VirtualClock()
    with serving() as service:
        lm = hosted_lm(None, clock=clock, api_base="http://127.0.0.1:9/v1", api_key="k", tries=3)
        with pytest.raises(
            BuildError, match=r"nobody listens at 127\.0\.0\.1:9, where openai/gpt-4o-mini is to answer"
        ):
            build(tmp_path / "store", lm)
        assert sum(clock.slept) < 60
        assert not service.calls
