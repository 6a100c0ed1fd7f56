"""What pytest-xdist adds: workers, and workers that crash. Registered only where xdist is.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_dspy_ft.plugin.collected import receive_collected
from pytest_dspy_ft.plugin.compare import judge_in_controller
from pytest_dspy_ft.plugin.compat import interrupt_worker
from pytest_dspy_ft.plugin.session import session_of


class XdistHooks:
    """Hooks of the controller."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._workers: list[Any] = []

    def pytest_testnodeready(self, node: Any) -> None:
        """A worker is there."""
        self._workers.append(node)

    def pytest_keyboard_interrupt(self) -> None:
        """Tell workers of a Ctrl-C that only this process was sent: xdist itself waits ten seconds for each."""
        for node in self._workers:
            interrupt_worker(node)

    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """A worker that went down with an error took unreported results with it."""
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
