"""What pytest-xdist adds: workers, and workers that crash. Registered only where xdist is.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from typing import Any

import pytest

from pytest_dspy_ft.plugin.collected import receive_collected
from pytest_dspy_ft.plugin.compare import judge_in_controller
from pytest_dspy_ft.plugin.compat import signal_worker
from pytest_dspy_ft.plugin.progress import progress_of
from pytest_dspy_ft.plugin.session import session_of

_LAST_SECONDS = 4.0
"""After Ctrl-C workers have so long: answers that arrive meanwhile are in the store by then."""


class XdistHooks:
    """Hooks of the controller."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._workers: list[Any] = []

    def pytest_configure_node(self, node: Any) -> None:
        """A worker is about to start: what it does is shown here."""
        progress_of(self._config).listen_to(node, node.gateway.id)

    def pytest_testnodeready(self, node: Any) -> None:
        """A worker is there."""
        self._workers.append(node)

    def pytest_keyboard_interrupt(self) -> None:
        """Tell workers of a Ctrl-C that only this process was sent, and end them soon: xdist waits ten seconds."""
        self._signal_workers(signal.SIGINT)
        last = threading.Timer(_LAST_SECONDS, self._signal_workers, [signal.SIGTERM])
        last.daemon = True
        last.start()

    def _signal_workers(self, number: signal.Signals) -> None:
        for node in self._workers:
            signal_worker(node, number)

    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """A worker that went down with an error took unreported results with it."""
        progress_of(self._config).forget(node.gateway.id)
        if error:
            session_of(self._config).records.note_incomplete(
                f"worker {node.gateway.id} crashed; what it did not report is missing above"
            )
        receive_collected(self._config, node)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """When all workers are done, compare what they measured with the baseline."""
        outcome = yield
        judge_in_controller(session)
        return outcome
