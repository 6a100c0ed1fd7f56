"""What pytest-xdist adds: workers, and workers that crash. Registered only where xdist is.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_dspy_ft.plugin.collected import Survey
from pytest_dspy_ft.plugin.session import is_worker, session_of

SURVEY = "dspy_ft_survey"


class XdistHooks:
    """Hooks of the controller."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """A worker that went down with an error took unreported results with it."""
        if error:
            session_of(self._config).incomplete.append(
                f"worker {node.gateway.id} crashed; what it did not report is missing above"
            )
        sent = getattr(node, "workeroutput", {}).get(SURVEY)  # a crashed worker has none
        if sent is not None:
            session_of(self._config).survey = Survey.from_json(sent)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """When all workers are done, compare what they measured with the baseline."""
        outcome = yield
        from pytest_dspy_ft.plugin.compare import report_apart

        report_apart(self._config, session)
        return outcome


def send_survey(config: pytest.Config) -> None:
    """Where this is a worker, let the controller know what was collected."""
    if is_worker(config):
        config.workeroutput[SURVEY] = session_of(config).survey.to_json()  # type: ignore[attr-defined]


def session_identity(config: pytest.Config) -> str | None:
    """What all processes of one xdist session call it; None without xdist."""
    if is_worker(config):
        return str(config.workerinput["testrunuid"])  # type: ignore[attr-defined]
    return None


def stay_in_this_process(config: pytest.Config) -> None:
    """Let xdist, where it is there, start no worker."""
    if hasattr(config.option, "numprocesses"):
        config.option.numprocesses, config.option.dist, config.option.tx = None, "no", []
