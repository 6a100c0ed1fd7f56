"""Endpoints that cost by the hour: started when a trained model is called, released when it is not, whatever happens.

Each is written down, below ``endpoints/`` of the store, before it is asked for, under a name that we choose, and its
file is locked while a process uses it. So the endpoint of a session that was killed is found by the next one: its file
is there, and nobody holds the lock.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dspy.lm15 import Request, Response
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from pytest_dspy_ft.errors import DspyFtError, EndpointWarning, HostedError, ServingError
from pytest_dspy_ft.files import write_json_atomically
from pytest_dspy_ft.finetune.hosted.port import Deployment, NotServedYet, RemoteJob, Served, TrainingService
from pytest_dspy_ft.finetune.hosted.registry import service_for
from pytest_dspy_ft.finetune.hosted.results import opened
from pytest_dspy_ft.finetune.hosted.retries import Clock, RetryingCaller
from pytest_dspy_ft.insides.engines import engine_at
from pytest_dspy_ft.lms.patience import Backoff
from pytest_dspy_ft.text import duration
from pytest_dspy_ft.tracebacks import warn

IDLE_SECONDS = 120.0
"""An endpoint that was not called for so long is released; it is started again with the next call."""
CALL_SECONDS = 300.0
"""For one call of a served model, where the LM has no ``timeout`` of its own."""
SETTLE_SECONDS = 900.0
"""An endpoint that was asked for may still come up for so long; until then its file stays."""
DOUBTFUL = "doubtful"
"""A request for it failed that may be carried out after all."""
PATIENCE = Backoff(rounds=4, first=1.0, longest=15.0)
FIRST_WAIT, LONGEST_WAIT, WAIT_GROWTH = 2.0, 20.0, 1.5
CONCURRENCY = 16


@dataclass
class Held:
    """An endpoint that this process uses."""

    path: Path
    name: str
    service: TrainingService
    lock: BaseFileLock
    facts: dict[str, Any]
    """As they are written down."""
    served: Served | None = None
    calls: int = 0
    last: float = field(default=0.0)


class Endpoints:
    """The endpoints of one store, in this process.

    Args:
        folder: Where they are written down.
        clock: Time, for tests.
        idle_seconds: How long an endpoint is kept that is not called.
        services: Gives the service that trained an LM, as :func:`service_for` does.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        idle_seconds: float = IDLE_SECONDS,
        services: Callable[[Any, Mapping[str, Any] | None], TrainingService | None] = service_for,
    ) -> None:
        self._folder = folder
        self._services = services
        self._clock = clock or Clock()
        self._idle_seconds = idle_seconds
        self._held: dict[str, Held] = {}
        self._lock = threading.RLock()
        self._wake = threading.Event()
        """Ends the watch."""
        self._stop = threading.Event()
        """Ends the wait for an endpoint that is starting."""
        self._watch: threading.Thread | None = None

    # --- using one ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def use(self, lm: Any, endpoint: Mapping[str, Any]) -> Iterator[Served]:
        """What is served, for the length of a call; it is started where it is not there.

        Args:
            lm: The LM that was trained: its key counts.
            endpoint: What is served, as it is kept with the build.

        Raises:
            HostedError: If it does not come up.
        """
        held = self._begin(lm, endpoint)
        try:
            assert held.served is not None
            yield held.served
        finally:
            with self._lock:
                held.calls -= 1
                held.last = self._clock.now()

    def _begin(self, lm: Any, endpoint: Mapping[str, Any]) -> Held:
        with self._lock:
            key = str(endpoint["name"])
            if key not in self._held:
                self._held[key] = self._started(lm, endpoint)
                self._keep_watch()
            self._held[key].calls += 1
            return self._held[key]

    def _started(self, lm: Any, endpoint: Mapping[str, Any]) -> Held:
        """Write an endpoint down, then ask for it, until it answers; whatever happens on the way, it is released."""
        service = self._services(lm, {"service": endpoint["service"]})
        if service is None:
            raise HostedError(f"no service {endpoint['service']!r} is known, which is to serve {endpoint['model']}")
        service.require_key()
        name = f"{endpoint['name']}-{uuid.uuid4().hex[:8]}"  # of our own: other sessions may evaluate it, too
        path = self._folder / f"{name}.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        facts = {"name": name, "service": service.name, "address": service.address, "model": endpoint["model"]}
        held = Held(path, name, service, _lock_of(path), {**facts, "asked": time.time(), DOUBTFUL: False})
        write_json_atomically(path, held.facts)
        try:
            held.served = self._until_served(held, endpoint)
        except BaseException:
            self._release(held)
            raise
        held.last = self._clock.now()
        return held

    def _until_served(self, held: Held, endpoint: Mapping[str, Any]) -> Served:
        job = RemoteJob(str(endpoint["job"]), "succeeded", model=str(endpoint["model"]))
        deployment = Deployment(held.name, dict(endpoint.get("settings") or {}))
        call, began, pause = self._caller(held.service, self._stop), self._clock.now(), FIRST_WAIT
        while True:
            try:
                served = call(f"starting an endpoint for {job.model}", lambda: self._asked_for(held, job, deployment))
                return replace(served, release=served.release or held.name)
            except NotServedYet as wait:
                if self._clock.now() - began >= wait.patience:
                    raise HostedError(
                        f"the endpoint {held.name} for {job.model} at {held.service.address} does not answer after "
                        f"{duration(wait.patience)}, and was released: {wait}; run again later"
                    ) from None
            call.pause(pause)
            pause = min(pause * WAIT_GROWTH, LONGEST_WAIT)

    def _asked_for(self, held: Held, job: RemoteJob, deployment: Deployment) -> Served:
        try:
            return held.service.serve(job, deployment)
        except Exception as error:
            meaning = self._caller(held.service, self._stop).meaning(error)
            if meaning in ("unknown", "in_flight") and not held.facts[DOUBTFUL]:
                held.facts[DOUBTFUL] = True  # it may be carried out after all, and after it was released
                write_json_atomically(held.path, held.facts)
            raise

    def _caller(self, service: TrainingService, stop: threading.Event) -> RetryingCaller:
        return RetryingCaller(service, self._clock, random.Random(), stop, PATIENCE)

    # --- releasing ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release whatever this process holds."""
        self._stop.set()
        with self._lock:
            held, self._held = list(self._held.values()), {}
            self._wake.set()
            self._stop = threading.Event()
        for one in held:
            self._release(one)

    def release_idle(self) -> None:
        """Release what was not called for a while."""
        with self._lock:
            now = self._clock.now()
            idle = [k for k, h in self._held.items() if not h.calls and now - h.last >= self._idle_seconds]
            for key in idle:
                self._release(self._held.pop(key))

    def release_left(self, lms: Iterable[Any]) -> None:
        """Release what sessions that were killed left running.

        Args:
            lms: LMs with the keys of the services that may serve it.
        """
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(Timeout, OSError):
                lock = _lock_of(path)  # somebody uses it, where that fails
                try:
                    self._release_one_left(path, lock, lms)
                finally:
                    lock.release()

    def _release_one_left(self, path: Path, lock: BaseFileLock, lms: Iterable[Any]) -> None:
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            name, wanted = str(facts["name"]), (facts["service"], facts["address"])
        except (OSError, ValueError, KeyError, TypeError):
            name, wanted, facts = path.stem, ("", ""), {}
        for service in self._services_of(lms, wanted[0]):
            if (service.name, service.address) == wanted:
                self._release(Held(path, name, service, lock, facts))
                return
        warn(
            f"a session that was killed may have left the endpoint {name} running at {wanted[1] or 'a service'}, and "
            f"no LM here has its key: stop it there, then delete {path}",
            EndpointWarning,
        )

    def _services_of(self, lms: Iterable[Any], name: str) -> Iterator[TrainingService]:
        """The services of this name that LMs have keys for, by their own address, or where the name is given."""
        for lm in lms:
            with contextlib.suppress(DspyFtError):
                if (service := self._services(lm, {"service": name} if name else None)) is not None:
                    service.require_key()
                    yield service

    def _release(self, held: Held) -> None:
        """Release one; its file stays where it is not certain that nothing runs."""
        handle = held.served.release if held.served is not None else held.name
        call = self._caller(held.service, threading.Event())
        try:
            found = call(f"releasing endpoint {held.name}", lambda: held.service.release(Served("", release=handle)))
        except Exception as error:
            warn(
                f"the endpoint {held.name} at {held.service.address} may still run, and cost: {error}; the next "
                "session with this store releases it",
                EndpointWarning,
            )
        else:
            settled = time.time() - float(held.facts.get("asked") or 0.0) >= SETTLE_SECONDS
            certain = (found or held.served is not None) and not held.facts.get(DOUBTFUL)
            if certain or settled:
                held.path.unlink(missing_ok=True)
        finally:
            held.lock.release()
            if not held.path.exists():  # no other process will ever want this name
                Path(held.lock.lock_file).unlink(missing_ok=True)
            held.service.close()

    def _keep_watch(self) -> None:
        """Have idle endpoints released, also where nobody calls anything any more."""
        if self._watch is None or not self._watch.is_alive():
            self._wake = threading.Event()
            self._watch = threading.Thread(target=self._watching, args=(self._wake,), daemon=True)
            self._watch.start()
            atexit.unregister(self.close)
            atexit.register(self.close)

    def _watching(self, wake: threading.Event) -> None:
        while not wake.wait(min(5.0, self._idle_seconds / 4)):
            self.release_idle()
            if not self._held:
                return


class EndpointEngine:
    """An engine for ``dspy.LM`` that asks a model which is served while it is asked.

    Args:
        lm: The LM that was trained: its key counts.
        endpoint: What is served.
        endpoints: Starts it; None: it is not to be asked.
    """

    preferred_concurrency = CONCURRENCY

    def __init__(self, lm: Any, endpoint: Mapping[str, Any], endpoints: Endpoints | None) -> None:
        self._lm, self._endpoint, self._endpoints = lm, dict(endpoint), endpoints
        self._engines: dict[str, tuple[str, Any]] = {}
        self._lock = threading.Lock()

    def complete(self, request: Request) -> Response:
        """Answer one request."""
        with self.answering() as served:
            name, engine = self._engine(served)
            response: Response = engine.complete(replace(request, model=name))
            return replace(response, model=request.model)

    @contextlib.contextmanager
    def answering(self) -> Iterator[Served]:
        """The block in which it answers; it is started where it is not there.

        Raises:
            ServingError: If it does not come up.
        """
        if self._endpoints is None:
            raise ServingError(f"{self._endpoint['model']} is called within a Ladder, which starts its endpoint")
        try:
            using = self._endpoints.use(self._lm, self._endpoint)
            served = using.__enter__()
        except DspyFtError as error:
            raise ServingError(str(error)) from None
        with contextlib.ExitStack() as stack:
            stack.push(using)
            yield served

    def _engine(self, served: Served) -> tuple[str, Any]:
        with self._lock:
            if served.model not in self._engines:
                self._close()
                settings = opened(served)
                name = str(settings["model"])
                given = {k: settings.get(k) or self._lm.kwargs.get(k) for k in ("api_key", "api_base", "timeout")}
                engine = engine_at(name, given["api_base"], given["api_key"], given["timeout"] or CALL_SECONDS)
                self._engines[served.model] = name, engine
            return self._engines[served.model]

    def identity(self) -> dict[str, str]:
        """Which service answers, and by which model; not by which endpoint."""
        return {name: str(self._endpoint[name]) for name in ("service", "address", "model")}

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        for _, engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> EndpointEngine:
        return self


def _lock_of(path: Path) -> BaseFileLock:
    """The lock of an endpoint's file, held.

    Raises:
        Timeout: Somebody holds it.
    """
    lock: BaseFileLock = FileLock(path.with_suffix(".lock"), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise
    except OSError:  # a file system without locks
        lock = SoftFileLock(path.with_suffix(".held"), thread_local=False)
        lock.acquire(timeout=0)
    return lock
