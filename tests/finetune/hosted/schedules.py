"""Random courses of events for a training service of any shape: faults, lags and kills, in virtual time.

A shape is a server in memory (:class:`Server`) and the adapter that reaches it. Its requests go through a
:class:`Network`, which loses, delays, repeats and spoils them; sessions are killed at any request. Whatever happens: no
second job is paid for, nothing is left running, nothing is lost::

    @pytest.mark.parametrize("first", range(0, SCHEDULES, 50))
    def test_random_schedules(tmp_path, first):
        for seed in range(first, first + 50):
            run_schedule(MyServer, seed, tmp_path / str(seed))
"""

from __future__ import annotations

import json
import random
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from pytest_dspy_ft.errors import DspyFtError, EndpointWarning
from pytest_dspy_ft.finetune.hosted.endpoints import Endpoints
from pytest_dspy_ft.finetune.hosted.job_request import JobRequest, make_request
from pytest_dspy_ft.finetune.hosted.job_runner import JobRunner
from pytest_dspy_ft.finetune.hosted.journal import Journal, TrainingJobContext
from pytest_dspy_ft.finetune.hosted.port import TrainingService
from pytest_dspy_ft.finetune.hosted.results import TrainedResult
from pytest_dspy_ft.finetune.hosted.retries import RetryingCaller
from pytest_dspy_ft.lms.patience import Backoff
from tests.finetune.hosted.world import Killed, VirtualClock

SCHEDULES = 200
KINDS = (
    "429",
    "500",
    "502",
    "504",
    "408",
    "failed",
    "lost",
    "drop",
    "half",
    "late",
    "late504",
    "garbage",
    "hollow",
    "null",
)
"""``failed``: carried out, then HTTP 500. ``lost``: neither carried out nor answered. ``drop``: carried out, not
answered. ``half``: carried out, half the answer. ``late``, ``late504``: carried out only after a while, not answered or
with HTTP 504 at once. ``garbage``, ``hollow``, ``null``: carried out, answered with bad JSON, ``{}``, or ``null``."""
ENDS = {"succeeded": "", "failed": "failed", "cancelled": "was cancelled there", "hangs": "goes on at"}
ROWS = [
    {"messages": [{"role": "user", "content": f"number {i}"}, {"role": "assistant", "content": "even"}]}
    for i in range(20)
]


class Time(VirtualClock):
    """Virtual time, also of the day; what is due happens while somebody sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[tuple[float, Callable[[], object]]] = []

    def today(self) -> float:
        return 1_800_000_000.0 + self.time

    def sleep(self, seconds: float, wake: threading.Event) -> None:
        end = self.time + seconds
        while self.due and (first := min(self.due, key=lambda due: due[0]))[0] <= end:
            self.due.remove(first)
            self.time = max(self.time, first[0])
            first[1]()
        self.time = end


@dataclass(frozen=True)
class Ask:
    """A request, as a server sees it."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


Answer = tuple[int, Any]
"""Status and content, as JSON."""


@dataclass
class Course:
    """One random course of events; ``Server`` reads from it how its jobs end and how long its lists lag."""

    seed: int
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = rng = random.Random(self.seed)
        self.end = rng.choices(list(ENDS), (7, 1, 1, 1))[0]
        self.rate = rng.choice((0.0, 0.1, 0.2, 0.35))
        self.kinds = rng.sample(KINDS, rng.randint(1, 6))
        self.list_lag = rng.choice((0.0, 0.0, 20.0, 120.0, 300.0))
        self.late = rng.choice((1.0, 8.0, 60.0, 200.0))
        self.looks = rng.randint(0, 5)
        """How often somebody looks at a job until it is over."""
        self.kills = [(rng.randint(0, 14), rng.random() < 0.5) for _ in range(rng.choice((0, 0, 1, 2, 4)))]

    def __str__(self) -> str:
        lags = f"lists lag {self.list_lag:g} s, late {self.late:g} s"
        return f"schedule {self.seed}: {self.end}, {self.kinds} at {self.rate}, {lags}, kills {self.kills}"


@dataclass(frozen=True)
class StartedJob:
    """A job as its server knows it."""

    id: str
    running: bool
    """It is waiting, or works, and costs or will cost."""
    paid: bool
    """It has cost something, or will: all that were neither refused nor cancelled before they worked."""
    model: str | None = None


class Server(Protocol):
    """A service in memory: made once for a course, asked by one adapter after the other."""

    def __init__(self, course: Course, clock: Time) -> None: ...

    def answer(self, ask: Ask) -> Answer:
        """Carry a request out."""
        ...

    def starts(self, ask: Ask) -> bool:
        """True for a request that starts what costs money: it meets twice the faults."""
        ...

    def service(self, network: Network) -> TrainingService:
        """The adapter of a new session, whose requests go through a network."""
        ...

    def jobs(self) -> list[StartedJob]:
        """All jobs that ever were started."""
        ...

    def endpoints(self) -> list[str]:
        """The endpoints that run now."""
        ...


class LostError(Exception):
    """A request that is not answered."""


class Network:
    """What lies between the adapter of one session and its server.

    Args:
        server: Carries requests out.
        course: Which faults come.
        clock: When.
        kill: At which request the session is killed, and whether only after it was answered; None: never.
        calm: No faults come.
    """

    def __init__(
        self, server: Server, course: Course, clock: Time, kill: tuple[int, bool] | None = None, *, calm: bool = False
    ) -> None:
        self._server, self._course, self._clock = server, course, clock
        self._kill, self._calm = kill, calm
        self._count = 0
        self._storm = 0

    def ask(self, ask: Ask) -> tuple[int, bytes, dict[str, str]]:
        """Status, content and headers of what comes back.

        Raises:
            LostError: Nothing does.
            Killed: The session has ended.
        """
        number, self._count = self._count, self._count + 1
        kill_at, after = self._kill or (None, False)
        if kill_at is not None and (number > kill_at or (number == kill_at and not after)):
            raise Killed
        reply = self._faulty(ask)
        if kill_at == number:
            raise Killed
        return reply

    def _faulty(self, ask: Ask) -> tuple[int, bytes, dict[str, str]]:
        kind = self._fault(ask)
        if kind == "429":
            return 429, _json({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}), {"Retry-After": "3"}
        if kind in ("500", "502", "504", "408"):
            return int(kind), _json({"error": {"message": "out of order"}}), {}
        if kind in ("late", "late504"):
            self._clock.due.append((self._clock.time + self._course.late, lambda: self._server.answer(ask)))
            if kind == "late":
                raise LostError
            return 504, b"<html>gateway timeout</html>", {}
        if kind == "lost":
            raise LostError
        status, content = self._server.answer(ask)
        match kind:
            case "drop":
                raise LostError
            case "failed":
                return 500, _json({"error": {"message": "out of order"}}), {}
            case "half" | "garbage":
                return status, _json(content)[:-9], {}
            case "hollow":
                return status, b"{}", {}
            case "null":
                return status, b"null", {}
        return status, _json(content), {}

    def _fault(self, ask: Ask) -> str | None:
        course = self._course
        if self._calm:
            return None
        if self._storm:
            self._storm -= 1
            return "429"
        if course.random.random() >= course.rate * (2 if self._server.starts(ask) else 1):
            return None
        kind = course.random.choice(course.kinds)
        if kind == "429":
            self._storm = course.random.choice((0, 1, 3, 6))
        return kind

    def transport(self, root: str = "") -> Any:
        """For clients that take an ``httpx.BaseTransport``; ``root`` is cut off the paths."""
        return _Transport(self, root)

    def client(self, root: str = "") -> httpx.Client:
        """For clients that take an ``httpx.Client``."""
        return httpx.Client(transport=self.transport(root))


class _Transport(httpx.BaseTransport):
    def __init__(self, network: Network, root: str) -> None:
        self._network, self._root = network, root

    def handle_request(self, request: Any) -> Any:
        path = request.url.path.removeprefix(self._root)
        ask = Ask(request.method, path, dict(request.url.params), dict(request.headers), request.read())
        try:
            status, content, headers = self._network.ask(ask)
        except LostError:
            raise httpx.ReadError("connection reset", request=request) from None
        return httpx.Response(status, content=content, headers=headers, request=request)


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


# --- sessions ---------------------------------------------------------------------------------------------------------


def order_of(service: TrainingService, folder: Path, session: str, settings: Mapping[str, Any]) -> JobRequest:
    """A request for a job, as a stage makes it."""
    context = TrainingJobContext("numbers", "finetuned", "5f" * 16, Journal(folder / "jobs", session), timeout=3000)
    return make_request(ROWS, service.settings(settings), model="a-model", address=service.address, context=context)


def one_session(
    network: Network, server: Server, clock: Time, folder: Path, session: str, settings: Mapping[str, Any]
) -> TrainedResult:
    """One session: the job, and where a result is served by the hour, its endpoint for the length of an evaluation."""
    service = server.service(network)
    endpoints = Endpoints(folder / "endpoints", clock=clock, services=lambda lm, kwargs: server.service(network))
    try:
        endpoints.release_left([None])
        call = RetryingCaller(service, clock, random.Random(session), threading.Event(), Backoff(rounds=9, first=1.0))
        order = order_of(service, folder, session, settings)
        runner = JobRunner(call, order, collection=1, before_paying=lambda: None)
        entry = runner.run()
        result = runner.result(entry, order.settings.deployment_settings)
        if result.endpoint is not None:
            with endpoints.use(None, result.endpoint):
                clock.sleep(60.0, threading.Event())
        endpoints.close()
    except Killed:
        abandon(endpoints)
        raise
    except DspyFtError:
        endpoints.close()
        raise
    return result


def abandon(endpoints: Endpoints) -> None:
    """What the system does for a process that is killed: its locks are free."""
    for held in endpoints._held.values():
        held.lock.release()
    endpoints._held.clear()


def run_schedule(
    make: Callable[[Course, Time], Server], seed: int, folder: Path, settings: Mapping[str, Any] | None = None
) -> Server:
    """Run one course of events, and check what must hold whatever happens.

    Args:
        make: Makes the server.
        seed: Tells courses apart.
        folder: Where sessions write what they know.
        settings: ``train_kwargs``.
    """
    course, clock = Course(seed), Time()
    server = make(course, clock)
    outcome: TrainedResult | DspyFtError | None = None
    for number, kill in enumerate([*course.kills, None, None]):
        calm = number > len(course.kills)  # whatever happened, it finds what is there
        if calm:  # the next day
            clock.sleep(90_000.0, threading.Event())
        network = Network(server, course, clock, kill, calm=calm)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EndpointWarning)
            try:
                outcome = one_session(network, server, clock, folder, f"session-{number}", settings or {})
            except Killed:
                continue
            except DspyFtError as error:
                outcome = error
        paid = [job for job in server.jobs() if job.paid]
        assert len(paid) <= 1, f"{course}: {paid}"
    jobs = server.jobs()
    paid = [job for job in jobs if job.paid]
    assert len(paid) == 1, f"{course}: {jobs}; {outcome}"
    running = [job.id for job in jobs if job.running]
    assert running == ([paid[0].id] if course.end == "hangs" else []), f"{course}: {running}"
    assert server.endpoints() == [], f"{course}: an endpoint is left"
    if course.end == "succeeded":
        assert isinstance(outcome, TrainedResult), f"{course}: {outcome}"
        assert paid[0].model is not None
        assert outcome.model.endswith(paid[0].model) or outcome.endpoint is not None, f"{course}: {outcome}"
    else:
        assert isinstance(outcome, DspyFtError), f"{course}: {outcome}"
        assert ENDS[course.end] in str(outcome), f"{course}: {outcome}"
    return server
