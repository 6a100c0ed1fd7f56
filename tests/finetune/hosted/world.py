"""An experiment whose fine-tuned stage is trained by the service on the loopback, in virtual time."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import dspy
import httpx

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Ladder, Stage
from pytest_dspy_ft.finetune.hosted.provider import HostedProvider
from pytest_dspy_ft.finetune.hosted.retries import Clock
from pytest_dspy_ft.lms.patience import Backoff
from tests.finetune.hosted.http_faults import KEY
from tests.finetune.hosted.server import FineTuningService
from tests.scripted import CHAT, numbers

CONNECTIONS: list[httpx.Client] = []
"""Closed at the end of each test."""


def close_connections() -> None:
    while CONNECTIONS:
        CONNECTIONS.pop().close()


class VirtualClock(Clock):
    """Time that passes only where somebody sleeps; what is slept is noted."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float, wake: threading.Event) -> None:
        self.slept.append(seconds)
        self.time += seconds


class Killed(BaseException):
    """A session that ends in the middle of a request; nothing may handle it."""


class KillingTransport(httpx.HTTPTransport):
    """Connections of a session that is killed at its n-th request, before it is sent or after its reply has come."""

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        super().__init__(verify=False)  # plain HTTP: certificates take 20 ms to load
        self._left, self._after = at, after
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            now = self._left == 0
            if self._left is not None:
                self._left -= 1
        if now and not self._after:
            raise Killed
        response = super().handle_request(request)
        if now:
            response.read()
            response.close()
            raise Killed
        return response


def hosted_lm(
    service: FineTuningService | None,
    *,
    model: str = "openai/gpt-4o-mini",
    kill_at: int | None = None,
    kill_after: bool = False,
    clock: VirtualClock | None = None,
    seed: int = 0,
    tries: int = 10,
    **settings: Any,
) -> Any:
    """An LM as a user writes it, but for a provider in virtual time."""
    http_client = httpx.Client(transport=KillingTransport(kill_at, after=kill_after))
    provider = HostedProvider(
        clock=clock or VirtualClock(),
        jitter=random.Random(seed),
        backoff=Backoff(rounds=tries - 1, first=1.0),
        http_client=http_client,
    )
    CONNECTIONS.append(http_client)
    if service is not None:
        settings = {"api_base": service.address, "api_key": KEY, **settings}
    return dspy.LM(model, provider=provider, cache=False, **settings)


def make_experiment(lm: Any, *, count: int = 20, **settings: Any) -> Experiment:
    """One stage, trained on the labels: no LM is called while it is built."""
    return Experiment(
        "numbers",
        program=settings.pop("program", None) or dspy.Predict("text -> label"),
        dataset=Dataset.from_examples(numbers(count)),
        metric=right,
        lm=lm,
        adapter=CHAT,
        stages=settings.pop("stages", None) or [Stage("finetuned", LabeledFinetune(metric=right, **settings))],
    )


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def build(store: Path, lm: Any, *, ladder: dict[str, Any] | None = None, **settings: Any) -> Any:
    """One session's build of the stage."""
    return Ladder(make_experiment(lm, **settings), store, **(ladder or {})).build("finetuned")
