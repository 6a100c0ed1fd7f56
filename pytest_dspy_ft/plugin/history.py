"""The history of a store: a whole session adds to it, reports show it.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.plugin.collected import collected_tests
from pytest_dspy_ft.plugin.session import session_of
from pytest_dspy_ft.plugin.whole import WholeSession

if TYPE_CHECKING:
    from pytest_dspy_ft.plugin.options import Options
    from pytest_dspy_ft.records.history import HistoryPoint


class HistoryKeeper:
    """Hooks that add a whole session to the history; registered in the process the user looks at.

    Args:
        config: Of the session.
        whole: Knows why a session is not the whole.
    """

    def __init__(self, config: pytest.Config, whole: WholeSession) -> None:
        self._config = config
        self._session = session_of(config)
        self._whole = whole
        self._problem = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Add what this session measured or loaded; first, so that the reports show it.

        Stages beyond the reach of ``--dspy-stage`` do not matter here: each point is a stage's own.
        """
        if not self._session.in_use or self._session.options.instead:
            return
        collected = collected_tests(self._config)
        self._session.records.note_commit(collected.commit, collected.dirty)
        if self._session.options.frozen:
            return
        run = self._session.records.run()
        if any(self._whole.reasons(session, run, exitstatus, beyond_reach=False)):
            return
        from pytest_dspy_ft.records.history import history_of
        from pytest_dspy_ft.store.folder import StoreFolder
        from pytest_dspy_ft.store.history import History

        try:
            History(StoreFolder(self._session.options.store)).append(history_of(run))
        except StoreError as problem:
            self._problem = str(problem)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say so where the history could not be kept."""
        if self._problem:
            terminalreporter.write_line(f"no history was kept of this session: {self._problem}", yellow=True)


def known_history(options: Options) -> Sequence[HistoryPoint]:
    """The history that reports show: none where no page is asked for, or where it cannot be read."""
    if not any(path.suffix.lower() == ".html" for path in options.reports):
        return ()
    from pytest_dspy_ft.store.folder import StoreFolder
    from pytest_dspy_ft.store.history import History

    try:
        return History(StoreFolder(options.store, read_only=True)).read().points
    except (OSError, StoreError):
        return ()
